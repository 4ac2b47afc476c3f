"""The folder of one run of a stack: sockets, data that is not to be kept, generated configuration."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

RUN_PREFIX = "apibase-"


def make_run_folder() -> Path:
    """Make a fresh one with a short path, because a Unix socket's path has 107 bytes at the most."""
    folder = Path(tempfile.mkdtemp(prefix=RUN_PREFIX))
    if os.geteuid() == 0:
        folder.chmod(0o711)  # PostgreSQL's own user must get through to its folders, which are its alone.
    (folder / "tmp").mkdir()
    return folder


def remove_run_folder(folder: Path) -> None:
    """Remove it with all that is in it."""
    shutil.rmtree(folder, ignore_errors=True)
