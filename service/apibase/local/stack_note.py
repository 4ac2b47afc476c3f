"""What a running stack says of itself in its state file."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from apibase.local import guard
from apibase.local.state_file import StackState

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from apibase.local.stack import Stack


def note(stack: Stack, run: Path, logs: Path | None, pids: Iterable[int], *, ready: bool) -> StackState:
    """The state as of now."""
    supervisor = os.getpid()
    platform = stack.platform
    return StackState(
        supervisor_pid=supervisor,
        supervisor_start=guard.start_time(supervisor),
        stack_id=stack.stack_id,
        topology=str(stack.topology.file),
        run_folder=str(run),
        log_folder=str(logs or ""),
        ready=ready,
        dapr=stack.options.dapr,
        env=platform.env if platform else {},
        placement=platform.placement if platform else "",
        scheduler=platform.scheduler if platform else "",
        name_resolution=str(platform.name_resolution) if platform else "",
        tracing=str(platform.tracing or "") if platform else "",
        instances=tuple(instance.state() for instance in stack.instances),
        processes={str(pid): guard.start_time(pid) for pid in pids},
    )
