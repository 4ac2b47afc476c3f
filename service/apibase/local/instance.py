"""One replica of an app: the app's own process and its sidecar, planned, running, addressable."""

from __future__ import annotations

import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from apibase.local.errors import StackError
from apibase.local.ports import LOOPBACK, PortPool
from apibase.local.probes import Probe, grpc_serving, port_open
from apibase.local.process import ManagedProcess, ProcessSpec
from apibase.local.service import Service
from apibase.local.sidecar import InstancePorts
from apibase.local.state_file import InstanceState
from apibase.local.wording import genitive

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from apibase.local.topology import AppSpec

_READY_SECONDS = 60.0
_GRACE_SECONDS = 30.0
# They would lead Dapr's SDK past the sidecar that we start.
_NOT_INHERITED = ("DAPR_GRPC_ENDPOINT", "DAPR_HTTP_ENDPOINT")
_METRICS_PORT = "APIBASE_METRICS_PORT"


@dataclass(frozen=True)
class RunningApp:
    """An app's process as others see it."""

    address: str
    metrics_address: str
    pid: int
    log_path: Path


@dataclass(frozen=True)
class RunningSidecar:
    """A sidecar as others see it."""

    grpc_address: str
    http_address: str
    metrics_address: str
    pid: int
    log_path: Path


@dataclass
class Instance:
    """A replica. `app` is None where the app is not ours to start."""

    spec: AppSpec
    replica: int
    label: str
    ports: InstancePorts
    sidecar_service: Service
    app_service: Service | None
    sidecar: ManagedProcess | None = None
    app: ManagedProcess | None = None

    def running_app(self) -> RunningApp:
        """The app's process; `StackError` where the app is not ours to start."""
        if self.app_service is None or self.app is None:
            raise StackError(f"{self.label} has no process of its own in this stack")
        return RunningApp(
            address=f"{LOOPBACK}:{self.ports.app}",
            metrics_address=f"{LOOPBACK}:{self.ports.app_metrics}",
            pid=self.app.pid,
            log_path=self.app_service.spec.log_path,
        )

    def running_sidecar(self) -> RunningSidecar:
        """The sidecar's process."""
        return RunningSidecar(
            grpc_address=f"{LOOPBACK}:{self.ports.grpc}",
            http_address=f"{LOOPBACK}:{self.ports.http}",
            metrics_address=f"{LOOPBACK}:{self.ports.metrics}",
            pid=self.sidecar.pid if self.sidecar else 0,
            log_path=self.sidecar_service.spec.log_path,
        )

    def state(self) -> InstanceState:
        """What the state file says of it."""
        app_log = self.app_service.spec.log_path if self.app_service else ""
        return InstanceState(
            app_id=self.spec.app_id,
            replica=self.replica,
            protocol=self.spec.protocol,
            app_port=self.ports.app,
            http_port=self.ports.http,
            grpc_port=self.ports.grpc,
            metrics_port=self.ports.metrics,
            app_pid=self.app.pid if self.app else 0,
            sidecar_pid=self.sidecar.pid if self.sidecar else 0,
            app_metrics_port=self.ports.app_metrics,
            app_log=str(app_log),
            sidecar_log=str(self.sidecar_service.spec.log_path),
        )


def choose_ports(app: AppSpec, pool: PortPool, *, fixed: bool) -> InstancePorts:
    """Free ports; those that the file asks for if `fixed`, or where the app is somebody else's to start."""

    def choose(wanted: int | None, what: str) -> int:
        return pool.take_fixed(wanted, f"{genitive(app.app_id)} {what}") if fixed and wanted else pool.take()

    if app.calls_only:
        port = 0
    elif app.started_by_us:
        port = choose(app.ports.app, "app")
    else:
        port = app.ports.app or 0
    return InstancePorts(
        app=port,
        http=choose(app.ports.http, "sidecar (HTTP)"),
        grpc=choose(app.ports.grpc, "sidecar (gRPC)"),
        internal=choose(app.ports.internal, "sidecar (internal)"),
        metrics=choose(app.ports.metrics, "sidecar (metrics)"),
        app_metrics=choose(_metrics_port(app), "app (metrics)") if app.started_by_us else 0,
    )


