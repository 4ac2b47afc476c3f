"""The folder for what was built or downloaded once; a half-made thing is never used, and two processes make it once."""

from __future__ import annotations

import fcntl
import os
import shutil
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from apibase.local.binaries.report import EVERY_SECONDS, Progress, ToolMissing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

_POLL_SECONDS = 0.1


def cache_folder() -> Path:
    """Where tools are kept: `$APIBASE_CACHE`, else `apibase` in `$XDG_CACHE_HOME` or the platform's cache folder."""
    if explicit := os.environ.get("APIBASE_CACHE"):
        return Path(explicit).expanduser().absolute()
    if (xdg := os.environ.get("XDG_CACHE_HOME")) and Path(xdg).is_absolute():
        return Path(xdg) / "apibase"
    try:
        home = Path.home()
    except RuntimeError as error:
        raise ToolMissing("this user has no home folder to cache tools in: set APIBASE_CACHE to a folder") from error
    return home / ("Library/Caches" if sys.platform == "darwin" else ".cache") / "apibase"


def is_executable(file: Path) -> bool:
    """Whether `file` is a file, not empty, that this user may run; not so where the user may not even look."""
    return is_data(file) and os.access(file, os.X_OK)


def is_data(file: Path) -> bool:
    """Whether `file` is a file, not empty; not so where the user may not even look."""
    try:
        return file.is_file() and file.stat().st_size > 0
    except PermissionError:
        return False


def ensure(
    key: str,
    files: Iterable[str],
    make: Callable[[Path], Path],
    what: str,
    progress: Progress,
    is_good: Callable[[Path], bool] = is_executable,
) -> Path:
    """Return the cache's folder `key`, made first if it isn't there or lacks one of `files`, which are executables.

    `is_good` says otherwise what one of `files` must be: `is_data` for what isn't executed.

    `make` gets an empty scratch folder and returns the finished one inside it, which is then renamed into place: at
    whatever moment the process is killed, the next call starts from nothing or finds the whole. Of several processes
    (or threads) one makes it while the others wait, say so every few seconds, and use the result.

    Raises `ToolMissing` when the cache folder can't be written, and whatever `make` raises.
    """
    names = tuple(files)
    folder = cache_folder() / key
    if _complete(folder, names, is_good):
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _locked(folder.with_name(f"{key}.lock"), what, progress):
            if not _complete(folder, names, is_good):
                _fill(folder, names, make, is_good)
    except OSError as error:
        message = (
            f"{what} can't be put into the cache: {error}; APIBASE_CACHE names another folder than {folder.parent}"
        )
        raise ToolMissing(message) from error
    return folder


def _complete(folder: Path, files: Iterable[str], is_good: Callable[[Path], bool]) -> bool:
    return all(is_good(folder / name) for name in files)


def _fill(folder: Path, files: Iterable[str], make: Callable[[Path], Path], is_good: Callable[[Path], bool]) -> None:
    """Make the folder beside its place and move it there; the caller holds the lock, so leftovers are nobody's."""
    for leftover in folder.parent.glob(f"{folder.name}.part-*"):
        shutil.rmtree(leftover, ignore_errors=True)
    scratch = Path(tempfile.mkdtemp(prefix=f"{folder.name}.part-", dir=folder.parent))
    try:
        made = make(scratch)
        if lacking := [name for name in files if not is_good(made / name)]:
            raise ToolMissing(
                f"{folder.name} was made without {', '.join(lacking)}: remove {folder.parent} and try again"
            )
        made.chmod(0o755)
        if folder.exists():
            folder.rename(scratch / "replaced")
        made.rename(folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


@contextmanager
def _locked(file: Path, what: str, progress: Progress) -> Iterator[None]:
    """Hold an exclusive lock on `file`, which the kernel frees when the holder dies.

    The file stays: whoever removed it would let two in.
    """
    with file.open("a") as handle:
        started = time.monotonic()
        due = started
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                now = time.monotonic()
            if now >= due:
                progress(f"{what}: another process is making it, waiting for its result, {now - started:.0f} s")
                due = now + EVERY_SECONDS
            time.sleep(_POLL_SECONDS)
        yield
