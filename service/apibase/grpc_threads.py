"""How Linux schedules gRPC's own threads beside the event loop's.

`grpc.aio` has a thread that waits for what gRPC's core has finished, and hands each thing to the event loop; a call is some six of them. By
default Linux lets that thread interrupt the loop for each, which then goes on with cold caches: a dozen switches a call where there is
no idle core. Under the policy SCHED_BATCH a thread that wakes up interrupts nobody. What is finished while the loop is at work is handed
over together, when the loop is done or another core is free. docs/benchmarks/chain.md has what that is worth.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from pathlib import Path

_TASKS = Path("/proc/self/task")
_OF_THE_CORE = (b"event_engine", b"grpc_", b"lifeguard", b"timer_manager")
_POLLER = "_poll_wrapper"


def spare_the_loop() -> int:
    """Have gRPC's threads wait for their turn instead of interrupting the event loop; return how many there are.

    Later ones are made by these, and inherit it. Elsewhere than on Linux, and where it is not allowed, nothing happens.
    """
    if sys.platform != "linux":
        return 0
    changed = 0
    for thread in _grpc_threads():
        with contextlib.suppress(OSError):  # it has ended, or a sandbox does not allow it
            os.sched_setscheduler(thread, os.SCHED_BATCH, os.sched_param(0))
            changed += 1
    return changed


def _grpc_threads() -> list[int]:
    """Return the ids of the core's threads, and of those of `grpc.aio` that hand things over."""
    found = [each.native_id for each in threading.enumerate() if _POLLER in each.name and each.native_id is not None]
    with contextlib.suppress(OSError):  # no /proc here
        for task in _TASKS.iterdir():
            with contextlib.suppress(OSError):
                if (task / "comm").read_bytes().startswith(_OF_THE_CORE):
                    found.append(int(task.name))
    return found
