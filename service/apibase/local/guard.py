"""The process that cleans up after a supervisor which could not do it itself (kill -9, a crash, out of memory).

It reads lines from the supervisor over a pipe. When the pipe closes without `dismiss`, the supervisor is dead: the guard
asks every watched process group to stop, kills what does not, and removes the files. It also ends what left its group,
found by the stack's mark in its environment (Linux). Standard library only: it is run as a script, and its functions are
used by the supervisor too.
"""

import contextlib
import os
import shutil
import signal
import sys
import time
from pathlib import Path

MARK = "APIBASE_STACK"
PATIENCE_SECONDS = 3.0
POLL_SECONDS = 0.02
_START_TIME = 19  # Field 22 of /proc/PID/stat, counted from the state, the first field after the name.


def start_time(pid: int) -> str:
    """When a process started, as the kernel tells it; with the pid it names a process for good. "" if it can't be told."""
    fields = _stat(pid)
    return fields[_START_TIME] if len(fields) > _START_TIME else ""


def is_same(pid: int, started: str) -> bool:
    """Whether a pid still names the process that started then; where that can't be told, whether it names one at all."""
    if Path("/proc/self/stat").exists():
        return _alive(pid) and start_time(pid) == started
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    return True


def marked(stack_id: str) -> list[int]:
    """The live processes that carry this stack's mark, whatever their parent, group or session (Linux)."""
    mark = f"{MARK}={stack_id}".encode()
    found = []
    for entry in _proc():
        with contextlib.suppress(OSError):
            variables = (entry / "environ").read_bytes().split(b"\0")
            if mark in variables and _alive(int(entry.name)):
                found.append(int(entry.name))
    return [pid for pid in found if pid != os.getpid()]


def group_alive(group: int) -> bool:
    """Whether a process group has a member that still runs; a zombie does not."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    members = [fields for entry in _proc() if len(fields := _stat(int(entry.name))) > 2 and fields[2] == str(group)]  # noqa: PLR2004
    return not members or any(fields[0] not in "ZX" for fields in members)


def send(group: int, number: int) -> None:
    """Signal a process group, if it is still there; the signal 0 is none."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def end_groups(groups: dict[int, int], patience: float = PATIENCE_SECONDS) -> None:
    """Ask groups to stop, each by its own signal, 0 for none; kill those that still run when patience ends."""
    for group, number in groups.items():
        send(group, number)
    deadline = time.monotonic() + patience
    left = set(groups)
    while left and time.monotonic() < deadline:
        left = {group for group in left if group_alive(group)}
        if left:
            time.sleep(POLL_SECONDS)
    for group in left:
        send(group, signal.SIGKILL)


def end_marked(stack_id: str) -> None:
    """Kill whatever carries the stack's mark and is still alive."""
    for pid in marked(stack_id):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)


def _proc() -> list[Path]:
    proc = Path("/proc")
    return [entry for entry in proc.iterdir() if entry.name.isdigit()] if (proc / "self").exists() else []


def _stat(pid: int) -> list[str]:
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return []
    return text.rpartition(")")[2].split()


def _alive(pid: int) -> bool:
    fields = _stat(pid)
    return bool(fields) and fields[0] not in "ZX"


def main() -> None:
    """Read orders until the pipe closes, then clean up unless dismissed."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)
    stack_id = sys.argv[1]
    groups: dict[int, int] = {}
    paths: list[Path] = []
    for line in sys.stdin:
        match line.rstrip("\n").split(" ", 2):
            case ["watch", group, how]:
                groups[int(group)] = int(how)
            case ["forget", group]:
                groups.pop(int(group), None)
            case ["remove", *rest]:
                paths.append(Path(" ".join(rest)))
            case ["dismiss"]:
                return
    end_groups(groups)
    end_marked(stack_id)
    for path in paths:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
