"""Jars as `tools/<tool>` pins them: downloaded once by Maven, or by PyPI's `jgo` where there is no Maven."""

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

_LINE = re.compile(r"^([\w.-]+):([\w.-]+):([\w.-]+)(?::(\w+))? sha256:([0-9a-f]{64})$", re.MULTILINE)


@dataclass(frozen=True)
class Jar:
    """One pinned jar; `classifier` is "" for an artifact's main one."""

    group: str
    artifact: str
    version: str
    classifier: str
    sha256: str

    @property
    def coordinates(self) -> str:
        """The jar's address in a Maven repository."""
        return ":".join(filter(None, (self.group, self.artifact, self.version, self.classifier)))

    @property
    def file_name(self) -> str:
        """The jar's file."""
        return "-".join(filter(None, (self.artifact, self.version, self.classifier))) + ".jar"


@dataclass(frozen=True)
class JarFolder:
    """A folder with all of a program's jars and nothing else, and the program's version."""

    version: str
    folder: Path


@dataclass(frozen=True)
class MavenProgram:
    """What is pinned in `tools/<name>`; `main` is the artifact whose version is the program's."""

    name: str
    title: str
    main: str
    remedy: str

    @property
    def pins(self) -> Path:
        """The folder with `pom.xml` and `jars.txt`."""
        return tools_folder() / self.name

    def jars(self) -> tuple[Jar, ...]:
        """The jars that `jars.txt` lists."""
        return tuple(Jar(*match) for match in _LINE.findall((self.pins / "jars.txt").read_text()))


def maven_jars(program: MavenProgram, progress: Progress) -> JarFolder:
    """Return the cache's folder of jars, downloaded first if it isn't there, each checked by its SHA-256.

    Raises `ToolMissing`, with the program's remedy, when they can't be downloaded or aren't what is pinned.
    """
    jars = program.jars()
    version = next(jar.version for jar in jars if jar.artifact == program.main)
    key = f"{program.name}-{version}-{digest([program.pins / 'pom.xml', program.pins / 'jars.txt'])}"
    what = f"{program.title} {version}"

    def make(scratch: Path) -> Path:
        return _Download(program, what, jars, scratch, cache_folder() / f"{key}.log", progress).run()

    return JarFolder(version, ensure(key, [jar.file_name for jar in jars], make, what, progress, is_data))


@dataclass(frozen=True)
class _Download:
    """One download into a scratch folder, with its log beside the folder to be."""

    program: MavenProgram
    what: str
    jars: tuple[Jar, ...]
    scratch: Path
    log: Path
    progress: Progress

    def run(self) -> Path:
        target = self.scratch / "jars"
        target.mkdir()
        client, command = self._command(target)
        self.log.unlink(missing_ok=True)
        self.progress(f"{self.what}: downloading its jars with {client}")
        code = run_logged(command, cwd=self.scratch, env=os.environ, log=self.log, tick=self._tick)
        if code:
            failed = f"{self.what} can't be downloaded: {client} ended with {code}; {self.program.remedy}"
            raise ToolMissing(with_tail(failed, self.log, tail(self.log)))
        shutil.rmtree(target / "repository", ignore_errors=True)
        self._check(target)
        return target

    def _command(self, target: Path) -> tuple[str, list[str | Path]]:
        """Maven first, because it knows the mirrors and proxies of whoever has set it up."""
        for maven in on_path("mvn"):
            if reported(maven):  # Nothing where it finds no Java.
                pom = shutil.copyfile(self.program.pins / "pom.xml", self.scratch / "pom.xml")
                # A repository of its own: the user's is not ours to fill, and a damaged jar there would stay for ever.
                where = [f"-Dmaven.repo.local={self.scratch / 'repository'}", f"-DoutputDirectory={target}"]
                return "Maven", [maven, "--batch-mode", "--file", pom, *where, "dependency:copy-dependencies"]
        wanted = Wanted(f"no Maven is on PATH to download {self.what} with", self.program.remedy)
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
            raise ToolMissing(f"{self.what} was downloaded, but not as it is pinned: {names}; {self.program.remedy}")
