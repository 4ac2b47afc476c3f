"""The time that the inbound call in hand still has; outbound calls inherit it."""

from __future__ import annotations

import time
from contextvars import ContextVar, Token
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class Budget:
    """The time of a call, asked for when it is needed. When the call is over there is no deadline: what goes on then is not its."""

    __slots__ = ("_ask",)

    def __init__(self, ask: Callable[[], float | None]) -> None:
        self._ask: Callable[[], float | None] | None = ask

    def remaining(self) -> float | None:
        """Return the seconds that are left, or None where there is no deadline."""
        return self._ask() if self._ask is not None else None

    def end(self) -> None:
        """Note that the call is over."""
        self._ask = None


At = float | Budget | None
"""When a call's time is over, on the monotonic clock; or what can say how much there is; None for never."""


class _Deadline:
    """The current call's deadline; none outside of a call or where the caller set none."""

    def __init__(self) -> None:
        self._at: ContextVar[At] = ContextVar("deadline", default=None)

    def set_remaining(self, seconds: float | None) -> Token[At]:
        """Begin a call that has `seconds` left, or no deadline."""
        return self._at.set(None if seconds is None else time.monotonic() + seconds)

    def follow(self, budget: Budget) -> Token[At]:
        """Begin a call that can say itself how much time it has left."""
        return self._at.set(budget)

    def reset(self, token: Token[At]) -> None:
        """End the call."""
        self._at.reset(token)

    def bound(self, seconds: float | None) -> float | None:
        """Return `seconds`, or what is left of the current call where that is less."""
        at = self._at.get()
        remaining = at.remaining() if isinstance(at, Budget) else at - time.monotonic() if at is not None else None
        if remaining is None:
            return seconds
        left = max(remaining, 0.0)
        return left if seconds is None else min(seconds, left)


deadline = _Deadline()
