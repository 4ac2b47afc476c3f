"""Running a command's coroutine so that a signal, at any moment, ends it in good order."""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING, Any, Never

import typer

from apibase.cli.console import fail
from apibase.local.errors import StackError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from apibase.local.events import Event

_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def _nothing() -> None:
    """Do nothing."""


class Interruption:
    """The first signal cancels the command, which then stops what it has started; any further one kills it at once."""

    def __init__(self) -> None:
        self.number = 0
        self.normal = False
        """Whether an interruption is the normal way to end now, so that the exit code is 0."""
        self.kill: Callable[[], None] = _nothing
        self._task: asyncio.Task[int] | None = None

    @property
    def exit_code(self) -> int:
        """0 if the interruption was the normal end, else 128 and the signal's number, as shells have it."""
        return 0 if self.normal else 128 + self.number

    def unless_gone(self, show: Callable[[Event], None]) -> Callable[[Event], None]:
        """Show events; once the terminal or the pipe that they go to is gone, end the command as its hang-up would."""
        gone = False

        def shown(event: Event) -> None:
            nonlocal gone
            if gone:
                return
            try:
                show(event)
            except (OSError, SystemExit):  # rich turns a broken pipe into an exit.
                gone = True
                self._hear(signal.SIGHUP)

        return shown

    async def guard(self, work: Coroutine[Any, Any, int]) -> int:
        """Do the work and return its exit code, or that of the interruption."""
        loop = asyncio.get_running_loop()
        self._task = asyncio.ensure_future(work)
        for number in _ENDING:
            loop.add_signal_handler(number, self._hear, number)
        try:
            return await self._task
        except asyncio.CancelledError:
            if not self.number:
                raise
            return self.exit_code

    def _hear(self, number: int) -> None:
        if self.number:
            self.kill()
        elif self._task:
            self.number = number
            self._task.cancel()


def run_command(command: Callable[[Interruption], Coroutine[Any, Any, int]]) -> Never:
    """Run a command to its end and leave with its exit code; a `StackError` is told in its own words, without a traceback."""
    interruption = Interruption()
    try:
        code = asyncio.run(interruption.guard(command(interruption)))
    except StackError as error:
        fail("\n".join((str(error), *getattr(error, "__notes__", ()))))
        code = 1
    except KeyboardInterrupt:
        code = 128 + signal.SIGINT
    # All is cleaned up: a late signal, or an impatient further one, shall not change the exit code.
    for number in _ENDING:
        signal.signal(number, signal.SIG_IGN)
    raise typer.Exit(code)
