"""What the topology says becomes daprd's command line and the app's environment."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from apibase.local.errors import StackError
from apibase.local.instance import app_environment, check_commands, check_ports, choose_ports, dapr_variables
from apibase.local.ports import PortPool
from apibase.local.sidecar import InstancePorts, Platform, plan_sidecar, write_name_resolution
from apibase.local.topology import AppSpec, FixedPorts, HealthCheck

PORTS = InstancePorts(app=1, http=2, grpc=3, internal=4, metrics=5)


def flags(app: AppSpec, ports: InstancePorts = PORTS) -> list[str]:
    platform = Platform({}, "127.0.0.1:6", "127.0.0.1:7", Path("/run/names.yaml"))
    service = plan_sidecar(Path("/bin/daprd"), app, app.app_id, ports, platform, Path("/logs"), {"A": "b"})
    assert service.spec.env == {"A": "b", "DAPR_HOST_IP": "127.0.0.1"}
    return list(service.spec.command)


def test_every_setting_of_the_topology_reaches_daprd() -> None:
    app = AppSpec(
        app_id="orders",
        folder=Path("/x"),
        protocol="grpc",
        resources=(Path("/a"), Path("/b")),
        config=Path("/c.yaml"),
        health=HealthCheck(path="/up", interval_seconds=1, timeout_milliseconds=2, threshold=3),
        log_level="debug",
        max_concurrency=4,
        max_body_size="8Mi",
        read_buffer_size="8Ki",
        api_logging=True,
    )
    assert set(flags(app)) >= {
        "--app-id=orders",
        "--app-port=1",
        "--app-protocol=grpc",
        "--dapr-http-port=2",
        "--dapr-grpc-port=3",
        "--dapr-internal-grpc-port=4",
        "--metrics-port=5",
        "--placement-host-address=127.0.0.1:6",
        "--scheduler-host-address=127.0.0.1:7",
        "--resources-path=/a",
        "--resources-path=/b",
        "--config=/c.yaml",
        "--config=/run/names.yaml",
        "--enable-app-health-check",
        "--app-health-check-path=/up",
        "--app-health-probe-interval=1",
        "--app-health-probe-timeout=2",
        "--app-health-threshold=3",
        "--log-level=debug",
        "--app-max-concurrency=4",
        "--max-body-size=8Mi",
        "--read-buffer-size=8Ki",
        "--enable-api-logging",
        "--log-as-json",
    }


def test_every_address_that_daprd_listens_on_is_the_loopback_one() -> None:
    app = AppSpec(app_id="orders", folder=Path("/x"))
    listening = [flag for flag in flags(app) if "listen-address" in flag]
    assert len(listening) == 3
    assert all(flag.endswith("=127.0.0.1") for flag in listening)


def test_a_caller_gets_no_app_port() -> None:
    app = AppSpec(app_id="shop", folder=Path("/x"))
    assert not [flag for flag in flags(app, InstancePorts(0, 2, 3, 4, 5)) if flag.startswith("--app-port")]
    assert "APP_PORT" not in dapr_variables(app, InstancePorts(0, 2, 3, 4, 5))


def test_name_resolution_never_runs_the_clean_up_that_ends_live_hosts(tmp_path: Path) -> None:
    settings = yaml.safe_load(write_name_resolution(tmp_path).read_text())["spec"]["nameResolution"]
    assert settings["component"] == "sqlite"
    assert settings["configuration"]["connectionString"] == str(tmp_path / "names.db")
    assert settings["configuration"]["cleanupInterval"] == "0s"


def test_an_app_is_told_what_dapr_tells_it_and_never_sent_to_a_proxy() -> None:
    app = AppSpec(app_id="orders", folder=Path("/x"), protocol="grpc")
    given = {
        "DAPR_GRPC_ENDPOINT": "https://elsewhere",
        "no_proxy": "corp",
        "PATH": "/usr/bin",
        "A": "outside",
        "B": "outside",
    }
    env = app_environment(given, {"A": "file"}, dapr_variables(app, PORTS))
    assert "DAPR_GRPC_ENDPOINT" not in env
    assert env["no_proxy"] == "corp,127.0.0.1,localhost"
    assert (env["A"], env["B"]) == ("file", "outside")
    assert (env["APP_ID"], env["APP_PORT"], env["APP_PROTOCOL"]) == ("orders", "1", "grpc")
    assert (env["DAPR_GRPC_PORT"], env["DAPR_HTTP_PORT"], env["DAPR_METRICS_PORT"]) == ("3", "2", "5")
    assert env["PATH"].endswith(":/usr/bin")


def test_ports_are_free_ones_unless_the_files_are_asked_for() -> None:
    pool, finder = PortPool(), PortPool()
    wanted = finder.take()
    finder.close()
    app = AppSpec(app_id="orders", folder=Path("/x"), command=("python",), ports=FixedPorts(app=wanted))
    try:
        assert choose_ports(app, pool, fixed=False).app != wanted
        assert choose_ports(app, pool, fixed=True).app == wanted
    finally:
        pool.close()


def test_the_port_of_an_app_that_somebody_else_starts_is_the_files() -> None:
    pool = PortPool()
    try:
        assert (
            choose_ports(AppSpec(app_id="web", folder=Path("/x"), ports=FixedPorts(app=80)), pool, fixed=False).app
            == 80
        )
    finally:
        pool.close()


def test_two_apps_that_want_one_port_are_told_before_anything_starts() -> None:
    finder = PortPool()
    port = finder.take()
    finder.close()
    one, two = (
        AppSpec(app_id=app_id, folder=Path("/x"), command=("python",), ports=FixedPorts(app=port))
        for app_id in ("orders", "web")
    )
    check_ports([one])
    with pytest.raises(StackError, match=f"port {port}, wanted by web's app, is in use"):
        check_ports([one, two])
    with pytest.raises(StackError, match=f"port {port}, wanted by orders' app, is in use"):
        check_ports([two, one])


def test_a_sidecar_is_waited_for_in_words_and_its_absence_told_in_detail() -> None:
    platform = Platform({}, "", "", Path("/run/names.yaml"))
    app = AppSpec(app_id="payments", folder=Path("/x"), protocol="grpc")
    service = plan_sidecar(Path("/bin/daprd"), app, "payments", PORTS, platform, Path("/logs"), {})
    assert service.spec.name == "payments' sidecar"
    assert service.meanwhile == "it is not healthy yet"
    assert service.waits_for.startswith("/v1.0/healthz is not 204")


@pytest.mark.parametrize("command", ["no-such-command", "./no-such-file"])
def test_a_command_that_is_not_there_is_known_before_anything_starts(tmp_path: Path, command: str) -> None:
    with pytest.raises(StackError, match=f"orders: its command '{command}' is not"):
        check_commands([AppSpec(app_id="orders", folder=tmp_path, command=(command,))])
