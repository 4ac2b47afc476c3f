"""Which Dapr is used: the order of places, what fits, and what is said about the rest."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from apibase.local.binaries import DaprBinaries, ToolMissing, dapr_binaries, dapr_tool, sentry_binary
from apibase.local.binaries.go_build_info import GoProgram, go_program
from apibase.local.binaries.installed import fits

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from apibase.local.binaries.dapr_build import DaprModule
    from apibase.local.binaries.report import Progress

pytestmark = pytest.mark.req("R14.1")

SLIM = ("daprd", "placement", "scheduler")
ALL = (*SLIM, "sentry")


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give the test a machine without Dapr, whose build is a folder that nothing was put into."""
    built = tmp_path / "built"

    def build(module: DaprModule, progress: Progress, commands: Sequence[str] = ALL) -> Path:
        progress(f"building {' '.join(commands)} {module.version}")
        return built

    monkeypatch.delenv("APIBASE_DAPR_BIN", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "path"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(dapr_tool, "build_dapr", build)
    return built


def text_block(text: bytes) -> bytes:
    """Return a text as Go's linker writes it: the length, seven bits a byte, then the bytes."""
    length, head = len(text), b""
    while length > 0x7F:
        head, length = head + bytes([length & 0x7F | 0x80]), length >> 7
    return head + bytes([length]) + text


def program(file: Path, lines: Sequence[str], says: str = "") -> Path:
    """Write an executable which prints `says` and has Go's build information with these lines."""
    file.parent.mkdir(parents=True, exist_ok=True)
    script = f"#!/bin/sh\necho '{says}'\nexit 0\n".encode()
    script += b"#" * (-len(script) % 16)
    text = "\n".join(lines).encode()
    block = (
        b"\xff Go buildinf:\x08\x02".ljust(32, b"\0")
        + text_block(b"go1.26.5")
        + text_block(b"s" * 16 + text + b"e" * 16)
    )
    file.write_bytes(script + block)
    file.chmod(0o755)
    return file


def dapr(folder: Path, version: str, names: Sequence[str] = ALL, **others: str) -> Path:
    """Write an installation of Dapr; `others` gives single programs another version."""
    for name in names:
        own = others.get(name, version)
        program(
            folder / name, [f"path\tgithub.com/dapr/dapr/cmd/{name}", f"mod\tgithub.com/dapr/dapr\tv{own}\th1:x"], own
        )
    return folder


def test_the_folder_that_the_variable_names_comes_before_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dapr(tmp_path / "path", "1.18.3")
    named = dapr(tmp_path / "named", "1.18.0")
    monkeypatch.setenv("APIBASE_DAPR_BIN", str(named))
    assert dapr_binaries() == DaprBinaries("1.18.0", "APIBASE_DAPR_BIN", *(named / name for name in ALL))


def test_a_build_of_ones_own_is_taken_on_trust_when_the_variable_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("APIBASE_DAPR_BIN", str(dapr(tmp_path / "named", "edge")))
    assert dapr_binaries().version == "edge"


@pytest.mark.parametrize(
    ("version", "names", "complaint"),
    [
        ("1.18.2", ("daprd", "placement"), "no executable scheduler"),
        ("1.17.9", ALL, "has Dapr 1.17.9 where 1.18 is wanted"),
        ("", ALL, "does not tell its version"),
    ],
)
def test_a_wrong_folder_in_the_variable_is_an_error_that_names_the_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str, names: Sequence[str], complaint: str
) -> None:
    monkeypatch.setenv("APIBASE_DAPR_BIN", str(dapr(tmp_path / "named", version, names)))
    with pytest.raises(ToolMissing, match=f"^APIBASE_DAPR_BIN is .*{complaint}.*: correct it or unset it$"):
        dapr_binaries()


def test_a_folder_that_does_not_exist_is_an_error_that_names_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("APIBASE_DAPR_BIN", "/nowhere/at/all")
    with pytest.raises(ToolMissing, match=r"^APIBASE_DAPR_BIN is /nowhere/at/all, which does not exist"):
        dapr_binaries()


def test_an_installation_on_path_is_used_and_nothing_is_built(tmp_path: Path) -> None:
    folder = dapr(tmp_path / "path", "1.18.2")
    lines: list[str] = []
    found = dapr_binaries(progress=lines.append)
    assert (found.version, found.origin, found.daprd) == ("1.18.2", f"installed in {folder}", folder / "daprd")
    assert lines == []


