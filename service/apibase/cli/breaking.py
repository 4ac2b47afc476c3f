"""`apibase breaking`: what a changed contract does to those who have it as it was."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.message import DecodeError

from apibase.cli.choices import TopologyFile, find_project
from apibase.cli.console import stderr_console, stdout_console
from apibase.cli.runner import Interruption, run_command
from apibase.contract.evolution import acceptable, breaks
from apibase.local.errors import StackError

if TYPE_CHECKING:
    from pathlib import Path

    from apibase.local.project import Project


def breaking(
    file: TopologyFile = None,
    *,
    accept: Annotated[
        bool, typer.Option("--accept", help="Take the contracts as they are for what is compared with from now on.")
    ] = False,
) -> None:
    """Fail when the contracts break those who have them as they were accepted.

    Compares what `buf breaking` does not see: topics that events move away from, rules that events in flight may not keep,
    redaction taken back, callers shut out. `--accept` writes tool.apibase.accepted (protos/accepted.binpb), which is
    committed, and which buf compares with too. The exit code is 1 where something breaks.
    """
    project = find_project(file)

    async def command(_: Interruption) -> int:
        return _accept(project) if accept else _compare(project)

    run_command(command)


def _accept(project: Project) -> int:
    now = acceptable(_read(project.descriptors, "it is written by: make gen"))
    project.accepted.write_bytes(now.SerializeToString(deterministic=True))
    stdout_console().print(f"accepted the contracts of {_shown(project.descriptors, project)}", markup=False)
    return 0


def _compare(project: Project) -> int:
    after = _read(project.descriptors, "it is written by: make gen")
    before = _read(project.accepted, "take the contracts as they are with: apibase breaking --accept")
    found = breaks(before, after)
    for each in found:
        stdout_console().print(str(each), markup=False)
    if found:
        told = "1 change breaks" if len(found) == 1 else f"{len(found)} changes break"
        stderr_console().print(
            f"{told} those who have the accepted contracts; if nobody does, or all of them agree: "
            "apibase breaking --accept",
            markup=False,
        )
    return 1 if found else 0


def _read(file: Path, remedy: str) -> FileDescriptorSet:
    try:
        return FileDescriptorSet.FromString(file.read_bytes())
    except FileNotFoundError as error:
        message = f"{file} does not exist; {remedy}"
        raise StackError(message) from error
    except DecodeError as error:
        message = f"{file} is no descriptor set; {remedy}"
        raise StackError(message) from error


def _shown(file: Path, project: Project) -> str:
    return str(file.relative_to(project.root)) if file.is_relative_to(project.root) else str(file)
