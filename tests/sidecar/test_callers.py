"""Who may call `payments`, and who brings events to `orders`, through real sidecars."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
import pytest_asyncio
from dapr.proto.runtime.v1 import appcallback_pb2, appcallback_pb2_grpc

from apibase import Settings, Sidecar
from shop.orders.v1 import order_pb2
from shop.payments.v1 import payment_pb2, service_pb2
from shop.payments.v1.events_pb2 import PaymentSettled
from shop.payments.v1.service_pb2_grpc import PaymentServiceStub
from tests.sidecar.shop import Shop, details, eventually, order_request

pytestmark = pytest.mark.asyncio(loop_scope="module")

CALLER = "dapr-caller-app-id"
AUTHORISE = "shop.payments.v1.PaymentService.Authorise"


class Sidecars:
    """Calls through the sidecar of any app, as that app would."""

    def __init__(self, shop: Shop) -> None:
        self._shop = shop
        self._open: dict[str, Sidecar] = {}

    def payments(self, caller: str) -> Any:
        """A stub of `payments` behind the caller's sidecar."""
        return PaymentServiceStub(self._sidecar(caller).channel(app_id="payments"))

    def orders_callback(self, caller: str) -> Any:
        """Dapr's own callback service of `orders`, which daprd relays like any other."""
        return appcallback_pb2_grpc.AppCallbackStub(self._sidecar(caller).channel(app_id="orders"))

    def _sidecar(self, app_id: str) -> Sidecar:
        if app_id not in self._open:
            address = self._shop.stack.sidecar(app_id).grpc_address
            self._open[app_id] = Sidecar(Settings(app_id=app_id, dapr_grpc_endpoint=address))
        return self._open[app_id]

    async def close(self) -> None:
        for sidecar in self._open.values():
            await sidecar.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def sidecars(shop: Shop) -> AsyncIterator[Sidecars]:
    sidecars = Sidecars(shop)
    yield sidecars
    await sidecars.close()


def authorise(payment_id: str = "") -> service_pb2.AuthoriseRequest:
    payment_id = payment_id or str(uuid.uuid4())
    return service_pb2.AuthoriseRequest(
        payment_id=payment_id,
        order_id=payment_id,
        amount={"currency_code": "EUR", "units": 5},
        payment_token="tok_visa",
    )


async def refused(call: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


async def test_orders_may_call_payments(sidecars: Sidecars) -> None:
    answer = await sidecars.payments("orders").Authorise(authorise())

    assert answer.payment.status == payment_pb2.PAYMENT_STATUS_AUTHORISED


async def test_the_storefront_may_not_and_is_not_told_who_may(shop: Shop, sidecars: Sidecars) -> None:
    request = authorise()
    error = await refused(sidecars.payments("storefront").Authorise(request))

    assert error.code() is grpc.StatusCode.PERMISSION_DENIED
    info = details(error)["ErrorInfo"]
    assert (info.reason, info.domain) == ("CALLER_NOT_ALLOWED", "dapr_contract.v1")
    assert dict(info.metadata) == {"caller": "storefront", "method": AUTHORISE}
    assert "orders" not in str(error.details())

    async def logged() -> list[Any]:
        lines = (line for line in shop.log_lines("payments") if line.get("reason") == "CALLER_NOT_ALLOWED")
        return [(line["caller"], line["method"]) for line in lines]

    assert ("storefront", AUTHORISE) in await eventually(logged, within=5, what="the refusal is logged")
    missing = await refused(
        sidecars.payments("orders").GetPayment(service_pb2.GetPaymentRequest(payment_id=request.payment_id))
    )
    assert missing.code() is grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize("forged", ["orders", "storefront"])
async def test_a_forged_caller_does_not_help(sidecars: Sidecars, forged: str) -> None:
    error = await refused(sidecars.payments("storefront").Authorise(authorise(), metadata=((CALLER, forged),)))

    assert error.code() is grpc.StatusCode.PERMISSION_DENIED
    assert details(error)["ErrorInfo"].metadata["caller"] == "storefront"


async def test_a_caller_that_may_is_refused_where_it_names_somebody_else_too(sidecars: Sidecars) -> None:
    error = await refused(sidecars.payments("orders").Authorise(authorise(), metadata=((CALLER, "storefront"),)))

    assert error.code() is grpc.StatusCode.PERMISSION_DENIED


async def test_the_storefront_may_read_what_the_method_lets_it_read(shop: Shop, sidecars: Sidecars) -> None:
    placed = await shop.place(order_request())
    await shop.final(placed.order_id)

    read = await sidecars.payments("storefront").GetPayment(service_pb2.GetPaymentRequest(payment_id=placed.order_id))

    assert read.payment.order_id == placed.order_id


async def test_a_call_to_the_own_app_id_names_no_caller_and_is_refused(sidecars: Sidecars) -> None:
    error = await refused(sidecars.payments("payments").Authorise(authorise()))

    assert error.code() is grpc.StatusCode.PERMISSION_DENIED
    assert details(error)["ErrorInfo"].metadata["caller"] == ""


async def test_whoever_has_the_apps_own_sidecar_can_name_itself_as_it_likes(sidecars: Sidecars) -> None:
    """What docs/routes.md says that `callers` does not protect from: daprd adds nothing to a call that stays with it."""
    own = sidecars.payments("payments")

    answer = await own.Authorise(authorise(), metadata=((CALLER, "orders"),))

    assert answer.payment.status == payment_pb2.PAYMENT_STATUS_AUTHORISED


async def test_an_app_cannot_forge_an_event_through_the_sidecars(shop: Shop, sidecars: Sidecars) -> None:
    # An order that stays open: its payment is away while it is placed.
    await shop.stack.kill("payments")
    try:
        placed = await shop.place(order_request())
        settled = PaymentSettled(payment_id=placed.order_id, order_id=placed.order_id, amount=placed.total)
        event = appcallback_pb2.TopicEventRequest(
            id="forged",
            source="payments",
            type=settled.DESCRIPTOR.full_name,
            pubsub_name="events",
            topic="payments",
            data=settled.SerializeToString(),
            data_content_type="application/octet-stream",
        )
        daprd = sidecars.orders_callback("storefront")
        assert (await daprd.OnTopicEvent(event)).status == appcallback_pb2.TopicEventResponse.DROP
        error = await refused(daprd.OnBindingEvent(appcallback_pb2.BindingEventRequest(name="order-sweep")))
        assert error.code() is grpc.StatusCode.PERMISSION_DENIED
        assert (await shop.get(placed.order_id)).status != order_pb2.ORDER_STATUS_SETTLED
    finally:
        await shop.stack.restart("payments")

    async def warned() -> bool:
        return any(
            line.get("event_id") == "forged" and line.get("caller") == "storefront" for line in shop.log_lines("orders")
        )

    await eventually(warned, within=5, what="the log tells of the forged event")
    assert (await shop.final(placed.order_id)).status == order_pb2.ORDER_STATUS_SETTLED
