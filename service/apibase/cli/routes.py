"""`apibase routes`: what can reach the services, and what they send out."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import grpc.aio
import typer
from rich import box
from rich.table import Table
from rich.text import Text

from apibase.cli.call import calling_sidecar, known_app
from apibase.cli.choices import TopologyFile, find_project
from apibase.cli.console import fail, stderr_console, stdout_console
from apibase.cli.contracts import Contracts
from apibase.cli.discovery import CHANNEL_OPTIONS, chain_of, listened_routes, serving_apps
from apibase.cli.runner import Interruption, run_command
from apibase.local.ports import LOOPBACK
from apibase.local.state_file import running_stack

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from rich.console import Console

    from apibase.cli.route_rows import Row

_MISCONFIGURED = 2
_NO_CONTRACT = "(of no contract)"
_GAP = 2
_LEAST = 20


def routes(
    file: TopologyFile = None,
    app_id: Annotated[
        str | None,
        typer.Option("--app", metavar="APP", help="Only what this app of the stack that is up serves: it is asked."),
    ] = None,
    *,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print a JSON list, with full names and all options.")
    ] = False,
) -> None:
    """Show everything that can reach the services of this project, and every event that they send out.

    It is read from the contracts (tool.apibase.descriptors); nothing has to run. What in them contradicts itself is told as
    the start of an app would tell it, and the exit code is 2.

    Which app implements which service stands in no contract. With --app, the app is asked what it serves and what it listens to,
    and handlers of topics and bindings that are registered by decorators are shown too. Methods and jobs of decorators, and services
    of nothing but jobs, can't be asked for: the line that the app logs when it listens has them. It also says which middleware every
    call of the app passes, and in which order.
    """
    # Only here: what it takes to read listeners would slow every other command down.
    from apibase.cli.route_rows import read_routes  # noqa: PLC0415

    project = find_project(file)

    async def command(_: Interruption) -> int:
        contracts = Contracts(project.descriptors)
        found = read_routes(contracts)
        for problem in found.problems:
            stderr_console().print(f"wrong contract: {problem}", markup=False)
        if found.problems:
            return _MISCONFIGURED
        rows = list(found.rows)
        chain: tuple[str, ...] = ()
        if app_id is not None:
            rows, chain = await _of_app(rows, app_id, project.state_file)
        console = stdout_console()
        if as_json:
            listed: list[object] = [row.to_json() for row in rows]
            listed += [{"kind": "chain", "names": chain}] if chain else []
            console.print_json(json.dumps(listed), indent=2)
        elif rows:
            print_rows(console, rows)
            if chain:
                console.print(f"\nEvery call passes {' → '.join(chain)}", markup=False)
        else:
            fail(
                f"{app_id} serves no contract of this project"
                if app_id
                else "the contracts have no services and no events"
            )
        return 0

    run_command(command)


async def _of_app(rows: Sequence[Row], app_id: str, state_file: Path) -> tuple[list[Row], tuple[str, ...]]:
    """Return what an app serves, listens to and may publish, and its chain, as far as it says so itself."""
    from apibase.cli.route_rows import narrowed  # noqa: PLC0415 - as above

    state = running_stack(state_file)
    target = known_app(state, app_id, "--app")
    address = f"{LOOPBACK}:{calling_sidecar(state, None).grpc_port}"
    async with grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS) as channel:
        services = {row.service for row in rows if row.kind == "rpc"}
        served = {service for service in services if await serving_apps(channel, service, [target])}
        found = narrowed(rows, served, await listened_routes(channel, target))
    own = next((instance for instance in state.instances if instance.app_id == target), None)
    if own is None:
        return found, ()
    async with grpc.aio.insecure_channel(f"{LOOPBACK}:{own.grpc_port}", options=CHANNEL_OPTIONS) as channel:
        return found, await chain_of(channel)


def print_rows(console: Console, rows: Sequence[Row]) -> None:
    """Print the table in the widest form that there is room for; what is not a terminal gets a line a row."""
    forms = [_ONE_LINE, _TWO_LINES, _STACKED]
    if not console.is_terminal:
        console.width = max(console.width, _width(_widths(rows, _ONE_LINE)))
    form = next((form for form in forms if _width(_widths(rows, form)) <= console.width), forms[-1])
    widths = _fitted(_widths(rows, form), console.width)
    console.print(_table(form, widths, []), soft_wrap=False)
    for package in dict.fromkeys(row.package for row in rows):
        console.print(Text(f"\n{package or _NO_CONTRACT}", "bold"))
        console.print(_table(form, widths, [row for row in rows if row.package == package]), soft_wrap=False)


@dataclass(frozen=True)
class _Form:
    """A form of the table: the headings of its columns, and the cells of a row."""

    headings: tuple[str, ...]
    cells: Callable[[Row], tuple[Text, ...]]


def _one_line(row: Row) -> tuple[Text, ...]:
    details = ", ".join(row.details)
    return (*map(Text, (row.kind, _route(row), _message(row), details, row.handler)), _contract(row))


def _two_lines(row: Row) -> tuple[Text, ...]:
    message = Text("\n").join([Text(_message(row)), Text(row.handler)])
    details = Text("\n").join([*map(Text, row.details or [""]), _contract(row)])
    return Text(row.kind), Text(_route(row)), message, details


def _stacked(row: Row) -> tuple[Text, ...]:
    handler = "" if row.kind == "rpc" else row.handler.removeprefix(f"{row.package}.")  # an rpc's is its route
    lines = [Text(_message(row)), *map(Text, row.details), Text(handler), _contract(row)]
    return Text(row.kind), Text(_route(row)), Text("\n").join(line for line in lines if line.plain)


_ONE_LINE = _Form(("kind", "route", "message", "details", "handler", "contract"), _one_line)
_TWO_LINES = _Form(("kind", "route", "message\nhandler", "details\ncontract"), _two_lines)
_STACKED = _Form(("kind", "route", "message, details, handler, contract"), _stacked)


def _widths(rows: Iterable[Row], form: _Form) -> list[int]:
    """Return what each column needs so that nothing is folded."""
    columns = zip(*(map(Text, form.headings), *map(form.cells, rows)), strict=True)
    return [max(line.cell_len for cell in column for line in cell.split("\n", allow_blank=True)) for column in columns]


def _width(widths: Sequence[int]) -> int:
    return sum(widths) + _GAP * (len(widths) - 1)


def _fitted(widths: Sequence[int], room: int) -> list[int]:
    """Return widths that fit: where there is too little room, the last column has what is left, and the second two fifths at most."""
    kind, route, *others = widths
    if _width(widths) > room:
        route = min(route, room * 2 // 5)
        others[-1] = max(room - _width([kind, route, *others[:-1]]) - _GAP, _LEAST)
    return [kind, route, *others]


def _table(form: _Form, widths: Sequence[int], rows: Sequence[Row]) -> Table:
    """Return the rows below each other, or the headings where there are none."""
    table = Table(
        box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, _GAP - 1, 0, 0), show_header=not rows
    )
    for heading, width in zip(form.headings, widths, strict=True):
        table.add_column(heading, width=width, overflow="fold")
    for row in rows:
        table.add_row(*form.cells(row))
    return table


def _contract(row: Row) -> Text:
    return Text(row.contract, "dim")


def _route(row: Row) -> str:
    return row.route.removeprefix(f"{row.package}.") if row.kind == "rpc" else row.route


def _message(row: Row) -> str:
    """Return a message's name, without the package where that is the heading's."""
    name = row.message.removeprefix(f"{row.package}.")
    return row.message if "." in name else name
