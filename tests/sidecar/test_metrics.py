"""What the reference system's metrics say of what happened to it; and every query of the dashboard and the alerts at a real Prometheus."""

from __future__ import annotations

import asyncio
import contextlib
import urllib.request
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
import pytest_asyncio
from prometheus_client.parser import text_string_to_metric_families

from apibase import Settings, Sidecar
from apibase.local.binaries.dapr_tool import SERIES
from shop.orders.v1 import service_pb2
from shop.orders.v1.service_pb2_grpc import OrderServiceStub
from tests.sidecar.probe import Probe, generated, probe
from tests.sidecar.shop import Shop, eventually, order_request
from tests.telemetry.prometheus import Prometheus, prometheus_tool, scraping
from tests.telemetry.queries import ALERTS, alert_queries, dashboard_queries

__all__ = ["generated", "probe"]

pytestmark = pytest.mark.asyncio(loop_scope="module")

SETTLED = {
    "component": "events",
    "source": "payments",
    "handler": "shop.orders.v1.OrderEvents.OnPaymentSettled",
}
# What does not happen to these apps, and so has no data; promtool's tests have it.
_WITHOUT_DATA = {"Repeated events A": "no topic of theirs has deduplicate_for"}


async def value(shop: Shop, app: str, name: str, **labels: str) -> float:
    """Return what an app's endpoint says now: the sum of the series with these labels."""

    def read() -> float:
        with urllib.request.urlopen(f"http://{shop.stack.app(app).metrics_address}/metrics") as answer:
            families = text_string_to_metric_families(answer.read().decode())
        return sum(
            sample.value
            for family in families
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )

    return await asyncio.to_thread(read)


async def reaches(shop: Shop, wanted: float, app: str, name: str, **labels: str) -> None:
    async def probe() -> bool:
        return await value(shop, app, name, **labels) >= wanted

    await eventually(probe, within=10, what=f"{name} {labels} of {app} is {wanted}")


@pytest.mark.req("R10.3")
async def test_an_order_is_counted_wherever_it_passes(shop: Shop) -> None:
    place = {"grpc_service": "shop.orders.v1.OrderService", "grpc_method": "PlaceOrder", "grpc_code": "OK"}
    capture = {"grpc_service": "shop.payments.v1.PaymentService", "grpc_method": "Capture", "grpc_code": "OK"}

    placed = await shop.place(order_request())
    await shop.final(placed.order_id)

    await reaches(shop, 1, "orders", "grpc_server_handled_total", **place)
    await reaches(shop, 1, "orders", "grpc_client_handled_total", **capture)
    await reaches(shop, 1, "payments", "grpc_server_handled_total", **capture)
    await reaches(shop, 1, "orders", "apibase_building_block_calls_total", building_block="state", code="OK")
    await reaches(shop, 1, "payments", "apibase_building_block_calls_total", operation="PublishEvent", code="OK")
    await reaches(shop, 1, "orders", "apibase_deliveries_total", **SETTLED, outcome="SUCCESS")
    assert await value(shop, "orders", "apibase_ready") == 1
    assert await value(shop, "orders", "apibase_build_info", app_id="orders") == 1


@pytest.mark.req("R10.3")
async def test_how_long_an_event_was_on_its_way_is_known_from_the_time_that_daprd_brings(shop: Shop) -> None:
    placed = await shop.place(order_request())
    await shop.final(placed.order_id)
    source = {"component": "events", "source": "payments"}

    await reaches(shop, 1, "orders", "apibase_event_age_seconds_count", **source)

    count = await value(shop, "orders", "apibase_event_age_seconds_count", **source)
    assert 0 <= await value(shop, "orders", "apibase_event_age_seconds_sum", **source) < 10 * count


@pytest.mark.req("R3.6")
async def test_an_event_that_dies_is_counted_by_what_was_wrong_with_it(shop: Shop) -> None:
    await _bury_one(shop)

    await reaches(shop, 1, "orders", "apibase_dead_letters_total", **SETTLED, code="UNDECODABLE", end="dead_letter")


