"""What an app's registry says of itself, and the endpoint that serves it."""

from __future__ import annotations

import asyncio
import socket
import time
import urllib.request
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from apibase import App, Settings
from apibase.observability.metrics import Metrics
from apibase.observability.telemetry import Telemetry
from tests.unit.fake_dapr import FakeDapr, eventually


async def scraped(port: int) -> dict[str, Any]:
    """Return the families that an app's endpoint serves, by name."""

    def read() -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
            return answer.read().decode()

    return {family.name: family for family in text_string_to_metric_families(await asyncio.to_thread(read))}


@pytest.mark.req("R10.3")
async def test_an_app_serves_its_metrics_while_it_runs(settings: Settings, dapr: FakeDapr) -> None:
    app = App(settings.model_copy(update={"metrics_port": 0}))
    await app.start()
    port = app.telemetry.metrics_port
    try:
        families = await scraped(port)
    finally:
        await app.stop()

    assert families["apibase_build_info"].samples[0].labels["app_id"] == "desk"
    assert families["process_resident_memory_bytes"].samples[0].value > 0
    assert not [name for name in families if name.endswith("_created")]
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))


async def test_a_port_that_is_taken_is_named_with_its_setting() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        telemetry = Telemetry(Settings(metrics_port=port))
        with pytest.raises(OSError, match=rf"127.0.0.1:{port} \(APIBASE_METRICS_HOST, APIBASE_METRICS_PORT\)"):
            telemetry.start_metrics()


async def test_no_port_is_opened_unless_the_settings_name_one(settings: Settings) -> None:
    telemetry = Telemetry(settings)
    telemetry.start_metrics()

    assert telemetry.metrics_port == 0
    await telemetry.stop()


async def test_a_handler_that_blocks_the_loop_shows_as_its_lag(settings: Settings) -> None:
    telemetry = Telemetry(settings)
    telemetry.start_metrics()
    lag = telemetry.metrics.loop_lag

    def lags() -> bool:
        time.sleep(0.3)  # as a handler does that does not await
        return lag.total > 0.2

    try:
        await eventually(lags)
    finally:
        await telemetry.stop()


def test_two_apps_in_one_process_have_metrics_of_their_own() -> None:
    one, other = Metrics(), Metrics()
    one.server_started.labels("unary", "desk.v1.Desk", "Ask").inc()

    labels = {"grpc_type": "unary", "grpc_service": "desk.v1.Desk", "grpc_method": "Ask"}
    assert one.registry.get_sample_value("grpc_server_started_total", labels) == 1
    assert other.registry.get_sample_value("grpc_server_started_total", labels) is None
