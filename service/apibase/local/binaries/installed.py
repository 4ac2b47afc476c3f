"""What a machine has already: executables on PATH or named by a variable, and the versions that they report."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from apibase.local.binaries.cache import is_executable
from apibase.local.binaries.report import ToolMissing

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

Version = tuple[int, ...]

_NUMBER = re.compile(r"\d+(?:\.\d+)+")
_RELEASE = re.compile(r"\d+\.\d+\.\d+")
_ANSWER_SECONDS = 20.0


def first_version(text: str) -> Version | None:
    """Return the first dotted number in a text: "Redis server v=7.0.15 sha=…" gives (7, 0, 15)."""
    match = _NUMBER.search(text)
    return tuple(map(int, match[0].split("."))) if match else None


def dotted(version: Version) -> str:
    """Write a version the way that people do: 7.0.15."""
    return ".".join(map(str, version))


def release(text: str) -> Version | None:
    """Return the version of a release, `1.18.2`; None for anything else: a pre-release, `edge`, nothing."""
    return tuple(map(int, text.split("."))) if _RELEASE.fullmatch(text) else None


def fits(version: str, least: str) -> bool:
    """Whether a version is a release of the same series (major and minor) as `least`, and not older."""
    found, wanted = release(version), release(least)
    return found is not None and wanted is not None and found[:2] == wanted[:2] and found >= wanted


def reported(executable: Path, *arguments: str, env: Mapping[str, str] | None = None) -> str:
    """Return what an executable prints when it is asked for its version; "" if it fails or does not answer in time."""
    try:
        done = subprocess.run(  # noqa: S603 - the executable that we are about to use anyway
            [executable, *(arguments or ("--version",))],
            env=env,
            capture_output=True,
            stdin=subprocess.DEVNULL,
            text=True,
            errors="replace",
            timeout=_ANSWER_SECONDS,
            check=False,
            cwd="/",
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def on_path(name: str) -> Iterator[Path]:
    """Yield every executable of this name on PATH, in PATH's order, each once."""
    seen = set()
    for folder in os.environ.get("PATH", "").split(os.pathsep):
        file = Path(folder) / name
        if folder and is_executable(file) and file.resolve() not in seen:
            seen.add(file.resolve())
            yield file.absolute()


def explicit_path(variable: str) -> Path | None:
    """Return the file or folder that an environment variable names; None if it is unset or empty.

    Raises `ToolMissing`, which names the variable, when there is nothing at that path.
    """
    value = os.environ.get(variable)
    if not value:
        return None
    path = Path(value).expanduser().absolute()
    if not path.exists():
        raise ToolMissing(f"{variable} is {value}, which does not exist: correct it or unset it")
    return path


def need_executables(variable: str, folder: Path, *names: str) -> None:
    """Raise `ToolMissing`, which names the variable, unless the folder that it names holds these executables."""
    if lacking := [name for name in names if not is_executable(folder / name)]:
        raise ToolMissing(
            f"{variable} is {folder}, which has no executable {' or '.join(lacking)}: correct it or unset it"
        )
