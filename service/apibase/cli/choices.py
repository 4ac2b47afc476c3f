"""Options that several commands share, and how their values are read."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from apibase.local.errors import StackError
from apibase.local.project import Project

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

TopologyFile = Annotated[
    Path | None,
    typer.Option(
        "--file",
        "-f",
        metavar="FILE",
        help="A multi-app run file; default: tool.apibase.topology, or compose/dapr.yaml.",
    ),
]
Replicas = Annotated[
    list[str] | None,
    typer.Option("--replicas", metavar="APP=N", help="Run an app N times, each with its sidecar; repeatable."),
]
DataFolder = Annotated[
    Path | None,
    typer.Option("--data", metavar="FOLDER", help="Keep the embedded backends' data in this folder from run to run."),
]
FixedPorts = Annotated[
    bool, typer.Option("--fixed-ports", help="Use the ports that the file names instead of free ones.")
]
DaprSeries = Annotated[
    str, typer.Option("--dapr", metavar="SERIES", envvar="APIBASE_DAPR_SERIES", help="The series of Dapr to run.")
]

_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m)?")
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, None: 1.0}


def find_project(file: Path | None) -> Project:
    """The project around the current folder."""
    return Project.find(Path.cwd(), file)


def read_replicas(values: Iterable[str] | None) -> dict[str, int]:
    """`orders=2` → {"orders": 2}."""
    replicas: dict[str, int] = {}
    for value in values or ():
        app_id, _, count = value.partition("=")
        if not app_id or not count.isdigit() or int(count) < 1:
            raise typer.BadParameter(f"expected APP=N with N of at least 1, found {value!r}", param_hint="--replicas")
        replicas[app_id] = int(count)
    return replicas


def read_seconds(value: str) -> float:
    """`5s`, `500ms`, `1m` or plain seconds."""
    match = _DURATION.fullmatch(value)
    if not match or not float(match[1]):
        raise typer.BadParameter(
            f"expected a duration such as 5s, 500ms or 1m, found {value!r}", param_hint="--timeout"
        )
    return float(match[1]) * _UNITS[match[2]]


def load_function(reference: str, setting: str, root: Path) -> Callable[..., Awaitable[object]]:
    """Import `module:function`, also from the project's root; an error names the setting that it comes from."""
    sys.path.insert(0, str(root))
    module_name, _, name = reference.partition(":")
    if not module_name or not name:
        message = f"{setting}: expected module:function, found {reference!r}"
        raise StackError(message)
    try:
        function = getattr(importlib.import_module(module_name), name)
    except (ModuleNotFoundError, AttributeError) as error:
        message = f"{setting} = {reference!r}: {error}"
        raise StackError(message) from error
    if not callable(function):
        message = f"{setting} = {reference!r} is not a function"
        raise StackError(message)
    loaded: Callable[..., Awaitable[object]] = function
    return loaded
