"""Tracing of a local stack: what apps and sidecars are told, and the Zipkin that is started for it."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from apibase.local.backends.zipkin import plan_zipkin
from apibase.local.binaries import ZipkinBinaries
from apibase.local.sidecar import InstancePorts, Platform, plan_sidecar
from apibase.local.topology import AppSpec
from apibase.local.tracing import Tracing, write_tracing


def told(config: Path | None) -> object:
    """What a Configuration says of tracing."""
    assert config is not None
    return yaml.safe_load(config.read_text())["spec"]["tracing"]


def test_where_nothing_is_asked_for_nothing_is_told(tmp_path: Path) -> None:
    assert write_tracing(tmp_path) == Tracing(None, {})
    assert list(tmp_path.iterdir()) == []


def test_apps_and_sidecars_are_told_of_the_same_zipkin(tmp_path: Path) -> None:
    tracing = write_tracing(tmp_path, zipkin="127.0.0.1:9411")
    endpoint = "http://127.0.0.1:9411/api/v2/spans"
    assert told(tracing.config) == {"samplingRate": "1", "zipkin": {"endpointAddress": endpoint}}
    assert tracing.env == {
        "OTEL_TRACES_EXPORTER": "zipkin",
        "OTEL_EXPORTER_ZIPKIN_ENDPOINT": endpoint,
        "OTEL_TRACES_SAMPLER": "parentbased_always_on",
    }


def test_apps_and_sidecars_are_told_of_the_same_receiver_of_otlp_beside_zipkin(tmp_path: Path) -> None:
    tracing = write_tracing(tmp_path, zipkin="127.0.0.1:1", otlp="127.0.0.1:4317")
    spec = told(tracing.config)
    assert isinstance(spec, dict)
    assert spec["otel"] == {"endpointAddress": "127.0.0.1:4317", "isSecure": False, "protocol": "grpc"}
    assert "zipkin" in spec
    assert tracing.env["OTEL_TRACES_EXPORTER"] == "zipkin,otlp"
    assert tracing.env["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"] == "http://127.0.0.1:4317"
    assert tracing.env["OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"] == "grpc"


@pytest.mark.parametrize("tracing", [None, Path("/run/tracing.yaml")])
def test_a_sidecar_gets_the_tracing_after_its_own_configuration_over_which_it_wins(tracing: Path | None) -> None:
    platform = Platform({}, "", "", Path("/run/names.yaml"), tracing)
    app = AppSpec("orders", Path("/"), config=Path("/project/dapr.yaml"))
    service = plan_sidecar(Path("/daprd"), app, "orders", InstancePorts(0, 1, 2, 3, 4), platform, Path("/logs"), {})
    given = [flag for flag in service.spec.command if flag.startswith("--config=")]
    own = ["--config=/project/dapr.yaml", "--config=/run/names.yaml"]
    assert given == [*own, *([f"--config={tracing}"] if tracing else [])]


def test_zipkin_listens_on_the_loopback_address_and_keeps_spans_in_memory(tmp_path: Path) -> None:
    binaries = ZipkinBinaries("3.5.1", "test", Path("/java"), Path("/zipkin.jar"))
    service = plan_zipkin(binaries, 9411, tmp_path, {"A": "b"})
    assert service.ports == (9411,)
    command = service.spec.command
    assert (command[0], command[command.index("-jar") + 1]) == ("/java", "/zipkin.jar")
    assert {"--armeria.ports[0].ip=127.0.0.1", "--armeria.ports[0].port=9411", "--zipkin.storage.type=mem"} < {*command}
