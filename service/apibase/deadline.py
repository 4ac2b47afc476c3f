"""The time that the inbound call in hand still has; outbound calls inherit it."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextvars import ContextVar, Token

At = float | Callable[[], float | None] | None
"""When a call's time is over, on the monotonic clock; or what says how many seconds it has left; None for never."""


class _Deadline:
    """The current call's deadline; none outside of a call or where the caller set none."""

    def __init__(self) -> None:
        self._at: ContextVar[At] = ContextVar("deadline", default=None)

    def set_remaining(self, seconds: float | None) -> Token[At]:
        """Begin a call that has `seconds` left, or no deadline."""
        return self._at.set(None if seconds is None else time.monotonic() + seconds)

    def follow(self, remaining: Callable[[], float | None]) -> Token[At]:
        """Begin a call that can say itself how many seconds it has left: most are never asked."""
        return self._at.set(remaining)

    def reset(self, token: Token[At]) -> None:
        """End the call."""
        self._at.reset(token)

    def bound(self, seconds: float | None) -> float | None:
        """Return `seconds`, or what is left of the current call where that is less."""
        at = self._at.get()
        remaining = at() if callable(at) else at - time.monotonic() if at is not None else None
        if remaining is None:
            return seconds
        left = max(remaining, 0.0)
        return left if seconds is None else min(seconds, left)


deadline = _Deadline()
