"""Where an app of a running stack is told what to log: a file that it watches (`APIBASE_LOG_LEVELS_FILE`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

VARIABLE = "APIBASE_LOG_LEVELS_FILE"


def levels_file(run_folder: Path, app_id: str) -> Path:
    """Return the file of an app's replicas. It is there once something was set."""
    return run_folder / "log-levels" / f"{app_id}.txt"
