"""An app's daprd: its command line, its environment, its name resolution."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from apibase.local.ports import LOOPBACK
from apibase.local.probes import Probe, http_ok, sidecar_reaches
from apibase.local.process import ProcessSpec
from apibase.local.service import Service
from apibase.local.wording import genitive

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from apibase.local.topology import AppSpec

SHUTDOWN_SECONDS = 5
_NAME_RESOLUTION = """\
apiVersion: dapr.io/v1alpha1
kind: Configuration
metadata:
  name: apibase-name-resolution
spec:
  nameResolution:
    component: sqlite
    version: v1
    configuration:
      connectionString: {database}
      # A host renews its row every updateInterval - timeout, and is gone after updateInterval: three seconds to spare.
      updateInterval: 5s
      timeout: 3s
      # Off: in Dapr 1.18 the clean-up deletes the rows of live hosts, and each of them then exits.
      cleanupInterval: 0s
"""


@dataclass(frozen=True)
class Platform:
    """What every sidecar of a stack shares.

    `env` holds the backends' addresses, by the variables that components read, and where spans go, by those that apps read;
    `tracing` is the Configuration that tells the sidecars.
    """

    env: Mapping[str, str]
    placement: str
    scheduler: str
    name_resolution: Path
    tracing: Path | None = None


@dataclass(frozen=True)
class InstancePorts:
    """The ports of one app and its sidecar; `app` is 0 where no app listens, `app_metrics` where none is ours to start."""

    app: int
    http: int
    grpc: int
    internal: int
    metrics: int
    app_metrics: int = 0


def write_name_resolution(folder: Path) -> Path:
    """Write the Configuration that makes replicas on one machine find each other, and return its path."""
    file = folder / "name-resolution.yaml"
    file.write_text(_NAME_RESOLUTION.format(database=json.dumps(str(folder / "names.db"))))
    return file


def plan_sidecar(  # noqa: PLR0913
    daprd: Path,
    app: AppSpec,
    label: str,
    ports: InstancePorts,
    platform: Platform,
    logs: Path,
    env: Mapping[str, str],
    *,
    with_app: bool = True,
) -> Service:
    """The daprd of one replica. It is ready when its API is, and, `with_app`, when calls to a gRPC app get through.

    That it has found the app's port open is not enough: daprd 1.14 dials before that, and then not again for a second.
    """
    command = [
        str(daprd),
        f"--app-id={app.app_id}",
        f"--app-protocol={app.protocol}",
        f"--dapr-http-port={ports.http}",
        f"--dapr-grpc-port={ports.grpc}",
        f"--dapr-listen-addresses={LOOPBACK}",
        f"--dapr-internal-grpc-port={ports.internal}",
        f"--dapr-internal-grpc-listen-address={LOOPBACK}",
        f"--metrics-port={ports.metrics}",
        f"--metrics-listen-address={LOOPBACK}",
        f"--placement-host-address={platform.placement}",
        f"--scheduler-host-address={platform.scheduler}",
        f"--dapr-graceful-shutdown-seconds={SHUTDOWN_SECONDS}",
        "--log-as-json",
        *(f"--resources-path={folder}" for folder in app.resources),
        *(f"--config={file}" for file in (app.config, platform.name_resolution, platform.tracing) if file),
        *_options(app),
    ]
    if ports.app:
        command += [f"--app-port={ports.app}", f"--app-channel-address={LOOPBACK}", *_health(app)]
    spec = ProcessSpec(
        f"{genitive(label)} sidecar", tuple(command), {**env, "DAPR_HOST_IP": LOOPBACK}, app.folder, logs / f"{label}.daprd.log",
        grace=SHUTDOWN_SECONDS + 5,
    )  # fmt: skip
    path = "/v1.0/healthz" if with_app else "/v1.0/healthz/outbound"
    through = with_app and bool(ports.app) and app.protocol == "grpc"
    return Service(
        spec,
        _ready(ports, path, app.app_id if through else ""),
        f"{path} is not 204, or the app can't be called through it" if through else f"{path} is not 204",
        within=60,
        ports=(ports.http, ports.grpc, ports.internal, ports.metrics),
        meanwhile="it is not healthy yet",
    )


def _ready(ports: InstancePorts, path: str, app_id: str) -> Probe:
    async def ready() -> bool:
        return await http_ok(ports.http, path) and (
            not app_id or await sidecar_reaches(f"{LOOPBACK}:{ports.grpc}", app_id)
        )

    return ready


def _options(app: AppSpec) -> list[str]:
    given = {
        "log-level": app.log_level,
        "app-max-concurrency": app.max_concurrency,
        "max-body-size": app.max_body_size,
        "read-buffer-size": app.read_buffer_size,
    }
    options = [f"--{flag}={value}" for flag, value in given.items() if value is not None]
    return [*options, "--enable-api-logging"] if app.api_logging else options


def _health(app: AppSpec) -> list[str]:
    if app.health is None:
        return []
    given = {
        "app-health-check-path": app.health.path,
        "app-health-probe-interval": app.health.interval_seconds,
        "app-health-probe-timeout": app.health.timeout_milliseconds,
        "app-health-threshold": app.health.threshold,
    }
    return ["--enable-app-health-check", *(f"--{flag}={value}" for flag, value in given.items() if value is not None)]
