"""Tools that another user is to run: whether that user can reach them, and a copy where everybody can.

PostgreSQL refuses to run as root, so root starts it as another user, to whom root's cache folder is closed.
"""

from __future__ import annotations

import os
import pwd
import shutil
import stat
import tempfile
from pathlib import Path

from apibase.local.binaries.report import ToolMissing

_SHARED_FOLDER = Path("/var/tmp")  # noqa: S108 - survives a restart; what is found there is checked
_WRITABLE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH


def reachable_by(path: Path, uid: int) -> bool:
    """Whether the user `uid` may read and execute `path` and pass every folder on the way, symbolic links included.

    By permission bits alone: access lists, read-only mounts and `noexec` are not looked at.
    """
    if uid == 0:
        return True
    groups = _groups(uid)
    ways = {*path.absolute().parents, *path.resolve().parents}
    try:
        return all(_allowed(way, uid, groups, stat.S_IXOTH) for way in ways) and _allowed(
            path, uid, groups, stat.S_IXOTH | stat.S_IROTH
        )
    except OSError:
        return False


def public_copy(folder: Path, key: str) -> Path:
    """Return a copy of `folder` that every user can read and run and only we can write: `/var/tmp/apibase-root-<key>`.

    It is made once; `key` must name the content, as a cache folder's name does. A copy that lost files is made again.

    Raises `ToolMissing` when something is at that place that isn't ours alone: another user may have planted it.
    """
    uid = os.geteuid()
    shared = _SHARED_FOLDER.resolve()
    if not _is_safe_parent(shared):
        raise ToolMissing(f"{shared} can be changed by any user: `chmod 1777 {shared}` makes it safe to keep tools in")
    place = shared / f"apibase-{'root' if uid == 0 else uid}-{key}"
    if _exists(place):
        _must_be_ours(place, uid)
        if _sizes(place) == _sizes(folder):
            return place
    scratch = Path(tempfile.mkdtemp(prefix=f"{place.name}.part-", dir=shared))
    try:
        copy = scratch / "copy"
        shutil.copytree(folder, copy, symlinks=True)
        _open_for_reading(copy)
        if _exists(place):
            _must_be_ours(place, uid)
            place.rename(scratch / "replaced")
        _move(copy, place)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    _must_be_ours(place, uid)
    return place


def _allowed(path: Path, uid: int, groups: set[int], bits: int) -> bool:
    """Whether the bits, given for "others", are set in the one class of permissions that applies to this user."""
    status = path.stat()
    shift = 6 if status.st_uid == uid else 3 if status.st_gid in groups else 0
    return status.st_mode >> shift & bits == bits


def _groups(uid: int) -> set[int]:
    try:
        user = pwd.getpwuid(uid)
    except KeyError:
        return set()
    return set(os.getgrouplist(user.pw_name, user.pw_gid))


def _exists(place: Path) -> bool:
    return os.path.lexists(place)


def _is_safe_parent(folder: Path) -> bool:
    """Whether nobody but root and the owner of an entry can rename or remove that entry."""
    status = folder.stat()
    return status.st_uid in {0, os.geteuid()} and (
        not status.st_mode & _WRITABLE_BY_OTHERS or bool(status.st_mode & stat.S_ISVTX)
    )


def _must_be_ours(place: Path, uid: int) -> None:
    status = place.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != uid or status.st_mode & _WRITABLE_BY_OTHERS:
        raise ToolMissing(f"{place} is not a folder that user {uid} alone can write, so it is not used: remove it")


def _sizes(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): path.lstat().st_size for path in folder.rglob("*") if not path.is_dir()}


def _open_for_reading(folder: Path) -> None:
    """Let everybody read, run what the owner may run, and nobody but the owner write."""
    for path in (folder, *folder.rglob("*")):
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() or path.stat().st_mode & stat.S_IXUSR else 0o644)


def _move(copy: Path, place: Path) -> None:
    try:
        copy.rename(place)
    except OSError:
        if not _exists(place):
            raise
        # Another process of ours was faster, or another user planted something: the caller checks which.
