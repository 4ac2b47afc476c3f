"""Second tries of the hop to the sidecar, where they are safe: with jitter, within the caller's time, and within a budget.

Only a sidecar that can't be reached is tried again. What a component or another app answers is Dapr's resiliency policies' business: a
second try here would multiply theirs.
"""

from __future__ import annotations

import asyncio
import random
import time
from typing import TYPE_CHECKING, TypeVar

from apibase.deadline import deadline
from apibase.errors import SidecarUnavailable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

T = TypeVar("T")

_FIRST_PAUSE_SECONDS = 0.05
_LONGEST_PAUSE_SECONDS = 0.5
_TOKENS = 100.0
_EARNED = 0.1


class RetryBudget:
    """How many second tries are left: each costs one, each call that is answered earns a tenth of one, and there are 100 at most.

    So a sidecar that is away for long, or that is overloaded, gets at most a tenth more calls than it would without any.
    """

    def __init__(self, tokens: float = _TOKENS) -> None:
        self._most = tokens
        self.tokens = tokens

    def earn(self) -> None:
        """Count a call that was answered."""
        if self.tokens < self._most:
            self.tokens = min(self.tokens + _EARNED, self._most)

    def spend(self) -> bool:
        """Take what a second try costs; False where there is not as much left."""
        if self.tokens < 1:
            return False
        self.tokens -= 1
        return True


async def again(
    call: Callable[[], Awaitable[T]], error: SidecarUnavailable, *, began: float, within: float, budget: RetryBudget
) -> T:
    """Try a call again that failed with `error`, until it is answered or its time is over.

    `began` is when its first try did, on the monotonic clock; all of them together have `within` seconds, or what is left of the
    inbound call's time. Raises the last `SidecarUnavailable` when that, or the budget, is used up.
    """
    pause = _FIRST_PAUSE_SECONDS
    while True:
        left = deadline.bound(began + within - time.monotonic()) or 0.0
        wait = random.uniform(pause / 2, pause)  # noqa: S311 - so that many callers don't come back at one instant
        if left <= wait or not budget.spend():
            raise error
        await asyncio.sleep(wait)
        token = deadline.set_remaining(left - wait)
        try:
            return await call()
        except SidecarUnavailable as last:
            error = last
        finally:
            deadline.reset(token)
        pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)
