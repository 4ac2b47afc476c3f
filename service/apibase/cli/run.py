"""`apibase run APP`: one app in the foreground, with its sidecar."""

from __future__ import annotations

import asyncio
import dataclasses
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from apibase.cli.choices import TopologyFile, find_project
from apibase.cli.console import Progress, stderr_console, stdout_console
from apibase.cli.runner import Interruption, run_command
from apibase.local.binaries.dapr_tool import SERIES
from apibase.local.errors import NoStack, StackError
from apibase.local.options import StackOptions
from apibase.local.stack import Stack
from apibase.local.state_file import StackState, running_stack
from apibase.local.topology import Topology, read_topology
from apibase.local.wording import apibase, genitive

if TYPE_CHECKING:
    from apibase.local.project import Project


def run(
    app: Annotated[str, typer.Argument(metavar="APP", help="The app's id in the topology file.")],
    words: Annotated[
        list[str] | None, typer.Argument(metavar="-- COMMAND", help="Run this instead of the app's command.")
    ] = None,
    file: TopologyFile = None,
    *,
    sidecar_only: Annotated[
        bool,
        typer.Option("--sidecar-only", help="Start the sidecar and print the variables for an app started elsewhere."),
    ] = False,
) -> None:
    """Run one app in the foreground, with its sidecar.

    It joins the stack that is up: its backends, its control plane, its apps. If none is, the backends and the control plane
    that this app needs are started with it. The terminal is the app's: a debugger's prompt works, Ctrl-C goes to the app. The
    exit code is the app's.
    """
    project = find_project(file)

    async def command(interruption: Interruption) -> int:
        topology = _one_app(read_topology(project.topology), app, tuple(words or ()))
        if not sidecar_only and not topology.app(app).started_by_us:
            raise StackError(f"{app} has no command; give one: {apibase()} run {app} -- python call.py")
        state = _running(project)
        console = stderr_console()
        if state and any(instance.app_id == app and instance.app_pid for instance in state.instances):
            console.print(
                f"{app} runs in the stack already, so the two share its calls; to have them all: {apibase()} up --skip {app}"
            )
        progress = Progress(console)
        options = StackOptions(
            apps=frozenset({app}),
            sidecar_only=frozenset({app}) if sidecar_only else frozenset(),
            foreground=app,
            join=state.platform if state else None,
            dapr=(state.dapr if state else "") or SERIES,
            state_file=None if state else project.state_file,
            log_runs=None if state else project.log_folder,
            # Beside the stack's own logs when there is a stack, so that one search finds all of a trace.
            log_dir=Path(state.log_folder) / f"run-{app}" if state else None,
            on_event=interruption.unless_gone(progress.on_event),
        )
        stack = Stack(topology, options)
        interruption.kill = stack.kill_now
        with progress:
            async with stack:
                progress.settle()
                if not sidecar_only:
                    return await stack.run_foreground()
                interruption.normal = True
                _print_environment(stack, app)
                await stack.run(asyncio.Event().wait())
        return 0

    run_command(command)


def _running(project: Project) -> StackState | None:
    try:
        return running_stack(project.state_file)
    except NoStack:
        return None


def _one_app(topology: Topology, app_id: str, command: tuple[str, ...]) -> Topology:
    app = topology.app(app_id)
    if command:
        app = dataclasses.replace(app, command=command)
    return dataclasses.replace(topology, apps=(app,))


def _print_environment(stack: Stack, app: str) -> None:
    console = stdout_console()
    for name, value in sorted(stack.environment(app).items()):
        console.print(f"export {name}={shlex.quote(value)}", markup=False)
    stderr_console().print(
        f"{genitive(app)} sidecar waits for an app on port {stack.environment(app).get('APP_PORT', '-')}; Ctrl-C ends it"
    )
