"""Kafka's jars, as `tools/kafka` pins them: downloaded once by Maven, or by PyPI's `jgo` where there is no Maven."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from apibase.local.binaries import jar_download
from apibase.local.binaries.cache import cache_folder, ensure, is_data
from apibase.local.binaries.child import run_logged, tail
from apibase.local.binaries.installed import on_path, reported
from apibase.local.binaries.pinned import digest, tools_folder
from apibase.local.binaries.pypi_tool import Wanted, pypi_tool
from apibase.local.binaries.report import Progress, ToolMissing
from apibase.local.errors import with_tail

if TYPE_CHECKING:
    from pathlib import Path

_LINE = re.compile(r"^([\w.-]+):([\w.-]+):([\w.-]+) sha256:([0-9a-f]{64})$", re.MULTILINE)
_MAIN = "kafka_2.13"


@dataclass(frozen=True)
class Jar:
    """One pinned jar."""

    group: str
    artifact: str
    version: str
    sha256: str

    @property
    def coordinates(self) -> str:
        """The jar's address in a Maven repository."""
        return f"{self.group}:{self.artifact}:{self.version}"

    @property
    def file_name(self) -> str:
        """The jar's file."""
        return f"{self.artifact}-{self.version}.jar"


@dataclass(frozen=True)
class KafkaJars:
    """A folder with all of Kafka's jars and nothing else, and Kafka's version."""

    version: str
    folder: Path


def pinned_jars() -> tuple[Jar, ...]:
    """Return the jars that `tools/kafka/jars.txt` lists."""
    return tuple(Jar(*match) for match in _LINE.findall((_folder() / "jars.txt").read_text()))


def kafka_jars(remedy: str, progress: Progress) -> KafkaJars:
    """Return the cache's folder of jars, downloaded first if it isn't there (46 jars, 45 MB), each checked by its SHA-256.

    Raises `ToolMissing`, with the `remedy`, when they can't be downloaded or aren't what is pinned.
    """
    jars = pinned_jars()
    version = next(jar.version for jar in jars if jar.artifact == _MAIN)
    key = f"kafka-{version}-{digest([_folder() / 'pom.xml', _folder() / 'jars.txt'])}"

    def make(scratch: Path) -> Path:
        return _Download(f"Kafka {version}", jars, scratch, cache_folder() / f"{key}.log", remedy, progress).run()

    folder = ensure(key, [jar.file_name for jar in jars], make, f"Kafka {version}", progress, is_data)
    return KafkaJars(version, folder)


def _folder() -> Path:
    return tools_folder() / "kafka"


@dataclass(frozen=True)
class _Download:
    """One download into a scratch folder, with its log beside the folder to be."""

    what: str
    jars: tuple[Jar, ...]
    scratch: Path
    log: Path
    remedy: str
    progress: Progress

    def run(self) -> Path:
        target = self.scratch / "jars"
        target.mkdir()
        client, command = self._command(target)
        self.log.unlink(missing_ok=True)
        self.progress(f"{self.what}: downloading its jars with {client}")
        code = run_logged(command, cwd=self.scratch, env=os.environ, log=self.log, tick=self._tick)
        if code:
            failed = f"{self.what} can't be downloaded: {client} ended with {code}; {self.remedy}"
            raise ToolMissing(with_tail(failed, self.log, tail(self.log)))
        shutil.rmtree(target / "repository", ignore_errors=True)
        self._check(target)
        return target

    def _command(self, target: Path) -> tuple[str, list[str | Path]]:
        """Maven first, because it knows the mirrors and proxies of whoever has set it up."""
        for maven in on_path("mvn"):
            if reported(maven):  # Nothing where it finds no Java.
                pom = shutil.copyfile(_folder() / "pom.xml", self.scratch / "pom.xml")
                # A repository of its own: the user's is not ours to fill, and a damaged jar there would stay for ever.
                where = [f"-Dmaven.repo.local={self.scratch / 'repository'}", f"-DoutputDirectory={target}"]
                return "Maven", [maven, "--batch-mode", "--file", pom, *where, "dependency:copy-dependencies"]
        wanted = Wanted(f"no Maven is on PATH to download {self.what} with", self.remedy)
        client = pypi_tool("jgo", ["bin/jgo"], wanted, self.progress)
        coordinates = [jar.coordinates for jar in self.jars]
        script = [sys.executable, "-I", jar_download.__file__]
        return f"PyPI's jgo {client.version}", [*script, client.folder, target, *coordinates]

    def _tick(self, elapsed: float, _: str) -> None:
        names = {jar.file_name for jar in self.jars}
        there = {file.name for file in self.scratch.rglob("*.jar")} & names
        self.progress(f"{self.what}: downloading, {len(there)} of {len(names)} jars, {elapsed:.0f} s")

    def _check(self, target: Path) -> None:
        wanted = {jar.file_name: jar.sha256 for jar in self.jars}
        found = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in target.iterdir()}
        if other := sorted(name for name, _ in wanted.items() ^ found.items()):
            names = ", ".join(dict.fromkeys(other))
            raise ToolMissing(f"{self.what} was downloaded, but not as it is pinned: {names}; {self.remedy}")
