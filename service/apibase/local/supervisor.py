"""The processes of a stack: started one by one, watched together, stopped in the reverse order of their kinds."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from enum import IntEnum
from typing import TYPE_CHECKING, Any, TypeVar

from apibase.local import guard
from apibase.local.errors import ChildDied
from apibase.local.events import Event, EventKind, Role
from apibase.local.guardian import Guardian
from apibase.local.process import Hooks, ManagedProcess, ProcessSpec

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable

    from apibase.local.ports import PortPool
    from apibase.local.service import Service

_T = TypeVar("_T")


class Phase(IntEnum):
    """The order of starting; stopping goes the other way."""

    BACKENDS = 0
    CONTROL_PLANE = 1
    SIDECARS = 2
    APPS = 3


@dataclasses.dataclass(frozen=True)
class Member:
    """A process, and where it belongs."""

    process: ManagedProcess
    phase: Phase
    role: Role
    app_id: str


class Supervisor:
    """Owns every process of a stack; the first one that ends by itself is the stack's `failure`."""

    def __init__(self, stack_id: str, ports: PortPool, on_event: Callable[[Event], None], *, lines: bool) -> None:
        self.stack_id = stack_id
        self.failure: ChildDied | None = None
        self.members: list[Member] = []
        self.guardian = Guardian(stack_id)
        self._ports = ports
        self._on_event = on_event
        self._lines = lines
        self._failed = asyncio.Event()
        self._stopping = False

    def start(self, service: Service, phase: Phase, role: Role, app_id: str = "") -> ManagedProcess:
        """Start a service's process; from here on it is stopped with the others."""
        self._ports.release(*service.ports)
        return self.spawn(service.spec, phase, role, app_id)

    def spawn(self, spec: ProcessSpec, phase: Phase, role: Role, app_id: str = "") -> ManagedProcess:
        """Start a process that has no readiness of its own."""

        def on_line(text: str) -> None:
            self._on_event(Event(EventKind.LINE, role, spec.name, text, app_id))

        marked = dataclasses.replace(spec, env={**spec.env, guard.MARK: self.stack_id})
        hooks = Hooks(
            on_line if self._lines else None, self._started, lambda process: self._ended(process, role, app_id)
        )
        process = ManagedProcess(marked, hooks)
        self.members = [member for member in self.members if member.process.name != spec.name or member.process.alive]
        self.members.append(Member(process, phase, role, app_id))
        process.start()
        return process

    async def ready(self, process: ManagedProcess, service: Service, role: Role) -> None:
        """Wait until a service's process is ready."""
        loop = asyncio.get_running_loop()
        begin = loop.time()
        self.waiting(role, process.name, service.meanwhile or service.waits_for)
        await process.until(service.ready, service.within, service.waits_for)
        self._on_event(Event(EventKind.READY, role, process.name, f"{loop.time() - begin:.1f} s"))

    def waiting(self, role: Role, name: str, reason: str) -> None:
        """Tell that something is not ready yet, and why."""
        self._on_event(Event(EventKind.WAITING, role, name, reason))

    async def unless_failed(self, work: Coroutine[Any, Any, _T]) -> _T:
        """Do something while all processes live; `ChildDied` at once when one of them ends by itself."""
        task = asyncio.ensure_future(work)
        failed = asyncio.ensure_future(self._failed.wait())
        try:
            await asyncio.wait({task, failed}, return_when=asyncio.FIRST_COMPLETED)
            if self.failure and not task.done():
                raise self.failure
            return await task
        finally:
            task.cancel()
            failed.cancel()
            await asyncio.gather(task, failed, return_exceptions=True)

    async def late_failure(self, within: float) -> ChildDied | None:
        """The failure, if it becomes known in time: a broken call is noticed a moment before the death that broke it."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._failed.wait(), within)
        return self.failure

    async def stop(self) -> None:
        """Stop everything: phase by phase, the processes of one phase together."""
        self._stopping = True
        for member in self.members:
            member.process.exit_expected = True
        for phase in sorted(Phase, reverse=True):
            members = [member for member in self.members if member.phase == phase]
            if any(member.process.alive for member in members):
                names = ", ".join(member.process.name for member in members if member.process.alive)
                self._on_event(Event(EventKind.STOPPING, Role.STACK, "stack", names))
            await asyncio.gather(*(member.process.stop() for member in members))
        guard.end_marked(self.stack_id)
        self.guardian.dismiss()

    def kill_now(self) -> None:
        """Kill every process at once; `stop` has still to be awaited, and will be quick."""
        self._stopping = True
        for member in self.members:
            member.process.kill_now()

    def pids(self) -> Iterable[int]:
        """The processes that live."""
        return [member.process.pid for member in self.members if member.process.alive]

    def _started(self, process: ManagedProcess) -> None:
        self.guardian.watch(process.pid, process.spec.stop_signal)

    def _ended(self, process: ManagedProcess, role: Role, app_id: str) -> None:
        if not guard.group_alive(process.pid):
            self.guardian.forget(process.pid)
        if process.exit_expected or self._stopping:
            return
        self._on_event(Event(EventKind.DIED, role, process.name, process.how_it_ended(), app_id))
        if self.failure is None:
            self.failure = process.died()
            self._failed.set()


async def together(works: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Do several things at once; the first that fails ends the others, and its error is what is raised."""
    try:
        async with asyncio.TaskGroup() as group:
            for work in works:
                group.create_task(work)
    except BaseExceptionGroup as failures:
        # A death explains the others' troubles better than they do.
        first = min(failures.exceptions, key=lambda error: not isinstance(error, ChildDied))
        raise first from None
