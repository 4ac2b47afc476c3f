"""Handlers that are plain functions: each call runs in a thread, so that it may wait without holding up the event loop."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import inspect
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from concurrent.futures import Executor


def as_async(function: Callable[..., object], pool: Executor | None) -> Callable[..., Awaitable[object]]:
    """Return a coroutine function that calls `function`: on the loop if it is one itself, else in a thread.

    The threads are those of `pool`, or of the loop. Context variables (trace, deadline) come along. A thread can't be
    cancelled: what it does then is done, whoever waits for it.
    """
    made = (
        function if inspect.isroutine(function) or isinstance(function, functools.partial) else type(function).__call__
    )
    if inspect.isgeneratorfunction(made) or inspect.isasyncgenfunction(made):
        raise TypeError(f"{function!r} is a generator, of which nobody would take the values; a handler returns one")

    async def on_loop(*arguments: object) -> object:
        answer = function(*arguments)
        return await answer if inspect.isawaitable(answer) else answer

    async def in_thread(*arguments: object) -> object:
        context = contextvars.copy_context()
        call = functools.partial(context.run, _call, function, *arguments)
        answer = await asyncio.get_running_loop().run_in_executor(pool, call)
        return await answer if inspect.isawaitable(answer) else answer

    return on_loop if inspect.iscoroutinefunction(made) else in_thread


_at_work: dict[object, str] = {}


def at_work() -> list[str]:
    """Return the names of the functions that run in threads now, whether or not anybody still waits for them."""
    return list(_at_work.values())


def _call(function: Callable[..., object], *arguments: object) -> object:
    mark = object()
    _at_work[mark] = getattr(function, "__qualname__", repr(function))
    try:
        return function(*arguments)
    except StopIteration as error:  # asyncio can't bring it out of a thread: who waits would wait for ever
        raise RuntimeError("the handler raised StopIteration") from error
    finally:
        del _at_work[mark]
