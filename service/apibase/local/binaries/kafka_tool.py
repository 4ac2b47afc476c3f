"""Which Kafka runs here: the one that a variable names, or the pinned jars, on whatever Java there is."""

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

VARIABLE = "APIBASE_KAFKA_HOME"

_OLDEST = 4  # Earlier ones may need ZooKeeper.
_OLDEST_JAVA = 17
_MAIN_JAR = re.compile(r"kafka_2\.1\d-((\d+)[\w.-]*)\.jar")
KAFKA = MavenProgram("kafka", "Kafka", "kafka_2.13", f"{VARIABLE} names the folder of one installed elsewhere")
"""46 jars, 45 MB."""


@dataclass(frozen=True)
class KafkaBinaries:
    """Kafka's version, where it comes from, the Java that runs it and the folder with its jars."""

    version: str
    origin: str
    java: Path
    jars: Path


def kafka_binaries(progress: Progress = to_stderr) -> KafkaBinaries:
    """Return Kafka 4 or newer, downloaded once if none is named (45 MB, and 60 MB more where there is no Java).

    In this order: the installation that `APIBASE_KAFKA_HOME` names; the cache.

    Raises `ToolMissing`, with the way to get it, when it can't be had, or no Java 17 or newer can.
    """
    if home := explicit_path(VARIABLE):
        version, origin, jars = _explicit_version(home), VARIABLE, home / "libs"
        java = find_java(_OLDEST_JAVA, progress)
    else:
        java = find_java(_OLDEST_JAVA, progress)
        found = maven_jars(KAFKA, progress)
        version, origin, jars = found.version, "Maven's jars", found.folder
    return KafkaBinaries(version, f"{origin}, on Java {java.version}", java.executable, jars)


def _explicit_version(home: Path) -> str:
    for file in sorted((home / "libs").glob("kafka_2.1*.jar")):
        if match := _MAIN_JAR.fullmatch(file.name):
            if int(match[2]) >= _OLDEST:
                return match[1]
            found = f"Kafka {match[1]}"
            break
    else:
        found = "no libs/kafka_2.13-*.jar"
    raise ToolMissing(f"{VARIABLE} is {home}, which has {found}, where Kafka 4 is wanted: correct it or unset it")