def test_a_link_on_path_leads_to_the_folder_with_the_others(tmp_path: Path) -> None:
    folder = dapr(tmp_path / "opt", "1.18.4")
    (tmp_path / "path").mkdir()
    (tmp_path / "path" / "daprd").symlink_to(folder / "daprd")
    assert dapr_binaries(progress=lambda _: None).placement == folder / "placement"


def test_an_older_version_on_path_is_passed_over_for_the_dapr_clis(tmp_path: Path) -> None:
    dapr(tmp_path / "path", "1.18.1")
    slim = dapr(tmp_path / "home/.dapr/bin", "1.18.2", SLIM)
    assert dapr_binaries().scheduler == slim / "scheduler"


def test_an_installation_of_mixed_versions_is_passed_over_and_said_so(tmp_path: Path, machine: Path) -> None:
    folder = dapr(tmp_path / "home/.dapr/bin", "1.18.2", placement="1.14.4")
    lines: list[str] = []
    found = dapr_binaries(progress=lines.append)
    assert found.daprd.parent == machine
    assert lines[0] == f"Dapr 1.18.2 in {folder} is passed over: placement there is missing or of another version"


def test_another_program_of_the_same_name_is_not_taken_for_daprs(tmp_path: Path, machine: Path) -> None:
    folder = dapr(tmp_path / "path", "1.18.2")
    program(folder / "scheduler", ["path\texample.com/scheduler", "mod\texample.com/scheduler\tv1.18.2"])
    program(folder / "sentry", ["path\texample.com/sentry"])
    assert dapr_binaries(progress=lambda _: None).daprd.parent == machine
    dapr(folder, "1.18.2", SLIM)
    assert dapr_binaries().sentry is None


def test_without_an_installation_the_pinned_version_is_built(machine: Path) -> None:
    dapr(machine, "1.18.2")
    lines: list[str] = []
    assert dapr_binaries(progress=lines.append) == DaprBinaries(
        "1.18.2", "built from source", *(machine / name for name in ALL)
    )
    assert lines == ["building daprd placement scheduler sentry 1.18.2"]


def test_a_slim_installation_has_its_missing_sentry_built_alone(tmp_path: Path, machine: Path) -> None:
    dapr(tmp_path / "path", "1.18.2", SLIM)
    lines: list[str] = []
    slim = dapr_binaries(progress=lines.append)
    assert slim.sentry is None
    assert lines == []
    assert sentry_binary(slim, lines.append) == machine / "sentry"
    assert lines == ["building sentry 1.18.2"]


def test_an_installation_with_sentry_uses_its_own(tmp_path: Path) -> None:
    folder = dapr(tmp_path / "path", "1.18.2")
    assert sentry_binary(dapr_binaries()) == folder / "sentry"


def test_a_series_that_is_not_pinned_is_an_error_that_names_those_that_are() -> None:
    with pytest.raises(ToolMissing, match=r"^Dapr 0\.9 is not a series that can be built here: there is .*1\.18"):
        dapr_binaries("0.9")


@pytest.mark.parametrize(
    ("version", "fitting"),
    [
        ("1.18.2", True),
        ("1.18.10", True),
        ("1.18.1", False),
        ("1.19.2", False),
        ("2.18.2", False),
        ("1.18.3-rc.1", False),
        ("1.18", False),
        ("edge", False),
        ("", False),
    ],
)
def test_a_version_fits_if_it_is_a_release_of_the_series_and_not_older(version: str, *, fitting: bool) -> None:
    assert fits(version, "1.18.2") is fitting


def test_the_version_set_by_the_linker_counts_before_the_modules(tmp_path: Path) -> None:
    module = "mod\tgithub.com/dapr/dapr\tv0.0.0-20260101000000-abcdef+dirty\t"
    name = "github.com/dapr/dapr/pkg/buildinfo"
    flags = f'build\t-ldflags="-X {name}.gitversion=v1 -X {name}.version=1.18.5 -s -w"'
    file = program(tmp_path / "placement", ["path\tgithub.com/dapr/dapr/cmd/placement", module, flags])
    assert go_program(file) == GoProgram("github.com/dapr/dapr/cmd/placement", "1.18.5")


def test_what_go_did_not_link_is_no_go_program(tmp_path: Path) -> None:
    empty, other, missing = tmp_path / "empty", tmp_path / "other", tmp_path / "missing"
    empty.touch()
    other.write_bytes(b"\x7fELF" + b"\xff Go buildinf:" + b"\0" * 64)
    assert [go_program(file) for file in (empty, other, missing)] == [None, None, None]
