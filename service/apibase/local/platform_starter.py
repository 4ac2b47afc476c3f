"""What the sidecars stand on: embedded backends and Dapr's control plane, all started at once."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Coroutine, Mapping
from typing import TYPE_CHECKING, Any

from apibase.local.backends import Backend
from apibase.local.backends.kafka import plan_kafka
from apibase.local.backends.postgres import plan_postgres
from apibase.local.backends.redis import plan_redis
from apibase.local.backends.zipkin import plan_zipkin
from apibase.local.control_plane import plan_placement, plan_scheduler
from apibase.local.errors import StackError
from apibase.local.events import Role
from apibase.local.ports import LOOPBACK, PortPool
from apibase.local.sidecar import Platform, write_name_resolution
from apibase.local.supervisor import Phase, Supervisor, together
from apibase.local.tracing import write_tracing

if TYPE_CHECKING:
    from pathlib import Path

    from apibase.local.process import ProcessSpec
    from apibase.local.service import Service
    from apibase.local.toolbox import Toolbox

_Work = Coroutine[Any, Any, None]


class PlatformStarter:
    """Starts what is asked for and knows the addresses. `run` is this run's folder; `data` may outlive it."""

    def __init__(
        self, supervisor: Supervisor, ports: PortPool, tools: Toolbox, *, run: Path, data: Path, logs: Path
    ) -> None:
        self._supervisor = supervisor
        self._ports = ports
        self._tools = tools
        self._run = run
        self._data = data
        self._logs = logs
        self.zipkin = ""
        """The address of the Zipkin that was started, if one was."""
        self._env = {**os.environ, "TMPDIR": str(run / "tmp")}

    async def start(self, wanted: Mapping[str, Backend], *, otlp: str = "") -> Platform:
        """Start the backends wanted, by environment variable, with placement and scheduler; all are ready on return.

        A Zipkin is started where the tools have one. Every call is traced to it, and to the receiver `otlp`.
        """
        placement, placement_address = plan_placement(self._tools.dapr, self._ports, self._logs, self._env)
        scheduler, scheduler_address = plan_scheduler(
            self._tools.dapr, self._ports, self._data / "scheduler", self._logs, self._env
        )
        addresses, works = self._backends(set(wanted.values()))
        if self._tools.zipkin:
            port = self._ports.take()
            self.zipkin = f"{LOOPBACK}:{port}"
            works.append(self._up(plan_zipkin(self._tools.zipkin, port, self._logs, self._env), Phase.BACKENDS))
        tracing = write_tracing(self._run, zipkin=self.zipkin, otlp=otlp)
        control_plane = (self._up(service, Phase.CONTROL_PLANE) for service in (placement, scheduler))
        await together([*works, *control_plane])
        return Platform(
            env={**tracing.env, **{variable: addresses[backend] for variable, backend in wanted.items()}},
            placement=placement_address,
            scheduler=scheduler_address,
            name_resolution=write_name_resolution(self._run),
            tracing=tracing.config,
        )

    async def join(self, platform: Platform, wanted: Mapping[str, Backend]) -> Platform:
        """Use another stack's platform; start only the backends that it lacks."""
        lacking = {variable: backend for variable, backend in wanted.items() if variable not in platform.env}
        addresses, works = self._backends(set(lacking.values()))
        await together(works)
        env = {**platform.env, **{variable: addresses[backend] for variable, backend in lacking.items()}}
        return dataclasses.replace(platform, env=env)

    def _backends(self, wanted: set[Backend]) -> tuple[dict[Backend, str], list[_Work]]:
        addresses: dict[Backend, str] = {}
        works: list[_Work] = []
        if Backend.POSTGRES in wanted and self._tools.postgres:
            plan = plan_postgres(self._tools.postgres, self._data / "postgres", self._run / "sockets", self._logs)
            addresses[Backend.POSTGRES] = plan.connection_string
            works.append(self._initialised_up(plan.initialise, "initdb makes its data folder", plan.server))
        if Backend.REDIS in wanted and self._tools.redis:
            port = self._ports.take()
            service = plan_redis(self._tools.redis, port, self._data / "redis", self._logs, self._env)
            addresses[Backend.REDIS] = f"{LOOPBACK}:{port}"
            works.append(self._up(service, Phase.BACKENDS))
        if Backend.KAFKA in wanted and self._tools.kafka:
            kafka = plan_kafka(self._tools.kafka, self._ports, self._data / "kafka", self._logs, self._env)
            addresses[Backend.KAFKA] = kafka.brokers
            works.append(self._initialised_up(kafka.initialise, "its storage is formatted", kafka.server))
        return addresses, works

    async def _initialised_up(self, initialise: ProcessSpec | None, what: str, server: Service) -> None:
        if initialise:
            self._supervisor.waiting(Role.PLATFORM, server.spec.name, what)
            process = self._supervisor.spawn(initialise, Phase.BACKENDS, Role.PLATFORM)
            process.exit_expected = True
            if await process.wait() != 0:
                raise StackError(str(process.died()))
            await process.stop()
        await self._up(server, Phase.BACKENDS)

    async def _up(self, service: Service, phase: Phase) -> None:
        process = self._supervisor.start(service, phase, Role.PLATFORM)
        await self._supervisor.ready(process, service, Role.PLATFORM)
