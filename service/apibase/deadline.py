"""The time that the inbound call in hand still has; outbound calls inherit it."""

from __future__ import annotations

import time
from contextvars import ContextVar, Token


class _Deadline:
    """The current call's deadline on the monotonic clock; none outside of a call or where the caller set none."""

    def __init__(self) -> None:
        self._at: ContextVar[float | None] = ContextVar("deadline", default=None)

    def set_remaining(self, seconds: float | None) -> Token[float | None]:
        """Begin a call that has `seconds` left, or no deadline."""
        return self._at.set(None if seconds is None else time.monotonic() + seconds)

    def reset(self, token: Token[float | None]) -> None:
        """End the call."""
        self._at.reset(token)

    def bound(self, seconds: float | None) -> float | None:
        """Return `seconds`, or what is left of the current call where that is less."""
        at = self._at.get()
        if at is None:
            return seconds
        left = max(at - time.monotonic(), 0.0)
        return left if seconds is None else min(seconds, left)


deadline = _Deadline()
