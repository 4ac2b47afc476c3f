"""A folder for the logs of each run of a stack, and the end of those of old runs."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from datetime import UTC, datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

RUNS_KEPT = 5


class LogRun:
    """The log folder of one run, named by the time. It is locked while the run lasts, so no other run removes it."""

    def __init__(self, parent: Path, keep: int = RUNS_KEPT) -> None:
        parent.mkdir(parents=True, exist_ok=True)
        self.folder = parent / f"{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}"
        self.folder.mkdir()
        self._lock: int | None = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY)
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        for old in sorted(path for path in parent.iterdir() if path.is_dir())[:-keep]:
            _remove_unless_used(old)

    def close(self) -> None:
        """The run is over."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def _remove_unless_used(folder: Path) -> None:
    with contextlib.suppress(OSError):
        lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
        finally:
            os.close(lock)