async def _bury_one(shop: Shop) -> None:
    sidecar = Sidecar(Settings(app_id="payments", dapr_grpc_endpoint=shop.stack.sidecar("payments").grpc_address))
    metadata = {"cloudevent.type": "shop.payments.v1.PaymentSettled"}
    await sidecar.client.publish_event(
        "events", "payments", '"no message"', publish_metadata=metadata, data_content_type="application/json"
    )
    await sidecar.close()


@pytest.fixture(scope="module")
def dapr() -> str:
    return SERIES


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def prometheus(shop: Shop, probe: Probe, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Prometheus]:
    """A Prometheus at both stacks, and what happens meanwhile: calls, failures, events of every fate."""
    configs = [stack.scrape_config for stack in (shop.stack, probe.stack)]
    assert all(configs)
    await _fail_once(shop)
    async with scraping(tmp_path_factory.mktemp("prometheus"), *filter(None, configs), rules=ALERTS) as prometheus:
        working = asyncio.create_task(_keep_busy(shop, probe))
        try:
            yield prometheus
        finally:
            working.cancel()
            await asyncio.gather(working, return_exceptions=True)


async def _fail_once(shop: Shop) -> None:
    """Have calls fail of the sidecar and of the other app."""
    stack = shop.stack
    placed = await shop.place(order_request())
    await stack.kill("payments")
    with contextlib.suppress(grpc.aio.AioRpcError):
        await shop.place(order_request(), timeout=20)
    await stack.restart("payments")
    await stack.kill_sidecar("orders")
    async with grpc.aio.insecure_channel(stack.app("orders").address) as direct:
        with contextlib.suppress(grpc.aio.AioRpcError):
            await OrderServiceStub(direct).GetOrder(service_pb2.GetOrderRequest(order_id=placed.order_id), timeout=20)
    await stack.restart_sidecar("orders")


async def _keep_busy(shop: Shop, probe: Probe) -> None:
    number = 0
    while True:
        number += 1
        with contextlib.suppress(grpc.aio.AioRpcError):
            await shop.place(order_request())
        with contextlib.suppress(grpc.aio.AioRpcError):
            await shop.place(order_request(currency_code="?"))
        await probe.invoke("wish", "refuse")
        await probe.invoke("wish", "break once")
        await _bury_one(shop)
        for wish in ("", "drop", "retry once", "lack a component once"):
            await probe.publish("tasks", {"id": f"busy-{number}-{wish}", "wish": wish})
        await probe.schedule("hopeless")
        await probe.schedule("nobody-does-this")
        await asyncio.sleep(0.2)


@pytest.mark.full
@pytest.mark.req("R10.3")
@pytest.mark.parametrize("name", [*dashboard_queries(), *alert_queries()])
async def test_a_query_gives_data_at_a_real_prometheus(prometheus: Prometheus, name: str) -> None:
    query = {**dashboard_queries(), **alert_queries()}[name]
    if name in _WITHOUT_DATA:
        assert await prometheus.query(query) == []
        return

    async def probe() -> list[Any]:
        return [each for each in await prometheus.query(query) if each["value"][1] != "NaN"]

    found = await eventually(probe, within=60, what=query)
    assert all("app" in each["metric"] for each in found)


@pytest.mark.full
async def test_the_configuration_that_up_writes_is_valid_and_has_the_alerts(shop: Shop) -> None:
    assert shop.stack.scrape_config is not None

    command = (prometheus_tool("promtool"), "check", "config", shop.stack.scrape_config)
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    output, _ = await process.communicate()

    assert process.returncode == 0, output.decode()
    assert str(ALERTS) in output.decode()


@pytest.mark.full
async def test_dead_letters_and_lost_events_are_heard_and_apps_that_run_are_not_down(prometheus: Prometheus) -> None:
    async def heard() -> bool:
        return await prometheus.alerts() >= {"DeadLetters", "EventsLost"}

    await eventually(heard, within=30, what="the alerts fire")
    assert not await prometheus.alerts() & {"AppDown", "AppRestarts"}
