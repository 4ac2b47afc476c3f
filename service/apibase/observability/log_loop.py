"""What an event loop is given so that whatever runs on it, or in its threads, is logged with the call that it belongs to."""

from __future__ import annotations

import contextvars
import functools
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from apibase.observability.log_level_file import LevelsFile
from apibase.observability.log_libraries import log_what_a_loop_meets

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from apibase.settings import Settings

P = ParamSpec("P")
T = TypeVar("T")


class ContextThreadPool(ThreadPoolExecutor):
    """A pool whose work runs with the context variables of who submitted it: trace, correlation id, deadline.

    `asyncio.to_thread` has always done that, `run_in_executor` never.
    """

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Have the work done in a copy of the context that is here now."""
        return super().submit(functools.partial(contextvars.copy_context().run, fn, *args, **kwargs))


def prepare_loop(loop: asyncio.AbstractEventLoop, settings: Settings) -> None:
    """Log what the loop's tasks leave uncaught, have its threads know their call, and heed the file of levels.

    It is for a loop that is the app's own.
    """
    log_what_a_loop_meets(loop)
    loop.set_default_executor(ContextThreadPool(thread_name_prefix="asyncio"))
    if settings.log_levels_file:
        LevelsFile(Path(settings.log_levels_file)).watch(loop)
