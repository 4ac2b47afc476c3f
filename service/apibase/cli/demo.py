"""`apibase demo`: the topology up, the project's own job done on it, everything down again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from apibase.cli.choices import DaprSeries, Replicas, TopologyFile, find_project, load_function, read_replicas
from apibase.cli.console import Progress, beside, stderr_console, stdout_console
from apibase.cli.runner import Interruption, run_command
from apibase.local.binaries.dapr_tool import SERIES
from apibase.local.demo import DemoContext
from apibase.local.errors import StackError
from apibase.local.options import StackOptions
from apibase.local.stack import Stack
from apibase.local.topology import read_topology

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from apibase.local.topology import Topology

_SETTING = "tool.apibase.demo"


def demo(
    arguments: Annotated[
        list[str] | None, typer.Argument(help="Passed on to the demo; after `--` if they look like options.")
    ] = None,
    file: TopologyFile = None,
    replicas: Replicas = None,
    dapr: DaprSeries = SERIES,
) -> None:
    """Start everything, do the job that the project's pyproject.toml names in tool.apibase.demo, and stop everything.

    The exit code is the job's: 0 if all went as it should. It is 1 if the stack fails, and 128 and the signal's number after
    a signal. It is a stack of its own: one that is up already is neither used nor disturbed.
    """
    project = find_project(file)

    async def command(interruption: Interruption) -> int:
        if not project.demo:
            raise StackError(
                f"{project.root / 'pyproject.toml'}: {_SETTING} is not set; it names the job, as module:function"
            )
        job = load_function(project.demo, _SETTING, project.root)
        topology = read_topology(project.topology)
        words = tuple(arguments or ())
        code = _prepare(job, words, topology)
        if code is not None:
            return code
        console = stdout_console()
        progress = Progress(beside(console))
        options = StackOptions(
            replicas=read_replicas(replicas),
            dapr=dapr,
            log_runs=project.log_folder,
            on_event=interruption.unless_gone(progress.on_event),
        )
        stack = Stack(topology, options)
        interruption.kill = stack.kill_now
        with progress:
            async with stack:
                progress.settle()
                outcome = await stack.run(_as_coroutine(job(DemoContext(stack, console, words))))
        if not isinstance(outcome, int):
            raise StackError(f"{_SETTING} = {project.demo!r} returned {outcome!r} where an exit code is expected")
        return int(outcome)

    run_command(command)


def _prepare(job: object, arguments: tuple[str, ...], topology: Topology) -> int | None:
    """Have the job read its arguments, if it wants to, before anything is started; an exit code ends the command."""
    prepare = getattr(job, "prepare", None)
    if not callable(prepare):
        return None
    try:
        prepare(arguments, tuple(app.app_id for app in topology.apps))
    except ValueError as error:
        raise StackError(str(error)) from error
    except SystemExit as ended:
        if ended.code is None or isinstance(ended.code, int):
            return ended.code or 0
        stderr_console().print(str(ended.code), markup=False)
        return 1
    return None


async def _as_coroutine(work: Awaitable[object]) -> object:
    return await work
