"""Vault: the file that a variable names, else one on PATH, else one that is built once from the pinned module."""

from __future__ import annotations

from pathlib import Path

import pytest

from apibase.local.binaries import ToolMissing, vault_binaries
from apibase.local.binaries.__main__ import main
from tests.unit.local.binaries.pretend_go import Go, leftovers

VARIABLE = "APIBASE_VAULT"


def vault(file: Path, version: str) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"#!/bin/sh\necho 'Vault v{version} (0123abc), built 2024-10-08'\n")
    file.chmod(0o755)
    return file


def quiet(_: str) -> None:
    """Say nothing."""


@pytest.fixture(autouse=True)
def no_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)


def test_the_variable_names_it(tmp_path: Path, tools_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = vault(tmp_path / "mine" / "vault", "1.15.2")
    monkeypatch.setenv(VARIABLE, str(mine))

    found = vault_binaries(quiet)

    assert (found.version, found.origin, found.vault) == ("1.15.2", VARIABLE, mine)


@pytest.mark.parametrize("version", ["1.9.0", ""])
def test_a_variable_that_names_no_fitting_one_is_refused(
    tmp_path: Path, tools_cache: Path, monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    monkeypatch.setenv(VARIABLE, str(vault(tmp_path / "mine" / "vault", version)))

    with pytest.raises(ToolMissing, match=r"APIBASE_VAULT is .*, which is no Vault 1\.12 or newer"):
        vault_binaries(quiet)


def test_an_installed_one_is_used(tmp_path: Path, tools_cache: Path, go: Go, monkeypatch: pytest.MonkeyPatch) -> None:
    installed = vault(tmp_path / "installed" / "vault", "1.16.0")
    monkeypatch.setenv("PATH", f"{installed.parent}:{go.folder}:/usr/bin:/bin")

    assert vault_binaries(quiet).vault == installed
    assert not go.builds


def test_without_one_it_is_built_once(tools_cache: Path, go: Go) -> None:
    lines: list[str] = []

    first, second = vault_binaries(lines.append), vault_binaries(lines.append)

    assert first == second
    assert (first.version, first.origin) == ("1.18.0", "built from source")
    assert first.vault.is_file()
    (build,) = go.builds
    assert build["arguments"][-1] == "github.com/hashicorp/vault"
    assert build["env"]["GOFLAGS"].endswith("-mod=readonly")
    assert any("Vault 1.18.0: building it from source, once, with Go" in line for line in lines)
    assert not leftovers(tools_cache)


def test_a_build_that_fails_says_why_and_the_way_to_get_it(tools_cache: Path, go: Go) -> None:
    (go.folder / "fail").touch()

    with pytest.raises(ToolMissing, match=r"Vault 1.18.0 can't be built.*APIBASE_VAULT") as caught:
        vault_binaries(quiet)

    assert "undefined: everything" in str(caught.value)


def test_the_list_of_tools_has_it_where_it_is_asked_for(
    tmp_path: Path, tools_cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(VARIABLE, str(vault(tmp_path / "mine" / "vault", "1.15.2")))
    for name in ("redis", "postgres", "kafka", "zipkin", "dapr"):
        monkeypatch.setattr(f"apibase.local.binaries.__main__._{name}", lambda *_: ("another", "1", "here", "/path"))

    assert main(["1.18"]) == 0
    assert "Vault" not in capsys.readouterr().out
    assert main(["1.18", "vault"]) == 0
    assert any(line.split()[:2] == ["Vault", "1.15.2"] for line in capsys.readouterr().out.splitlines())
