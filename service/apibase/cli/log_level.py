"""`apibase log-level`: what an app that is up logs, changed while it runs."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from apibase.cli.choices import TopologyFile, find_project
from apibase.cli.console import stdout_console
from apibase.cli.runner import Interruption, run_command
from apibase.local.errors import StackError
from apibase.local.log_levels import levels_file
from apibase.local.state_file import running_stack

if TYPE_CHECKING:
    from collections.abc import Mapping

_SECONDS = 5.0
_PAUSE = 0.05

_Levels = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="MODULE=LEVEL",
        help="A module's level, or a level alone for everything: apibase.delivery=DEBUG, WARNING. None: show what is set.",
    ),
]


def log_level(
    app_id: Annotated[str, typer.Argument(metavar="APP", help="An app of the stack that is up.")],
    levels: _Levels = None,
    *,
    reset: Annotated[bool, typer.Option("--reset", help="Take back what was set before.")] = False,
    file: TopologyFile = None,
) -> None:
    """Change what an app that is up logs, by module, until it is taken back or the stack ends.

    Levels are TRACE, DEBUG, INFO, SUCCESS, WARNING, ERROR, CRITICAL and OFF. All replicas of the app heed it.
    """
    from apibase.observability.log_levels import levels_text, parse_levels  # noqa: PLC0415 - other commands don't wait for it

    try:
        asked = parse_levels(",".join(levels or ()))
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="MODULE=LEVEL") from error
    state_file = find_project(file).state_file

    async def command(_: Interruption) -> int:
        stack = running_stack(state_file)
        replicas = [each for each in stack.instances if each.app_id == app_id and each.app_pid]
        if not replicas:
            up = sorted({each.app_id for each in stack.instances if each.app_pid})
            raise StackError(f"no app {app_id!r} runs in the stack that is up; there is {', '.join(up) or 'none'}")
        control = levels_file(Path(stack.run_folder), app_id)
        before = control.read_text() if control.exists() else ""
        after = levels_text({**({} if reset else parse_levels(before)), **asked})
        if after != before:
            ends = {each.app_log: _size(each.app_log) for each in replicas}
            _write(control, after)
            try:
                await _heeded(f"log levels: {after}", ends)
            except StackError:
                _write(control, before)
                raise
        stdout_console().print(f"{app_id}: {after or 'as its settings say'}", markup=False)
        return 0

    run_command(command)


def _write(control: Path, text: str) -> None:
    """Replace what the file says in one step."""
    control.parent.mkdir(exist_ok=True)
    new = control.with_suffix(".new")
    new.write_text(text)
    new.replace(control)


async def _heeded(said: str, ends: Mapping[str, int]) -> None:
    """Wait until every replica says so in its log, beyond where that ended before."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + _SECONDS
    waiting = list(ends)
    while waiting := [log for log in waiting if said not in _since(log, ends[log])]:
        if loop.time() >= deadline:
            raise StackError(
                f"not heeded within {_SECONDS:.0f} s: {waiting[0]} does not say so; is the app on API Base?"
            )
        await asyncio.sleep(_PAUSE)


def _size(log: str) -> int:
    return Path(log).stat().st_size


def _since(log: str, start: int) -> str:
    with Path(log).open("rb") as file:
        file.seek(start)
        return file.read().decode(errors="replace")
