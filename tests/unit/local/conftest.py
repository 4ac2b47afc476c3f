"""What the tests of the local stack's tools share: a cache of their own, and a machine with a pretended Go."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.unit.local.binaries.pretend_go import Go

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

# A shell's background job, as CI may be, ignores Ctrl-C; this is what a person's would do.
_CALLER = """
import signal
import sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from apibase.local.binaries.dapr_build import build_dapr, dapr_module
print(build_dapr(dapr_module("1.18"), lambda line: print(line, file=sys.stderr, flush=True)))
"""


@pytest.fixture
def tools_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("APIBASE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path / "cache"


@pytest.fixture
def go(tmp_path: Path, tools_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Go:
    monkeypatch.setenv("PATH", str(tmp_path / "go"))
    monkeypatch.delenv("GOFLAGS", raising=False)
    return Go(tmp_path / "go")


@pytest.fixture
def start(go: Go) -> Iterator[Callable[[], subprocess.Popen[str]]]:
    """Start other processes that want Dapr; they and what they started end with the test."""
    started = []

    def begin() -> subprocess.Popen[str]:
        command = [sys.executable, "-c", _CALLER]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        started.append(process)
        return process

    yield begin
    go.hold.unlink(missing_ok=True)
    for process in started:
        process.kill()
        process.communicate()
