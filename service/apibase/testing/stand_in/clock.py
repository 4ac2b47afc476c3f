"""The clock of the stand-in: what expires, repeats or is due later follows it. A test moves it."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from apibase.testing.stand_in.work import Work

_START = datetime(2030, 1, 1, tzinfo=UTC)
"""Where a clock stands that only moves when it is told to."""


class Timer:
    """Something that is due at a time of the clock."""

    def __init__(self, due: float, action: Callable[[], Awaitable[None]]) -> None:
        self.due = due
        self.action = action
        self.cancelled = False

    def cancel(self) -> None:
        """Let it not happen."""
        self.cancelled = True


class Clock:
    """The time of the stand-in.

    One that `runs` goes as real time does; the other stands still until `advance`, so that nothing happens by itself. Both
    can be moved forward.
    """

    def __init__(self, work: Work, *, runs: bool) -> None:
        self._work = work
        self._runs = runs
        self._ahead = 0.0
        self._stands_at = _START.timestamp()
        self._timers: list[tuple[float, int, Timer]] = []
        self._numbers = itertools.count()
        self._alarm: asyncio.TimerHandle | None = None

    @property
    def runs(self) -> bool:
        """Whether it moves by itself."""
        return self._runs

    @property
    def seconds(self) -> float:
        """Seconds since 1970."""
        return time.time() + self._ahead if self._runs else self._stands_at

    @property
    def now(self) -> datetime:
        """The time, in UTC."""
        return datetime.fromtimestamp(self.seconds, UTC)

    def call_at(self, due: float, action: Callable[[], Awaitable[None]]) -> Timer:
        """Have something done at a time, or at once where that has passed."""
        timer = Timer(due, action)
        heapq.heappush(self._timers, (due, next(self._numbers), timer))
        self._set_alarm()
        return timer

    def call_later(self, seconds: float, action: Callable[[], Awaitable[None]]) -> Timer:
        """Have something done after some seconds of this clock."""
        return self.call_at(self.seconds + seconds, action)

    async def sleep(self, seconds: float) -> None:
        """Wait for some seconds of this clock; work that does so is idle meanwhile."""
        woken = asyncio.get_running_loop().create_future()
        task = asyncio.current_task()

        async def wake() -> None:
            if not woken.done():
                self._work.resume(task)
                woken.set_result(None)

        timer = self.call_later(seconds, wake)
        self._work.pause(task)
        try:
            await woken
        finally:
            timer.cancel()
            self._work.resume(task)

    async def advance(self, by: float | timedelta) -> None:
        """Move the clock forward by seconds, and do what falls due, in order, each with all that comes of it."""
        target = self.seconds + (by.total_seconds() if isinstance(by, timedelta) else by)
        await self._work.idle()
        while (timer := self._next(target)) is not None:
            self._move_to(max(timer.due, self.seconds))
            self._work.start(timer.action())
            await self._work.idle()
        self._move_to(target)
        self._set_alarm()

    async def run_due(self) -> None:
        """Do what is due now, with all that comes of it."""
        await self.advance(0)

    def close(self) -> None:
        """Let nothing more happen."""
        self._timers.clear()
        if self._alarm is not None:
            self._alarm.cancel()

    def _move_to(self, moment: float) -> None:
        if self._runs:
            self._ahead += max(moment - self.seconds, 0.0)
        else:
            self._stands_at = max(moment, self._stands_at)

    def _next(self, until: float) -> Timer | None:
        while self._timers and self._timers[0][0] <= until:
            timer = heapq.heappop(self._timers)[2]
            if not timer.cancelled:
                return timer
        return None

    def _set_alarm(self) -> None:
        if not self._runs:
            return
        if self._alarm is not None:
            self._alarm.cancel()
        while self._timers and self._timers[0][2].cancelled:
            heapq.heappop(self._timers)
        if self._timers:
            delay = max(self._timers[0][0] - self.seconds, 0.0)
            self._alarm = asyncio.get_running_loop().call_later(delay, self._ring)

    def _ring(self) -> None:
        while (timer := self._next(self.seconds)) is not None:
            self._work.start(timer.action())
        self._set_alarm()
