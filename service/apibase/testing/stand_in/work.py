"""What the stand-in is busy with, so that a test can wait until nothing more comes of what it did."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Awaitable


class Work:
    """The stand-in's own tasks. It is idle when each of them has ended or waits for the clock."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()
        self._paused: set[asyncio.Task[Any]] = set()
        self._idle = asyncio.Event()
        self._idle.set()

    def start(self, awaitable: Awaitable[None]) -> asyncio.Task[None]:
        """Begin a piece of work. What it raises is the event loop's to report."""
        task = asyncio.ensure_future(_run(awaitable))
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        self._tell()
        return task

    @property
    def busy(self) -> bool:
        """Whether anything goes on, or waits for the clock."""
        return bool(self._tasks)

    async def idle(self) -> None:
        """Return as soon as nothing goes on."""
        while self._tasks - self._paused:
            await self._idle.wait()

    def pause(self, task: asyncio.Task[Any] | None) -> None:
        """Note that a task waits for the clock."""
        if task in self._tasks:
            self._paused.add(task)
            self._tell()

    def resume(self, task: asyncio.Task[Any] | None) -> None:
        """Note that a task goes on."""
        if task is not None:
            self._paused.discard(task)
            self._tell()

    async def close(self) -> None:
        """End all of it."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._paused.discard(task)
        self._tell()

    def _tell(self) -> None:
        if self._tasks - self._paused:
            self._idle.clear()
        else:
            self._idle.set()


async def _run(awaitable: Awaitable[None]) -> None:
    await awaitable
