"""Which Zipkin runs here: the jar that a variable names, or the pinned one, on whatever Java there is."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from apibase.local.binaries.installed import explicit_path
from apibase.local.binaries.java_tool import find_java
from apibase.local.binaries.maven_jars import MavenProgram, maven_jars
from apibase.local.binaries.report import Progress, ToolMissing, to_stderr

if TYPE_CHECKING:
    from pathlib import Path

VARIABLE = "APIBASE_ZIPKIN_JAR"
ZIPKIN = MavenProgram(
    "zipkin", "Zipkin", "zipkin-server", f"{VARIABLE} names the zipkin-server-exec.jar of one that you have"
)

_OLDEST_JAVA = 17
_EXEC_JAR = re.compile(r"zipkin-server-(\d[\w.]*)-exec\.jar")


@dataclass(frozen=True)
class ZipkinBinaries:
    """Zipkin's version, where it comes from, the Java that runs it and its one jar."""

    version: str
    origin: str
    java: Path
    jar: Path


def zipkin_binaries(progress: Progress = to_stderr) -> ZipkinBinaries:
    """Return Zipkin, downloaded once if none is named (131 MB, and 60 MB more where there is no Java).

    In this order: the jar that `APIBASE_ZIPKIN_JAR` names; the cache.

    Raises `ToolMissing`, with the way to get it, when it can't be had, or no Java 17 or newer can.
    """
    jar = explicit_path(VARIABLE)
    if jar is not None and not jar.is_file():
        raise ToolMissing(f"{VARIABLE} is {jar}, which is no file: correct it or unset it")
    java = find_java(_OLDEST_JAVA, progress)
    if jar is not None:
        match = _EXEC_JAR.fullmatch(jar.name)
        version, origin = match[1] if match else "unknown", VARIABLE
    else:
        found = maven_jars(ZIPKIN, progress)
        (pinned,) = ZIPKIN.jars()
        version, origin, jar = found.version, "Maven's jar", found.folder / pinned.file_name
    return ZipkinBinaries(version, f"{origin}, on Java {java.version}", java.executable, jar)
