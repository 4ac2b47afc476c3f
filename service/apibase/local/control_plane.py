"""Dapr's placement and scheduler, on loopback ports.

Both serve their health endpoint on all interfaces in Dapr 1.18.2, whatever `--healthz-listen-address` says; it tells
nothing but that they are well. Everything else listens on the loopback address only.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from apibase.local.ports import LOOPBACK, PortPool
from apibase.local.probes import http_ok
from apibase.local.process import ProcessSpec
from apibase.local.service import Service

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from apibase.local.binaries import DaprBinaries

_WITHIN_SECONDS = 30.0
_SCHEDULER_ID = "dapr-scheduler-server-0"
_ETCD_FLAGS = (
    "--override-broadcast-host-port={address}",
    f"--etcd-client-listen-address={LOOPBACK}",
    "--etcd-client-port={client}",
    f"--etcd-initial-cluster={_SCHEDULER_ID}=http://{LOOPBACK}:{{peer}}",
)
# A series whose scheduler takes other flags. 1.14's etcd listens on the address that the cluster names.
_ETCD_FLAGS_OF = {
    "1.14": (
        f"--etcd-client-ports={_SCHEDULER_ID}={{client}}",
        f"--initial-cluster={_SCHEDULER_ID}=http://{LOOPBACK}:{{peer}}",
    )
}


def plan_placement(binaries: DaprBinaries, ports: PortPool, logs: Path, env: Mapping[str, str]) -> tuple[Service, str]:
    """Placement, and the address at which sidecars find it."""
    port, health, metrics, raft = (ports.take() for _ in range(4))
    command = (
        str(binaries.placement),
        *_common(port, health, metrics),
        f"--initial-cluster=dapr-placement-0={LOOPBACK}:{raft}",
    )
    spec = ProcessSpec("placement", command, env, logs, logs / "placement.log")
    return _service(spec, health, (port, health, metrics, raft)), f"{LOOPBACK}:{port}"


def plan_scheduler(
    binaries: DaprBinaries, ports: PortPool, data: Path, logs: Path, env: Mapping[str, str]
) -> tuple[Service, str]:
    """The scheduler with its embedded etcd, and the address at which sidecars find it."""
    port, health, metrics, client, peer = (ports.take() for _ in range(5))
    address = f"{LOOPBACK}:{port}"
    etcd = _ETCD_FLAGS_OF.get(binaries.series, _ETCD_FLAGS)
    command = (
        str(binaries.scheduler),
        *_common(port, health, metrics),
        f"--etcd-data-dir={data}",
        *(flag.format(address=address, client=client, peer=peer) for flag in etcd),
    )
    spec = ProcessSpec("scheduler", command, env, logs, logs / "scheduler.log")
    return _service(spec, health, (port, health, metrics, client, peer)), address


def _common(port: int, health: int, metrics: int) -> tuple[str, ...]:
    return (
        f"--port={port}",
        f"--listen-address={LOOPBACK}",
        f"--healthz-port={health}",
        f"--healthz-listen-address={LOOPBACK}",
        f"--metrics-port={metrics}",
        f"--metrics-listen-address={LOOPBACK}",
        "--log-as-json",
    )


def _service(spec: ProcessSpec, health: int, ports: tuple[int, ...]) -> Service:
    return Service(spec, partial(http_ok, health, "/healthz"), "/healthz is not 200", _WITHIN_SECONDS, ports)
