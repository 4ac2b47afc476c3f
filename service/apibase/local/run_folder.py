"""The folder of one run of a stack: sockets, data that is not to be kept, generated configuration."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

RUN_PREFIX = "apibase-"
_FALLBACK = Path("/tmp")  # noqa: S108 - for a folder that mkdtemp makes, ours alone
_LONGEST_PARENT = 70


def run_folders() -> Path:
    """Where run folders are: the folder for temporary files, if its path is short and has no space in it.

    A Unix socket's path has 107 bytes at the most, and Dapr cuts a connection string at its spaces.
    """
    parent = Path(tempfile.gettempdir())
    fits = len(str(parent)) <= _LONGEST_PARENT and not any(character.isspace() for character in str(parent))
    return parent if fits else _FALLBACK


def make_run_folder() -> Path:
    """Make a fresh one."""
    folder = Path(tempfile.mkdtemp(prefix=RUN_PREFIX, dir=run_folders()))
    if os.geteuid() == 0:
        folder.chmod(0o711)  # PostgreSQL's own user must get through to its folders, which are its alone.
    (folder / "tmp").mkdir()
    return folder


def remove_run_folder(folder: Path) -> None:
    """Remove it with all that is in it."""
    shutil.rmtree(folder, ignore_errors=True)
