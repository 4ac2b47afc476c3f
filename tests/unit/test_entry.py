"""The entry of a service's process: what is wrong with its configuration is told in one line, without a traceback."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from apibase import App, Settings, run

if TYPE_CHECKING:
    from tests.unit.conftest import Desk


def test_a_wrong_setting_ends_the_process_with_a_line_that_names_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("APP_PORT", "many")
    monkeypatch.setenv("APIBASE_LOG_LEVEL", "loud")

    with pytest.raises(SystemExit) as caught:
        run(App)

    assert caught.value.code == 2
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(":")[0] for line in lines] == ["wrong setting APP_PORT", "wrong setting APIBASE_LOG_LEVEL"]


def test_a_contradiction_of_the_contracts_ends_the_process_with_a_line_that_says_it(
    desk: Desk, capsys: pytest.CaptureFixture[str]
) -> None:
    class Lazy(desk.grpc.DeskEventsServicer):
        pass

    def build() -> App:
        app = App(Settings())
        app.add_servicer(Lazy())
        return app

    with pytest.raises(SystemExit) as caught:
        run(build)

    assert caught.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert re.match(
        r"wrong contract: desk/v1/desk\.proto:\d+: desk\.v1\.DeskEvents\.OnAsked is not implemented by .*Lazy",
        line,
    )


def test_an_app_that_is_built_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[App] = []

    def note(self: App) -> None:
        ran.append(self)
        raise SystemExit(0)

    monkeypatch.setattr(App, "run", note)
    app = App(Settings())

    with pytest.raises(SystemExit) as caught:
        run(lambda: app)

    assert (ran, caught.value.code) == ([app], 0)
