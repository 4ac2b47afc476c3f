"""A process's output: from its pipe into a file, and line by line to whoever wants to see it."""

from __future__ import annotations

import asyncio
import os
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_CHUNK = 65_536
_TAIL_BYTES = 32_768
_LONGEST_LINE = 65_536


class LogFile:
    """Appends what a pipe brings to a file. Lines are only cut out of it when someone listens."""

    def __init__(self, path: Path, on_line: Callable[[str], None] | None) -> None:
        self.path = path
        self._on_line = on_line
        self._file = path.open("ab", buffering=0)
        self._pipe: IO[bytes] | None = None
        self._unfinished = b""

    def follow(self, pipe: IO[bytes]) -> None:
        """Read the pipe whenever there is something in it."""
        os.set_blocking(pipe.fileno(), False)
        self._pipe = pipe
        asyncio.get_running_loop().add_reader(pipe.fileno(), self._read)

    def drain(self) -> None:
        """Take what is in the pipe now; the writer has ended, though a child of its may still hold the pipe."""
        while self._read():
            pass

    def close(self) -> None:
        """Take what is left, and close pipe and file."""
        self.drain()
        self._stop_reading()
        if self._unfinished and self._on_line:
            self._on_line(self._unfinished.decode(errors="replace"))
        self._unfinished = b""
        self._file.close()

    def tail(self, lines: int) -> list[str]:
        """The last lines of the file."""
        if not self.path.exists():
            return []
        with self.path.open("rb") as file:
            file.seek(max(0, self.path.stat().st_size - _TAIL_BYTES))
            return file.read().decode(errors="replace").splitlines()[-lines:]

    def _read(self) -> bool:
        if self._pipe is None:
            return False
        try:
            chunk = os.read(self._pipe.fileno(), _CHUNK)
        except BlockingIOError:
            return False
        if not chunk:
            self._stop_reading()
            return False
        self._file.write(chunk)
        if self._on_line:
            *lines, self._unfinished = (self._unfinished + chunk).split(b"\n")
            for line in lines:
                self._on_line(line.decode(errors="replace"))
            if len(self._unfinished) > _LONGEST_LINE:
                self._on_line(self._unfinished.decode(errors="replace"))
                self._unfinished = b""
        return True

    def _stop_reading(self) -> None:
        if self._pipe is not None:
            asyncio.get_running_loop().remove_reader(self._pipe.fileno())
            self._pipe.close()
            self._pipe = None
