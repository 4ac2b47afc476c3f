"""How gRPC's own threads are scheduled in a process that serves."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import pytest

from apibase import Settings
from tests.unit.fake_dapr import FakeDapr

ROOT = Path(__file__).parents[2]
PROGRAM = """
import asyncio, os, sys, threading
from apibase import App

app = App()

@app.before_ready
async def later():
    asyncio.get_running_loop().call_later(0.2, tell)

def tell():
    names = {thread.native_id: thread.name for thread in threading.enumerate()}
    for task in map(int, os.listdir("/proc/self/task")):
        comm = open(f"/proc/self/task/{task}/comm").read().strip()
        policy = "batch" if os.sched_getscheduler(task) == os.SCHED_BATCH else "normal"
        print("told", names.get(task, comm).replace(" ", ""), policy, flush=True)
    os.kill(os.getpid(), 15)

app.run(0)
"""


async def policies(settings: Settings, chosen: str) -> dict[str, set[str]]:
    """Run an app, and return the policies of its threads by name."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", PROGRAM),
        env={
            **os.environ,
            "PYTHONPATH": f"{ROOT}/service:{ROOT}/generated",
            "DAPR_GRPC_ENDPOINT": settings.sidecar_address,
            "APIBASE_GRPC_THREADS": chosen,
        },
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await asyncio.wait_for(process.communicate(), 30)
    printed = output.decode()
    assert process.returncode == 0, printed
    found: dict[str, set[str]] = {}
    for line in printed.splitlines():
        if line.startswith("told "):
            _, name, policy = line.split()
            found.setdefault(name.removeprefix("Thread-1"), set()).add(policy)
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="Linux's scheduler")
async def test_grpcs_threads_interrupt_nobody_and_the_apps_own_are_left_alone(
    settings: Settings, dapr: FakeDapr
) -> None:
    found = await policies(settings, "batch")

    assert found["MainThread"] == {"normal"}
    assert found["(_poll_wrapper)"] == {"batch"}
    assert found["event_engine"] == {"batch"}


@pytest.mark.skipif(sys.platform != "linux", reason="Linux's scheduler")
async def test_a_setting_leaves_them_as_they_are(settings: Settings, dapr: FakeDapr) -> None:
    assert set().union(*(await policies(settings, "normal")).values()) == {"normal"}
