"""The two services of the reference system, put together."""

from __future__ import annotations

from importlib.resources import files
from typing import TYPE_CHECKING, Any

import grpc
import pytest

import orders.bootstrap
import payments.bootstrap
from apibase import Settings
from orders.rules import Catalogue, Line
from orders.settings import OrderSettings
from shop.orders.v1 import service_pb2_grpc
from shop.payments.v1 import service_pb2 as payments_pb2
from tests.unit.fake_dapr import FakeDapr
from tests.unit.shop import order_request

if TYPE_CHECKING:
    from tests.unit.conftest import Log


async def test_orders_serves_and_listens_to_what_its_contract_says(
    settings: Settings, dapr: FakeDapr, log: Log
) -> None:
    app = orders.bootstrap.build(settings, OrderSettings())
    await app.start()
    await app.stop()

    (line,) = [line for line in log.lines if "listens on" in line["message"]]
    assert line["services"] == ["shop.orders.v1.OrderService"]
    assert (line["topics"], line["bindings"]) == (["events/payments"], ["order-sweep"])


async def test_payments_serves_its_contract_and_listens_to_nothing(
    settings: Settings, dapr: FakeDapr, log: Log
) -> None:
    app = payments.bootstrap.build(settings)
    await app.start()
    await app.stop()

    (line,) = [line for line in log.lines if "listens on" in line["message"]]
    assert (line["services"], line["topics"], line["bindings"]) == (["shop.payments.v1.PaymentService"], [], [])


@pytest.mark.req("R2.1", "R4.1")
async def test_an_order_uses_the_store_and_the_app_that_the_settings_name(settings: Settings) -> None:
    asked: list[str] = []

    async def authorise(request: Any, context: Any) -> Any:
        asked.append(dict(context.invocation_metadata())["dapr-app-id"])
        return payments_pb2.AuthoriseResponse(payment={"status": "PAYMENT_STATUS_DECLINED", "decline_reason": "no"})

    till = grpc.method_handlers_generic_handler(
        "shop.payments.v1.PaymentService",
        {
            "Authorise": grpc.unary_unary_rpc_method_handler(
                authorise,
                request_deserializer=payments_pb2.AuthoriseRequest.FromString,
                response_serializer=payments_pb2.AuthoriseResponse.SerializeToString,
            )
        },
    )
    async with FakeDapr(settings.sidecar_address, [till]) as dapr:
        dapr.components["shopstore"] = "state.postgresql"
        dapr.capabilities["shopstore"] = dapr.capabilities["statestore"]
        app = orders.bootstrap.build(settings, OrderSettings(store="shopstore", payments_app_id="till"))
        await app.start()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{app.port}") as channel:
            placed = await service_pb2_grpc.OrderServiceStub(channel).PlaceOrder(
                order_request(lines=[{"sku": "MUG-BLUE", "quantity": 1}])
            )
        await app.stop()

    assert placed.order.status_reason == "no"
    assert asked == ["till"]
    assert f"order/{placed.order.order_id}" in dapr.rows
    assert {call.request.store_name for call in dapr.calls if call.method == "SaveState"} == {"shopstore"}
    assert [request.topic for request in dapr.published] == ["orders"]


def test_the_catalogue_that_ships_can_be_read_and_prices_in_every_currency_it_names() -> None:
    catalogue = Catalogue.from_json(files("orders").joinpath("catalogue.json").read_text(encoding="utf-8"))

    priced, problems = catalogue.price([Line("MUG-BLUE", 1)], "EUR")

    assert (len(priced), problems) == (1, [])
