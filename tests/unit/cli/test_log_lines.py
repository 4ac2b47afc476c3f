"""Processes' lines on the console: which are shown, and how."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from apibase.cli.console import fail
from apibase.cli.log_lines import LogPrinter
from apibase.local.errors import with_tail
from apibase.local.events import Event, EventKind, Role
from apibase.local.topology import AppSpec, Topology

APPS = (
    AppSpec(app_id="orders", folder=Path("/x")),
    AppSpec(app_id="web", folder=Path("/x"), app_log="file", sidecar_log="console"),
)


class Shown:
    """A printer and what it printed."""

    def __init__(self, *, raw: bool = False, sidecar_logs: bool = False) -> None:
        self._out = io.StringIO()
        console = Console(file=self._out, width=200, highlight=False, soft_wrap=True)
        self.printer = LogPrinter(console, Topology(Path("/dapr.yaml"), APPS), raw=raw, sidecar_logs=sidecar_logs)
        self.printer.steady = True

    def line(self, text: str, role: Role = Role.APP, app_id: str = "orders") -> str:
        self.printer.show(Event(EventKind.LINE, role, app_id, text, app_id))
        printed = self._out.getvalue()
        self._out.seek(0)
        self._out.truncate()
        return printed


def test_a_json_line_is_told_in_a_persons_order() -> None:
    line = {
        "time": "2026-01-02T03:04:05.678+00:00",
        "level": "warning",
        "message": "low [stock]",
        "sku": "A 1",
        "trace_id": "4bf9",
    }
    shown = Shown().line(json.dumps(line))
    assert shown.startswith("orders ")
    assert shown.endswith(':05.678 WARNING low [stock]  sku="A 1"  trace=4bf9\n')


def test_a_line_that_is_not_json_stays_as_it_is() -> None:
    assert Shown().line("Traceback [bold]") == "orders Traceback [bold]\n"
    assert Shown().line("{not json") == "orders {not json\n"


def test_a_traceback_in_a_field_stands_on_lines_of_its_own() -> None:
    shown = Shown().line(json.dumps({"level": "ERROR", "message": "broke", "exception": "Traceback\n  File x\n"}))
    assert shown == "orders ERROR   broke\nTraceback\n  File x\n"


def test_raw_lines_are_shown_as_the_app_wrote_them() -> None:
    assert Shown(raw=True).line('{"level": "INFO"}') == '{"level": "INFO"}\n'


@pytest.mark.parametrize(
    ("level", "steady", "seen"),
    [("info", True, False), ("warning", True, True), ("error", False, False), ("fatal", False, True)],
)
def test_a_sidecar_is_heard_from_warnings_on_and_while_things_change_only_when_it_dies(
    level: str, *, steady: bool, seen: bool
) -> None:
    shown = Shown()
    shown.printer.steady = steady
    assert bool(shown.line(json.dumps({"level": level, "msg": "x"}), Role.SIDECAR)) == seen


def test_all_of_a_sidecar_is_shown_when_the_file_or_the_person_wants_it() -> None:
    info = json.dumps({"level": "info", "msg": "x"})
    assert Shown().line(info, Role.SIDECAR, "web") == "web/daprd INFO    x\n"
    assert Shown(sidecar_logs=True).line(info, Role.SIDECAR) == "orders/daprd INFO    x\n"


def test_an_app_that_logs_to_its_file_alone_and_the_backends_are_not_shown() -> None:
    assert Shown().line("x", Role.APP, "web") == ""
    assert Shown().line("x", Role.PLATFORM) == ""


def test_quoted_log_lines_of_an_error_are_readable_too(capsys: pytest.CaptureFixture[str]) -> None:
    fail(
        with_tail(
            "orders ended: exit code 1", Path("/logs/orders.log"), ['{"level": "ERROR", "message": "no"}', "plain [x]"]
        )
    )
    assert capsys.readouterr().err.splitlines() == [
        "apibase: orders ended: exit code 1",
        "The last lines of its log:",
        "  | ERROR   no",
        "  | plain [x]",
        "All of it: /logs/orders.log",
    ]
