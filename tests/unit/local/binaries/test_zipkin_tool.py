"""Zipkin: the jar that a variable names, else the pinned one, by Maven or without it."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from apibase.local.binaries import pypi_tool
from apibase.local.binaries.maven_jars import MavenProgram
from apibase.local.binaries.pinned import tools_folder
from apibase.local.binaries.report import ToolMissing
from apibase.local.binaries.zipkin_tool import ZIPKIN, ZipkinBinaries, zipkin_binaries

JAR = "zipkin-server-3.5.1-exec.jar"


def quiet(_: str) -> None:
    """Say nothing."""


def script(file: Path, body: str, interpreter: str = "/bin/sh") -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"#!{interpreter}\n{body}\n")
    file.chmod(0o755)


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give the test a machine with Java 17 and nothing else, and pin a small jar; return the folder that is its PATH."""
    pins = tmp_path / "pins"
    pins.mkdir()
    checksum = hashlib.sha256(b"zipkin").hexdigest()
    (pins / "jars.txt").write_text(f"# a comment\nio.zipkin:zipkin-server:3.5.1:exec sha256:{checksum}\n")
    (pins / "pom.xml").write_text("<project/>")
    monkeypatch.setattr(MavenProgram, "pins", pins)
    monkeypatch.delenv("APIBASE_ZIPKIN_JAR", raising=False)
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("APIBASE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(tmp_path / "path"))
    script(tmp_path / "path/java", "echo 'openjdk 17.0.15 2025-04-15'")
    return tmp_path / "path"


def test_maven_downloads_the_pinned_jar_once(machine: Path) -> None:
    script(
        machine / "mvn",
        "import pathlib, sys\n"
        "if sys.argv[1] == '--version': print('Apache Maven 3.9.9'); sys.exit()\n"
        "option = next(one for one in sys.argv if one.startswith('-DoutputDirectory='))\n"
        f"(pathlib.Path(option.partition('=')[2]) / {JAR!r}).write_bytes(b'zipkin')",
        sys.executable,
    )
    told: list[str] = []
    found = zipkin_binaries(told.append)
    assert (found.version, found.origin, found.jar.name) == ("3.5.1", "Maven's jar, on Java 17", JAR)
    assert found.jar.read_bytes() == b"zipkin"
    assert zipkin_binaries(told.append) == found
    assert told == ["Zipkin 3.5.1: downloading its jars with Maven"]


def test_without_maven_a_client_from_pypi_is_asked_for_the_classifier_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = (
        "import pathlib\n"
        "class MavenContext:\n"
        "    def __init__(self, repo_cache, timeout): self.folder = repo_cache\n"
        "    def project(self, group, artifact): self.name = artifact; return self\n"
        "    def at_version(self, version): self.name += '-' + version; return self\n"
        "    def artifact(self, classifier=''): self.name += '-' + classifier; return self\n"
        "    def resolve(self):\n"
        "        self.folder.mkdir()\n"
        "        file = self.folder / (self.name + '.jar')\n"
        "        file.write_bytes(b'zipkin')\n"
        "        return file\n"
    )
    script(
        tmp_path / "uv",
        "import pathlib, sys\n"
        "target = pathlib.Path(sys.argv[sys.argv.index('--target') + 1])\n"
        f"for name, text in (('bin/jgo', '#'), ('jgo/__init__.py', '#'), ('jgo/maven.py', {client!r})):\n"
        "    file = target / name\n"
        "    file.parent.mkdir(parents=True, exist_ok=True)\n"
        "    file.write_text(text)\n"
        "    file.chmod(0o755)",
        sys.executable,
    )
    monkeypatch.setattr(pypi_tool, "find_uv", lambda: tmp_path / "uv")
    assert zipkin_binaries(quiet).jar.name == JAR


@pytest.mark.parametrize(("name", "version"), [("zipkin-server-3.4.0-exec.jar", "3.4.0"), ("zipkin.jar", "unknown")])
def test_the_jar_that_the_variable_names_is_used(
    machine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, version: str
) -> None:
    (tmp_path / name).touch()
    monkeypatch.setenv("APIBASE_ZIPKIN_JAR", str(tmp_path / name))
    origin = "APIBASE_ZIPKIN_JAR, on Java 17"
    assert zipkin_binaries(quiet) == ZipkinBinaries(version, origin, machine / "java", tmp_path / name)


def test_a_variable_that_names_no_file_is_an_error_that_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("APIBASE_ZIPKIN_JAR", str(tmp_path))
    with pytest.raises(ToolMissing, match=rf"^APIBASE_ZIPKIN_JAR is {tmp_path}, which is no file: correct it"):
        zipkin_binaries(quiet)


def test_the_pinned_jar_is_the_one_that_the_pom_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    space = {"m": "http://maven.apache.org/POM/4.0.0"}
    pom = ET.fromstring((tools_folder() / "zipkin/pom.xml").read_text())
    (dependency,) = pom.iterfind("m:dependencies/m:dependency", space)
    parts = ("groupId", "artifactId", "version", "classifier")
    (jar,) = ZIPKIN.jars()
    assert jar.coordinates == ":".join(dependency.findtext(f"m:{part}", "", space) for part in parts)
    assert jar.file_name == JAR
