"""The processes of a stack together: who failed first, and that all of them end."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from apibase.local import guard
from apibase.local.errors import ChildDied, StackError
from apibase.local.events import Event, EventKind, Role
from apibase.local.ports import PortPool
from apibase.local.process import ManagedProcess, ProcessSpec
from apibase.local.supervisor import Phase, Supervisor, together


class Family:
    """A supervisor, and what it told."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.events: list[Event] = []
        self.supervisor = Supervisor("test", PortPool(), self.events.append, lines=False)

    def spawn(self, name: str, script: str, phase: Phase = Phase.APPS) -> ManagedProcess:
        command = (sys.executable, "-S", "-c", script)
        spec = ProcessSpec(name, command, {"PATH": os.environ["PATH"]}, self.folder, self.folder / f"{name}.log")
        return self.supervisor.spawn(spec, phase, Role.APP)


@pytest.fixture
async def family(tmp_path: Path) -> AsyncIterator[Family]:
    family = Family(tmp_path)
    yield family
    family.supervisor.kill_now()
    await family.supervisor.stop()


async def test_work_ends_with_the_child_that_ended_by_itself(family: Family) -> None:
    family.spawn("lasting", "import time; time.sleep(60)")
    family.spawn("failing", "print('why'); raise SystemExit(9)")
    with pytest.raises(ChildDied, match=r"(?s)failing ended with exit code 9.*why"):
        await family.supervisor.unless_failed(asyncio.Event().wait())
    assert [(event.subject, event.text) for event in family.events if event.kind == EventKind.DIED] == [
        ("failing", "exit code 9")
    ]


async def test_a_successful_exit_of_a_child_is_no_success_of_the_stack(family: Family) -> None:
    family.spawn("brief", "pass")
    with pytest.raises(ChildDied, match="brief ended with exit code 0"):
        await family.supervisor.unless_failed(asyncio.Event().wait())


async def test_an_end_on_purpose_is_no_failure(family: Family) -> None:
    process = family.spawn("victim", "import time; time.sleep(60)")

    async def kill() -> str:
        await process.send_signal(9)
        return "done"

    assert await family.supervisor.unless_failed(kill()) == "done"
    assert family.supervisor.failure is None


async def test_the_work_is_cancelled_before_its_failure_is_told(family: Family) -> None:
    family.spawn("failing", "raise SystemExit(1)")
    cleaned_up = False

    async def work() -> None:
        nonlocal cleaned_up
        try:
            await asyncio.Event().wait()
        finally:
            cleaned_up = True
            raise OSError("the call broke off")

    with pytest.raises(ChildDied):
        await family.supervisor.unless_failed(work())
    assert cleaned_up


async def test_stopping_goes_from_the_apps_to_what_they_stand_on(family: Family) -> None:
    for name, phase in (("redis", Phase.BACKENDS), ("app", Phase.APPS), ("daprd", Phase.SIDECARS)):
        family.spawn(name, "import time; time.sleep(60)", phase)
    await family.supervisor.stop()
    assert [event.text for event in family.events if event.kind == EventKind.STOPPING] == ["app", "daprd", "redis"]
    assert list(family.supervisor.pids()) == []


@pytest.mark.skipif(sys.platform != "linux", reason="found by the environment, in /proc")
async def test_a_process_that_left_its_session_is_ended_all_the_same(family: Family) -> None:
    daemon = "import os, time; os.setsid() if os.fork() == 0 else os._exit(0); print(os.getpid(), flush=True); time.sleep(60)"
    script = f"import subprocess, sys, time; subprocess.run([sys.executable, '-S', '-c', {daemon!r}]); time.sleep(60)"
    process = family.spawn("daemonic", script)

    async def started() -> bool:
        return bool(process.tail())

    await process.until(started, 10, "its daemon")
    pid = int(process.tail()[0])
    await family.supervisor.stop()
    deadline = asyncio.get_running_loop().time() + 10
    while guard.group_alive(pid):
        assert asyncio.get_running_loop().time() < deadline
        await asyncio.sleep(0.01)


async def test_of_several_failures_a_death_is_what_is_told() -> None:
    async def slow() -> None:
        raise StackError("not ready")

    async def dead() -> None:
        raise ChildDied("orders", "exit code 1", None, [])

    with pytest.raises(ChildDied):
        await together([slow(), dead()])
