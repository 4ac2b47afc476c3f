"""`apibase up`: the whole topology on this machine, until Ctrl-C."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from apibase.cli.choices import DaprSeries, DataFolder, FixedPorts, Replicas, TopologyFile, find_project, read_replicas
from apibase.cli.console import Progress, beside, stack_table, stdout_console
from apibase.cli.first_call import suggest_call
from apibase.cli.log_lines import LogPrinter
from apibase.cli.runner import Interruption, run_command
from apibase.local.binaries.dapr_tool import SERIES
from apibase.local.errors import StackError
from apibase.local.options import StackOptions
from apibase.local.ports import LOOPBACK
from apibase.local.stack import Stack
from apibase.local.topology import Topology, read_topology
from apibase.local.wording import apibase

if TYPE_CHECKING:
    from apibase.local.project import Project


def up(  # noqa: PLR0913
    file: TopologyFile = None,
    replicas: Replicas = None,
    only: Annotated[
        list[str] | None, typer.Option("--only", metavar="APP", help="Start only this app; repeatable.")
    ] = None,
    skip: Annotated[
        list[str] | None,
        typer.Option("--skip", metavar="APP", help="Leave this app out, to `run` it yourself; repeatable."),
    ] = None,
    data: DataFolder = None,
    dapr: DaprSeries = SERIES,
    *,
    fixed_ports: FixedPorts = False,
    zipkin: Annotated[
        bool, typer.Option("--zipkin", help="Start a Zipkin too, and trace every call of apps and sidecars to it.")
    ] = False,
    otlp: Annotated[
        str,
        typer.Option("--otlp", metavar="HOST:PORT", help="Trace every call to this receiver of OTLP (gRPC, no TLS)."),
    ] = "",
    raw: Annotated[bool, typer.Option("--raw", help="Show log lines as the apps write them.")] = False,
    sidecar_logs: Annotated[bool, typer.Option("--sidecar-logs", help="Show all that the sidecars log.")] = False,
) -> None:
    """Start backends, Dapr's control plane, a sidecar for each app, and the apps.

    PostgreSQL, Redis and Kafka are started where a component reads their address from a variable that isn't set. Ports are free
    ones. Everything that a process writes is kept in .apibase/logs for the last five runs.

    Ctrl-C ends all of it, and is the normal way to do so: the exit code is 0. It is 1 if a process ended by itself, and 128
    and the signal's number if a signal came before everything was ready. A second Ctrl-C ends it without grace.
    """
    project = find_project(file)

    async def command(interruption: Interruption) -> int:
        topology = read_topology(project.topology)
        console = stdout_console()
        printer = LogPrinter(console, topology, raw=raw, sidecar_logs=sidecar_logs)
        progress = Progress(beside(console), printer.show)
        options = StackOptions(
            apps=choose_apps(topology, only, skip),
            replicas=read_replicas(replicas),
            fixed_ports=fixed_ports,
            data_dir=data,
            zipkin=zipkin,
            otlp=otlp,
            dapr=dapr,
            log_runs=project.log_folder,
            state_file=project.state_file,
            lines=True,
            on_event=interruption.unless_gone(progress.on_event),
        )
        stack = Stack(topology, options)
        interruption.kill = stack.kill_now
        with progress:
            async with stack:
                progress.settle()
                interruption.normal = True
                console.print(stack_table(stack, console.width))
                await _say_what_next(stack, project)
                printer.steady = True
                try:
                    await stack.run(asyncio.Event().wait())
                finally:
                    printer.steady = False
        return 0

    run_command(command)


def choose_apps(topology: Topology, only: list[str] | None, skip: list[str] | None) -> frozenset[str] | None:
    """The apps to start; None for all."""
    for app_id in (*(only or ()), *(skip or ())):
        topology.app(app_id)
    chosen = {app.app_id for app in topology.apps if not only or app.app_id in only} - set(skip or ())
    if not chosen:
        raise StackError("--only and --skip leave no app to start")
    return frozenset(chosen) if only or skip else None


async def _say_what_next(stack: Stack, project: Project) -> None:
    console = stdout_console()
    if line := f"{apibase()} call {project.call}" if project.call else await suggest_call(stack, project.descriptors):
        console.print(Text.assemble("\nCall it:  ", (line, "bold")))
    if stack.zipkin:
        console.print(f"Traces:   http://{stack.zipkin}/zipkin/", markup=False)
    if file := stack.scrape_config:
        flags = f"--config.file={file} --storage.tsdb.path={file.with_suffix('')} --web.listen-address={LOOPBACK}:9090"
        console.print(f"Metrics:  prometheus {flags}", markup=False, soft_wrap=True)
    console.print(f"Logs:     {stack.log_folder}\nEnd it:   Ctrl-C\n", markup=False)
