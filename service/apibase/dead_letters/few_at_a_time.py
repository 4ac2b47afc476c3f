"""Many calls of the sidecar, of which only a few are under way at once."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

A = TypeVar("A")
T = TypeVar("T")

_AT_ONCE = 16


async def for_each(call: Callable[[A], Awaitable[T]], items: Iterable[A]) -> list[T]:
    """Call a function with each item and return the results in their order; the first failure ends all, and is raised."""
    free = asyncio.Semaphore(_AT_ONCE)

    async def one(item: A) -> T:
        async with free:
            return await call(item)

    tasks = [asyncio.create_task(one(item)) for item in items]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
