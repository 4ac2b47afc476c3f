"""The note that a running stack leaves in its project, so that `call`, `run` and `status` find it."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import signal
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from apibase.local import guard
from apibase.local.errors import NoStack, StackAlreadyUp
from apibase.local.run_folder import RUN_PREFIX, run_folders
from apibase.local.sidecar import Platform
from apibase.local.wording import apibase

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True)
class InstanceState:
    """One replica of an app. Ports are 0, and pids too, where there is nothing."""

    app_id: str
    replica: int
    protocol: str
    app_port: int
    http_port: int
    grpc_port: int
    metrics_port: int
    app_pid: int
    sidecar_pid: int
    app_log: str
    sidecar_log: str
    app_metrics_port: int = 0

    @property
    def is_grpc(self) -> bool:
        """Whether daprd speaks gRPC to it."""
        return self.protocol in {"grpc", "grpcs"}

    @property
    def sidecar_only(self) -> bool:
        """Whether it is a sidecar for callers."""
        return self.app_port == 0


@dataclass(frozen=True)
class StackState:
    """A running stack. `processes` maps a pid to its start time: together they name a process for good."""

    supervisor_pid: int
    supervisor_start: str
    stack_id: str
    topology: str
    run_folder: str
    log_folder: str
    ready: bool = False
    dapr: str = ""
    env: Mapping[str, str] = field(default_factory=dict)
    placement: str = ""
    scheduler: str = ""
    name_resolution: str = ""
    tracing: str = ""
    instances: tuple[InstanceState, ...] = ()
    processes: Mapping[str, str] = field(default_factory=dict)

    @property
    def platform(self) -> Platform:
        """What another sidecar needs in order to join."""
        tracing = Path(self.tracing) if self.tracing else None
        return Platform(self.env, self.placement, self.scheduler, Path(self.name_resolution), tracing)

    @property
    def supervised(self) -> bool:
        """Whether the process that wrote this still lives."""
        return guard.is_same(self.supervisor_pid, self.supervisor_start)


class StateFile:
    """Held by one process at a time: a lock on the folder, which ends with the process, tells a live stack from a stale note."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock: int | None = None

    def acquire(self) -> None:
        """Take the project's stack; `StackAlreadyUp` if another process has it. What a dead one left is ended first."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        lock = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(lock)
            state = _read(self.path)
            message = "a stack is up in this project already"
            if state:
                message += (
                    f", in process {state.supervisor_pid}; end it with Ctrl-C there, or: kill {state.supervisor_pid}"
                )
            raise StackAlreadyUp(message) from error
        self._lock = lock
        if left := _read(self.path):
            _clean_up_after(left)
        self.path.unlink(missing_ok=True)

    def write(self, state: StackState) -> None:
        """Replace the note in one step."""
        new = self.path.with_name(f"{self.path.name}.{os.getpid()}")
        new.touch(mode=0o600)  # A user's own backend may have its password in its address.
        new.write_text(json.dumps(asdict(state), indent=1))
        new.replace(self.path)

    def release(self) -> None:
        """Remove the note and give up the project's stack."""
        if self._lock is not None:
            self.path.unlink(missing_ok=True)
            os.close(self._lock)
            self._lock = None


def running_stack(path: Path) -> StackState:
    """The stack that is up; `NoStack` if there is none."""
    state = _read(path)
    if state is None or not state.supervised:
        message = f"no stack is up in this project; start one with: {apibase()} up"
        raise NoStack(message)
    if not state.ready:
        message = f"the stack of process {state.supervisor_pid} is still starting"
        raise NoStack(message)
    return state


def _read(path: Path) -> StackState | None:
    try:
        values = json.loads(path.read_text())
        values["instances"] = tuple(InstanceState(**instance) for instance in values["instances"])
        return StackState(**values)
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _clean_up_after(state: StackState) -> None:
    """End the processes that a dead supervisor left, and remove its run folder."""
    pids = [int(pid) for pid, start in state.processes.items() if guard.is_same(int(pid), start)]
    guard.end_groups(dict.fromkeys(pids, signal.SIGINT))
    guard.end_marked(state.stack_id)
    folder = Path(state.run_folder)
    if folder.name.startswith(RUN_PREFIX) and folder.parent == run_folders():
        with contextlib.suppress(OSError):
            shutil.rmtree(folder)
