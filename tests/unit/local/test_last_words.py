"""What is told of a process that died: how, why in a few words, and the lines worth reading."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from apibase.local.errors import ChildDied
from apibase.local.last_words import reason

LOG = Path("/logs/orders.daprd.log")
DAPRD = (
    "Fatal error from runtime: process component events error: [INIT_COMPONENT_FAILURE]: initialization error occurred for "
    "events ({0}): [CREATE_COMPONENT_FAILURE]: initialization error occurred for events ({0}): {1}"
)


def line(level: str, message: str) -> str:
    return json.dumps({"level": level, "msg": message})


def test_the_reason_comes_first_and_then_only_what_is_more_than_info() -> None:
    fatal = line("fatal", DAPRD.format("pubsub.rediss/v1", "couldn't find message bus pubsub.rediss/v1"))
    tail = [line("info", "hello"), line("warning", "mTLS is disabled"), *[line("info", "bye")] * 20, fatal]
    assert str(ChildDied("orders' sidecar", "exit code 1", LOG, tail)).splitlines() == [
        "orders' sidecar ended with exit code 1: couldn't find message bus pubsub.rediss/v1",
        "The last lines of its log:",
        f"  | {line('warning', 'mTLS is disabled')}",
        f"  | {fatal}",
        f"All of it: {LOG}",
    ]


def test_lines_that_are_not_json_are_all_shown() -> None:
    told = str(ChildDied("web", "exit code 1", LOG, [line("INFO", "hi"), "Traceback", "ValueError: no"])).splitlines()
    assert told[0] == "web ended with exit code 1"
    assert told[2:4] == ["  | Traceback", "  | ValueError: no"]


def test_what_a_signal_ended_has_no_reason_of_its_own() -> None:
    killed = str(ChildDied("orders", "killed by SIGKILL", LOG, [line("ERROR", "a call failed")]))
    assert killed.splitlines()[0] == "orders was killed by SIGKILL"
    quiet = str(ChildDied("orders", "killed by SIGKILL", LOG, [line("INFO", "serving")]))
    assert quiet == f"orders was killed by SIGKILL\nIts log ends without a warning: {LOG}"


@pytest.mark.parametrize(
    ("tail", "why"),
    [
        ([line("error", "first"), line("fatal", "Fatal error from runtime: no port")], "no port"),
        ([line("ERROR", "cannot start\nTraceback")], "cannot start"),
        (
            [line("fatal", DAPRD.format("state.redis/v1", "connection refused"))],
            "events (state.redis/v1): connection refused",
        ),
        ([line("ERROR", "long ago"), *[line("INFO", "x")] * 20], ""),
        (["plain"], ""),
        ([], ""),
    ],
)
def test_the_reason_is_the_last_fatal_message_or_a_late_error(tail: list[str], why: str) -> None:
    assert reason(tail) == why
