"""Running one slow command to its end: its output in a log, a line every few seconds, and it never outlives us."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

from apibase.local import launch
from apibase.local.binaries.report import EVERY_SECONDS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

_TAIL_LINES = 15
_PATIENCE_SECONDS = 3.0


def run_logged(
    command: Sequence[str | Path],
    *,
    cwd: Path,
    env: Mapping[str, str],
    log: Path,
    tick: Callable[[float, str], None],
) -> int:
    """Run a command with its output appended to `log`, and return its exit code.

    `tick` is called every few seconds with the seconds so far and what the command wrote so far. When it raises, or
    Ctrl-C arrives, the command is ended first. It stays in our process group, so that a terminal's Ctrl-C reaches it
    even when this runs in a thread; on Linux the kernel ends it should we be killed.
    """
    # The launcher ties the command's life to ours without running Python code between fork and exec.
    launcher = [sys.executable, "-I", "-S", launch.__file__, str(os.getpid()), str(int(signal.SIGKILL)), "", ""]
    begin = log.stat().st_size if log.exists() else 0
    started = time.monotonic()
    with log.open("ab") as output:
        process = subprocess.Popen(  # noqa: S603 - our own command, without a shell
            [*launcher, *map(str, command)],
            cwd=cwd,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            while True:
                try:
                    return process.wait(timeout=EVERY_SECONDS)
                except subprocess.TimeoutExpired:
                    tick(time.monotonic() - started, log.read_bytes()[begin:].decode(errors="replace"))
        finally:
            _end(process)


def tail(log: Path) -> list[str]:
    """Return the last lines of a log, the most that a person wants to see at once."""
    return log.read_text(errors="replace").splitlines()[-_TAIL_LINES:] if log.exists() else []


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(timeout=_PATIENCE_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
