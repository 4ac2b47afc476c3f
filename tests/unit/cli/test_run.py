"""How `apibase run` starts its stack of one app."""

from __future__ import annotations

from pathlib import Path

import pytest
import typer

from apibase.cli import run as module
from apibase.local.binaries.dapr_tool import SERIES
from apibase.local.errors import NoStack
from apibase.local.options import StackOptions
from apibase.local.state_file import StackState

TOPOLOGY = """
version: 1
apps:
  - appID: orders
    appDirPath: .
    command: [python, -V]
"""


class Seen(Exception):
    """Raised in place of starting a stack."""

    def __init__(self, options: StackOptions) -> None:
        self.options = options


@pytest.mark.parametrize(("noted", "series"), [("1.14", "1.14"), ("", SERIES), (None, SERIES)])
def test_a_sidecar_that_joins_is_of_the_stacks_series(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, noted: str | None, series: str
) -> None:
    (tmp_path / "dapr.yaml").write_text(TOPOLOGY)

    def running(_: Path) -> StackState:
        if noted is None:
            raise NoStack("none")
        return StackState(1, "", "id", "dapr.yaml", str(tmp_path), str(tmp_path), dapr=noted)

    def stack(_: object, options: StackOptions) -> None:
        raise Seen(options)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(module, "running_stack", running)
    monkeypatch.setattr(module, "Stack", stack)
    with pytest.raises(Seen) as caught:
        module.run("orders", file=Path("dapr.yaml"))
    assert caught.value.options.dapr == series


def test_an_app_without_a_command_is_refused_with_the_way_to_give_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "dapr.yaml").write_text(TOPOLOGY.replace("    command: [python, -V]\n", ""))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(typer.Exit):
        module.run("orders", file=Path("dapr.yaml"))
    assert capsys.readouterr().err.startswith("apibase: orders has no command; give one: apibase run orders -- ")
