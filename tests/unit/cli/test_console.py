"""Progress, and the table of what runs where."""

from __future__ import annotations

import asyncio
import io
import sys
from types import SimpleNamespace

import pytest
from rich.console import Console

from apibase.cli.console import Progress, beside, stack_table
from apibase.local.errors import ChildDied
from apibase.local.events import Event, EventKind, Role


def died(name: str, how: str = "killed by SIGKILL") -> Event:
    return Event(EventKind.DIED, Role.APP, name, how, name)


def shown(progress_of: list[Event], error: BaseException | None = None) -> str:
    out = io.StringIO()
    progress = Progress(Console(file=out, width=200))
    with progress:
        for event in progress_of:
            progress.on_event(event)
        progress.__exit__(type(error) if error else None, error, None)
        progress._death = ""
    return out.getvalue()


def test_a_death_is_left_to_the_error_that_tells_it_and_a_further_one_is_shown() -> None:
    error = ChildDied("orders", "killed by SIGKILL", None, [])
    assert shown([died("orders"), died("payments", "exit code 1")], error) == "payments ended with exit code 1 too\n"


def test_a_death_that_no_error_tells_is_shown_in_the_end() -> None:
    assert shown([died("orders")], asyncio.CancelledError()) == "orders was killed by SIGKILL\n"
    assert shown([died("orders")], ValueError("other")) == "orders was killed by SIGKILL\n"
    noted = ValueError("broke off")
    noted.add_note("orders was killed by SIGKILL\nIts log ends")
    assert shown([died("orders")], noted) == ""


@pytest.mark.parametrize(("out", "err", "same"), [(True, True, True), (True, False, False), (False, True, False)])
def test_progress_shares_the_console_of_results_only_where_both_are_the_terminal(
    monkeypatch: pytest.MonkeyPatch, out: bool, err: bool, same: bool
) -> None:
    monkeypatch.setattr(sys, "stdout", SimpleNamespace(isatty=lambda: out))
    monkeypatch.setattr(sys, "stderr", SimpleNamespace(isatty=lambda: err))
    results = Console(file=io.StringIO())
    assert (beside(results) is results) == same


@pytest.mark.parametrize(("width", "headings"), [(80, 6), (100, 8), (120, 8)])
def test_the_table_fits_its_terminal(width: int, headings: int) -> None:
    state = SimpleNamespace(
        app_port=50061,
        app_metrics_port=29999,
        grpc_port=29999,
        http_port=29999,
        metrics_port=29999,
        app_pid=4194304,
        sidecar_pid=4194304,
    )
    instance = SimpleNamespace(label="recommendations.1", state=lambda: state)
    stack = SimpleNamespace(topology=SimpleNamespace(file=SimpleNamespace(name="dapr.yaml")), instances=[instance])
    out = io.StringIO()
    Console(file=out, width=width).print(stack_table(stack, width))
    lines = out.getvalue().splitlines()
    assert lines[2].count("┃") == headings + 1
    assert lines[4].startswith("│ recommendations.1 │ 50061 │")
    assert lines[4].rstrip().endswith("4194304 │")
