"""The supervisor's side of the guard: tells it what to clean up should the supervisor die."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from pathlib import Path

from apibase.local import guard


class Guardian:
    """Starts the guard and keeps it informed over a pipe; `dismiss` ends it without effect."""

    def __init__(self, stack_id: str) -> None:
        self._stack_id = stack_id
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the guard in a session of its own, out of reach of the terminal's Ctrl-C."""
        self._process = subprocess.Popen(  # noqa: S603 - our own script
            [sys.executable, "-I", "-S", str(Path(guard.__file__)), self._stack_id],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            cwd="/",
            bufsize=0,
        )

    @property
    def pid(self) -> int | None:
        """The guard's process id, while it runs."""
        return self._process.pid if self._process else None

    def watch(self, group: int, stop_signal: int) -> None:
        """Have a process group ended by this signal."""
        self._tell(f"watch {group} {int(stop_signal)}")

    def forget(self, group: int) -> None:
        """The group is gone, and its number may come back as someone else's."""
        self._tell(f"forget {group}")

    def remove(self, path: Path) -> None:
        """Have a file or folder removed."""
        self._tell(f"remove {path}")

    def dismiss(self) -> None:
        """All is cleaned up: the guard ends, and is waited for."""
        if self._process is None:
            return
        self._tell("dismiss")
        if self._process.stdin:
            with contextlib.suppress(OSError):
                self._process.stdin.close()
        self._process.wait()
        self._process = None

    def _tell(self, line: str) -> None:
        if self._process and self._process.stdin:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.write(f"{line}\n".encode())
