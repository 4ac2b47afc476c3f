"""A topology, running: backends, control plane, sidecars and apps, in order, by readiness, and all of it ended again."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import signal
import uuid
from typing import TYPE_CHECKING, Any, Self, TypeVar

from apibase.local.backends import Backend, address_variables, to_embed
from apibase.local.backends.table_gate import TableGate
from apibase.local.components import components_of
from apibase.local.errors import ChildDied, StackError
from apibase.local.events import Event, EventKind, Role
from apibase.local.instance import Instance, RunningApp, RunningSidecar, check_commands, check_ports, dapr_variables
from apibase.local.instance_plan import InstancePlanner
from apibase.local.log_run import LogRun
from apibase.local.options import StackOptions
from apibase.local.platform_starter import PlatformStarter
from apibase.local.ports import PortPool
from apibase.local.run_folder import make_run_folder, remove_run_folder
from apibase.local.scrape import ALERTS, write_scrape_config
from apibase.local.stack_note import note
from apibase.local.state_file import StateFile
from apibase.local.supervisor import Phase, Supervisor, together
from apibase.local.toolbox import Toolbox, find_tools

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from pathlib import Path
    from types import TracebackType

    from apibase.local.sidecar import Platform
    from apibase.local.topology import Topology

_T = TypeVar("_T")
_LATE_SECONDS = 1.0


class Stack:
    """Start by `async with`; on the way out everything is stopped, whatever happened, cancellation included.

    A process that ends by itself is the stack's failure: starting, and work given to `run`, end with `ChildDied`.
    """

    def __init__(self, topology: Topology, options: StackOptions | None = None) -> None:
        self.topology = topology
        self.options = options or StackOptions()
        self.instances: list[Instance] = []
        self.platform: Platform | None = None
        self.zipkin = ""
        """The address of the stack's own Zipkin, if it has one: its pages, its API, and where spans go."""
        self._gate = TableGate([])
        self.scrape_config: Path | None = None
        """The file of Prometheus' configuration that finds every app and sidecar of the stack; gone with it."""
        self.stack_id = uuid.uuid4().hex
        self._ports = PortPool()
        self._supervisor = Supervisor(self.stack_id, self._ports, self.options.on_event, lines=self.options.lines)
        self._state = StateFile(self.options.state_file) if self.options.state_file else None
        self._run: Path | None = None
        self._logs: Path | None = None
        self._log_run: LogRun | None = None
        self._ready = False
        self._stop: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        """Start; on return everything is ready."""
        try:
            await self._supervisor.unless_failed(self._start())
        except BaseException:
            await self.stop()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop; a failure that nobody has raised yet is raised now, or noted on the error that it may have caused."""
        trouble = isinstance(error, Exception)
        failure = await self._supervisor.late_failure(_LATE_SECONDS) if trouble else self.failure
        await self.stop()
        if failure is None or error is failure:
            return
        if error is None:
            raise failure
        error.add_note(str(failure))

    @property
    def failure(self) -> ChildDied | None:
        """The first process that ended by itself."""
        return self._supervisor.failure

    @property
    def log_folder(self) -> Path:
        """Where every process's output is."""
        if self._logs is None:
            raise StackError("the stack has not been started")
        return self._logs

    async def run(self, work: Coroutine[Any, Any, _T]) -> _T:
        """Do something while the stack is up; `ChildDied` at once if a process ends by itself meanwhile."""
        return await self._supervisor.unless_failed(work)

    def app(self, app_id: str, replica: int = 0) -> RunningApp:
        """An app's address, process id and log."""
        return self._instance(app_id, replica).running_app()

    def sidecar(self, app_id: str, replica: int = 0) -> RunningSidecar:
        """A sidecar's addresses, process id and log."""
        return self._instance(app_id, replica).running_sidecar()

    async def run_foreground(self) -> int:
        """Start the app that `foreground` names, with our terminal, and return its exit code: 128 + N for signal N."""
        instance = self._instance(self.options.foreground, 0)
        service = instance.app_service
        if service is None:
            raise StackError(f"{instance.label} has no command to run")
        instance.app = app = self._supervisor.start(service, Phase.APPS, Role.APP, instance.spec.app_id)
        app.exit_expected = True
        self._note()
        code = await self.run(app.wait())
        return code if code >= 0 else 128 - code

    def environment(self, app_id: str, replica: int = 0) -> dict[str, str]:
        """The variables that an app gets on top of our own, for one that somebody else starts."""
        instance = self._instance(app_id, replica)
        platform = self.platform.env if self.platform else {}
        own = self.options.env.get(app_id, {})
        return {**instance.spec.env, **platform, **own, **dapr_variables(instance.spec, instance.ports)}

    async def kill(self, app_id: str, number: int = signal.SIGKILL, replica: int = 0) -> None:
        """End an app on purpose and wait until it is gone."""
        if app := self._instance(app_id, replica).app:
            await app.send_signal(number)

    async def kill_sidecar(self, app_id: str, number: int = signal.SIGKILL, replica: int = 0) -> None:
        """End a sidecar on purpose and wait until it is gone."""
        if sidecar := self._instance(app_id, replica).sidecar:
            await sidecar.send_signal(number)

    async def restart(self, app_id: str, replica: int = 0) -> None:
        """Start an app again on its port, stopping it first if it runs; ready on return."""
        instance = self._instance(app_id, replica)
        if instance.app:
            await instance.app.stop()
        await self.run(self._app_up(instance))
        self._note()

    async def restart_sidecar(self, app_id: str, replica: int = 0) -> None:
        """Start a sidecar again on its ports, stopping it first if it runs; ready on return."""
        instance = self._instance(app_id, replica)
        if instance.sidecar:
            await instance.sidecar.stop()
        await self.run(self._sidecar_up(instance))
        self._note()

    async def stop(self) -> None:
        """End everything and leave nothing. It is done once, and goes on to its end even if the caller is cancelled."""
        if self._stop is None:
            self._stop = asyncio.ensure_future(self._end())
        cancelled = False
        while not self._stop.done():
            try:
                await asyncio.shield(self._stop)
            except asyncio.CancelledError:
                cancelled = True
        self._stop.result()
        if cancelled:
            raise asyncio.CancelledError

    def kill_now(self) -> None:
        """Kill every process without grace; `stop` still removes what they leave."""
        self._supervisor.kill_now()

    def _tell(self, text: str) -> None:
        self.options.on_event(Event(EventKind.PROGRESS, Role.STACK, "stack", text))

    async def _start(self) -> None:
        apps = self.options.chosen(self.topology)
        check_commands(apps)
        if self.options.fixed_ports:
            check_ports(apps)
        variables = address_variables(components_of(apps))
        if self._state:
            self._state.acquire()
        self._supervisor.guardian.start()
        run = self._run = make_run_folder()
        self._supervisor.guardian.remove(run)
        if self._state:
            self._supervisor.guardian.remove(self._state.path)
        self._note()
        wanted = to_embed(variables, os.environ)
        own = {variable: os.environ[variable] for variable in variables if variable not in wanted}
        tools = self.options.tools or await find_tools(
            postgres=Backend.POSTGRES in wanted.values(),
            redis=Backend.REDIS in wanted.values(),
            kafka=Backend.KAFKA in wanted.values(),
            zipkin=self.options.zipkin and not self.options.join,
            series=self.options.dapr,
            progress=self._tell,
        )
        # Not before all that can be wrong has been looked at: a run that never began is none of the few that are kept.
        if self.options.log_runs:
            self._log_run = LogRun(self.options.log_runs)
        logs = self._logs = self._log_run.folder if self._log_run else self.options.log_dir or run / "logs"
        logs.mkdir(parents=True, exist_ok=True)
        platform = await self._platform(tools, wanted, run, logs)
        self.platform = platform = dataclasses.replace(platform, env={**platform.env, **own})
        planner = InstancePlanner(self.options, tools, platform, self._ports, run=run, logs=logs)
        for app in apps:
            self.instances += planner.plan(app)
        self.scrape_config = write_scrape_config(run, self.instances, self.topology.file.parent / ALERTS)
        self._note()
        self._gate = TableGate(self.instances)
        await together([self._gate.watch(), *(work for instance in self.instances for work in self._up(instance))])
        self._ready = True
        self._note()

    async def _platform(self, tools: Toolbox, wanted: dict[str, Backend], run: Path, logs: Path) -> Platform:
        data = self.options.data_dir.resolve() if self.options.data_dir else run / "data"
        data.mkdir(parents=True, exist_ok=True, mode=0o711)
        starter = PlatformStarter(self._supervisor, self._ports, tools, run=run, data=data, logs=logs)
        if self.options.join:
            return await starter.join(self.options.join, wanted)
        names = sorted({str(backend) for backend in wanted.values()}) + ["zipkin"] * bool(tools.zipkin)
        self._tell(f"starting {', '.join([*names, 'placement', 'scheduler'])}")
        platform = await starter.start(wanted, otlp=self.options.otlp)
        self.zipkin = starter.zipkin
        return platform

    def _up(self, instance: Instance) -> list[Coroutine[Any, Any, None]]:
        works = [self._sidecar_up(instance)]
        if instance.spec.app_id in self.options.sidecar_only:
            self._ports.release(instance.ports.app, instance.ports.app_metrics)
        elif instance.app_service and instance.spec.app_id != self.options.foreground:
            works.append(self._app_up(instance))
        return works

    async def _sidecar_up(self, instance: Instance) -> None:
        service = instance.sidecar_service
        await self._gate.enter(instance)
        instance.sidecar = self._supervisor.start(service, Phase.SIDECARS, Role.SIDECAR, instance.spec.app_id)
        await self._supervisor.ready(instance.sidecar, service, Role.SIDECAR)

    async def _app_up(self, instance: Instance) -> None:
        if service := instance.app_service:
            instance.app = self._supervisor.start(service, Phase.APPS, Role.APP, instance.spec.app_id)
            await self._supervisor.ready(instance.app, service, Role.APP)

    def _instance(self, app_id: str, replica: int) -> Instance:
        for instance in self.instances:
            if (instance.spec.app_id, instance.replica) == (app_id, replica):
                return instance
        raise StackError(f"replica {replica} of {app_id!r} is not in this stack")

    def _note(self) -> None:
        if self._state and self._run:
            self._state.write(note(self, self._run, self._logs, self._supervisor.pids(), ready=self._ready))

    async def _end(self) -> None:
        with contextlib.ExitStack() as finally_do:  # Each, whatever becomes of the ones before; the last one first.
            if self._state:
                finally_do.callback(self._state.release)
            if self._run:
                finally_do.callback(remove_run_folder, self._run)
            if self._log_run:
                finally_do.callback(self._log_run.close)
            finally_do.callback(self._ports.close)
            await self._supervisor.stop()
