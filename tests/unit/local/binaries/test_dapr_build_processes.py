"""Building Dapr while others want it too, and a build that ends half-way: by kill -9, by Ctrl-C."""

from __future__ import annotations

import signal
import sys
from typing import TYPE_CHECKING

import pytest

from apibase.local.binaries.dapr_build import build_dapr, dapr_module
from tests.unit.local.binaries.pretend_go import DEADLINE_SECONDS, Go, is_gone, leftovers, until

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.req("R14.1")


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
    go: Go, tools_cache: Path, start: Callable[[], subprocess.Popen[str]]
) -> None:
    go.hold.touch()
    builder = start()
    until(lambda: go.builds)
    builder.send_signal(signal.SIGKILL)
    builder.wait()
    assert len(leftovers(tools_cache)) == 1
    assert not any((path / "daprd").exists() for path in tools_cache.iterdir())
    if sys.platform == "linux":
        until(lambda: is_gone(go.builds[0]["pid"]))

    go.hold.unlink()
    folder = build_dapr(dapr_module("1.18"), lambda _: None)
    assert go.built == ["scheduler", "scheduler", "placement", "sentry", "daprd"]
    assert all((folder / name).exists() for name in go.built)
    assert leftovers(tools_cache) == []


def test_ctrl_c_ends_go_and_cleans_up(go: Go, tools_cache: Path, start: Callable[[], subprocess.Popen[str]]) -> None:
    go.hold.touch()
    builder = start()
    until(lambda: go.builds)
    builder.send_signal(signal.SIGINT)
    _, errors = builder.communicate(timeout=DEADLINE_SECONDS)
    assert errors.rstrip().endswith("KeyboardInterrupt")
    assert is_gone(go.builds[0]["pid"])
    assert leftovers(tools_cache) == []