def _metrics_port(app: AppSpec) -> int | None:
    """The port that the file asks for."""
    wanted = app.env.get(_METRICS_PORT, "")
    return int(wanted) if wanted.isdecimal() else None


def dapr_variables(app: AppSpec, ports: InstancePorts) -> dict[str, str]:
    """What Dapr's CLI and its injector tell an app, and where it is to serve its metrics."""
    variables = {
        "APP_ID": app.app_id,
        "APP_PROTOCOL": app.protocol,
        "DAPR_GRPC_PORT": str(ports.grpc),
        "DAPR_HTTP_PORT": str(ports.http),
        "DAPR_METRICS_PORT": str(ports.metrics),
        "DAPR_HOST_IP": LOOPBACK,
    }
    if ports.app:
        variables["APP_PORT"] = str(ports.app)
    if ports.app_metrics:
        variables[_METRICS_PORT] = str(ports.app_metrics)
    return variables


def app_environment(environ: Mapping[str, str], *layers: Mapping[str, str]) -> dict[str, str]:
    """Our own environment with this Python first on PATH, then the layers, each over the one before."""
    env = {key: value for key, value in without_proxy(environ).items() if key not in _NOT_INHERITED}
    env.setdefault("PYTHONUNBUFFERED", "1")
    env["PATH"] = os.pathsep.join((str(Path(sys.executable).parent), env.get("PATH", os.defpath)))
    for layer in layers:
        env.update(layer)
    return env


def without_proxy(environ: Mapping[str, str]) -> dict[str, str]:
    """An environment in which calls to this machine don't go to a proxy: gRPC would send them there."""
    env = dict(environ)
    for name in ("no_proxy", "NO_PROXY"):
        env[name] = ",".join(part for part in (env.get(name), LOOPBACK, "localhost") if part)
    return env


def plan_app(
    app: AppSpec, label: str, ports: InstancePorts, env: Mapping[str, str], log: Path, *, foreground: bool = False
) -> Service:
    """The app's own process; ready when it serves, by `grpc.health.v1`, or, for HTTP, when it takes connections."""
    spec = ProcessSpec(
        label,
        (_executable(app, env["PATH"]), *app.command[1:]),
        env,
        app.folder,
        log,
        grace=_GRACE_SECONDS,
        foreground=foreground,
    )
    waits_for = "grpc.health.v1 does not say SERVING" if app.protocol == "grpc" else "its port is not open"
    held = (ports.app, ports.app_metrics) if app.started_by_us else ()
    return Service(spec, _serves(app, ports.app), waits_for, _READY_SECONDS, held, meanwhile="it does not serve yet")


def check_commands(apps: Iterable[AppSpec]) -> None:
    """Find every app's executable; `StackError` names the app whose can't be found. To be asked before anything is started."""
    path = app_environment(os.environ)["PATH"]
    for app in apps:
        if app.started_by_us:
            _executable(app, app.env.get("PATH", path))


def check_ports(apps: Iterable[AppSpec]) -> None:
    """Find that the ports which the file asks for are free; `StackError` names one that is not, and whose it is to be."""
    pool = PortPool()
    try:
        for app in apps:
            choose_ports(app, pool, fixed=True)
    finally:
        pool.close()


def _executable(app: AppSpec, path: str) -> str:
    """The command's file, found as a shell in the app's folder would find it."""
    name = app.command[0]
    found = shutil.which(app.folder / name) if "/" in name else shutil.which(name, path=path)
    if found is None and name in {"python", "python3"}:  # Not every installation has both names.
        found = sys.executable
    if found is None:
        where = f"in {app.folder}" if "/" in name else "on PATH"
        raise StackError(f"{app.app_id}: its command {name!r} is not {where}, or can't be executed")
    return found


def _serves(app: AppSpec, port: int) -> Probe:
    async def serves() -> bool:
        return await port_open(port) and (app.protocol != "grpc" or await grpc_serving(f"{LOOPBACK}:{port}"))

    async def always() -> bool:
        return True

    return serves if port else always
