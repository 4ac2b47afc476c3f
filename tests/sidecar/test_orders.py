"""Orders through real sidecars: storefront → daprd → orders → daprd → payments → Redis → orders."""

from __future__ import annotations

import asyncio
import secrets
from typing import Any

import grpc
import pytest

from shop.orders.v1 import order_pb2, service_pb2
from shop.payments.v1 import payment_pb2
from tests.sidecar.redis_streams import RedisStreams
from tests.sidecar.shop import Shop, charges, details, eventually, order_request

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def refused(call: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


@pytest.mark.req("R2.1", "R2.4", "R3.1", "R3.4", "R4.1", "R4.2", "R6.1", "R14.1")
async def test_an_order_is_paid_at_the_other_service_and_settled_by_its_event(shop: Shop) -> None:
    placed = await shop.place(order_request())
    assert placed.status in {order_pb2.ORDER_STATUS_STARTED, order_pb2.ORDER_STATUS_SETTLED}
    settled = await shop.final(placed.order_id)
    assert settled.status == order_pb2.ORDER_STATUS_SETTLED
    payment = await shop.payment(placed.order_id)
    assert payment.status == payment_pb2.PAYMENT_STATUS_CAPTURED
    assert payment.amount == settled.total
    assert (settled.total.units, settled.total.nanos, settled.total.currency_code) == (23, 0, "EUR")


async def test_a_declined_card_rejects_the_order_and_charges_nothing(shop: Shop) -> None:
    placed = await shop.place(order_request(payment_token="tok_declined"))
    assert (placed.status, placed.status_reason) == (order_pb2.ORDER_STATUS_REJECTED, "card_declined")
    assert charges(await shop.payment(placed.order_id)) == 0


@pytest.mark.req("R4.2")
async def test_one_key_sent_by_twenty_callers_at_one_instant_is_one_order_and_one_payment(shop: Shop) -> None:
    request = order_request()
    placed = await asyncio.gather(*(shop.place(request) for _ in range(20)))
    assert len({order.order_id for order in placed}) == 1
    await shop.final(placed[0].order_id)
    payment = await shop.payment(placed[0].order_id)
    assert charges(payment) == 1
    assert len(payment.entries) == 2


async def test_two_bodies_under_one_key_at_one_instant_are_one_order_and_the_other_is_refused(shop: Shop) -> None:
    for _ in range(5):
        key = secrets.token_hex(8)
        answers = await asyncio.gather(
            *(shop.place(order_request(key, note=f"body {number % 2}")) for number in range(8)), return_exceptions=True
        )
        orders = [answer for answer in answers if not isinstance(answer, BaseException)]
        errors = [answer for answer in answers if isinstance(answer, grpc.aio.AioRpcError)]
        assert len(orders) + len(errors) == 8
        assert {error.code() for error in errors} == {grpc.StatusCode.ALREADY_EXISTS}
        assert len(orders) == 4
        assert len({order.order_id for order in orders}) == 1


async def test_a_used_key_with_another_body_is_already_exists_and_says_whose_it_is(shop: Shop) -> None:
    request = order_request()
    placed = await shop.place(request)
    request.lines[0].quantity = 3
    error = await refused(shop.place(request))
    assert error.code() is grpc.StatusCode.ALREADY_EXISTS
    info = details(error)["ErrorInfo"]
    assert (info.reason, info.domain, dict(info.metadata)) == (
        "IDEMPOTENCY_KEY_REUSED",
        "shop.orders.v1",
        {"order_id": placed.order_id},
    )


async def test_an_invalid_order_names_every_field_that_is_wrong(shop: Shop) -> None:
    request = order_request(customer_id="", currency_code="euro", lines=[{"sku": "MUG-RED", "quantity": 0}])
    error = await refused(shop.place(request))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    violations = {violation.field for violation in details(error)["BadRequest"].field_violations}
    assert {"customer_id", "currency_code", "lines[0].quantity"} <= violations


async def test_an_unknown_sku_names_the_line(shop: Shop) -> None:
    lines = [{"sku": "MUG-RED", "quantity": 1}, {"sku": "UNICORN", "quantity": 1}]
    error = await refused(shop.place(order_request(lines=lines)))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert details(error)["ErrorInfo"].reason == "UNKNOWN_SKU"
    assert [violation.field for violation in details(error)["BadRequest"].field_violations] == ["lines[1].sku"]


async def test_an_unknown_order_is_not_found_with_its_reason(shop: Shop) -> None:
    error = await refused(shop.get("00000000-0000-4000-8000-000000000000"))
    assert error.code() is grpc.StatusCode.NOT_FOUND
    assert details(error)["ErrorInfo"].reason == "ORDER_NOT_FOUND"


async def test_a_settled_order_cannot_be_cancelled(shop: Shop) -> None:
    placed = await shop.place(order_request())
    await shop.final(placed.order_id)
    error = await refused(shop.orders.CancelOrder(service_pb2.CancelOrderRequest(order_id=placed.order_id)))
    assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert details(error)["ErrorInfo"].metadata["status"] == "ORDER_STATUS_SETTLED"
    assert charges(await shop.payment(placed.order_id)) == 1


async def test_a_message_larger_than_the_limit_is_refused_and_the_next_call_is_served(shop: Shop) -> None:
    error = await refused(shop.place(order_request(note="x" * (5 * 1024 * 1024))))
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert (await shop.place(order_request())).order_id


@pytest.mark.req("R2.5", "R10.4")
async def test_the_callers_trace_is_in_the_log_lines_of_both_services_and_of_the_event(shop: Shop) -> None:
    trace_id = secrets.token_hex(16)
    traceparent = f"00-{trace_id}-{secrets.token_hex(8)}-01"
    placed = await shop.place(order_request(), metadata=(("traceparent", traceparent), ("x-correlation-id", "shelf-7")))
    await shop.final(placed.order_id)

    async def methods() -> set[str]:
        lines = [*shop.log_lines("orders"), *shop.log_lines("payments")]
        return {line["method"] for line in lines if line.get("trace_id") == trace_id and "method" in line}

    wanted = {
        "shop.orders.v1.OrderService.PlaceOrder",
        "shop.payments.v1.PaymentService.Authorise",
        "shop.payments.v1.PaymentService.Capture",
        "shop.orders.v1.OrderEvents.OnPaymentSettled",
    }

    async def all_there() -> bool:
        return wanted <= await methods()

    await eventually(all_there, within=5, what=f"the trace is in the logs of {wanted}")
    for line in shop.log_lines("payments"):
        if line.get("trace_id") == trace_id:
            assert line["correlation_id"] == "shelf-7"


@pytest.mark.req("R13.4")
async def test_the_payment_token_is_in_no_log(shop: Shop) -> None:
    token = f"tok_secret_{secrets.token_hex(8)}"
    placed = await shop.place(order_request(payment_token=token))
    await shop.final(placed.order_id)
    error = await refused(shop.place(order_request(payment_token=token, lines=[])))
    assert token not in str(error.details())
    for log in shop.stack.log_folder.glob("*"):
        assert token not in log.read_text(encoding="utf-8", errors="replace"), log.name


@pytest.mark.req("R1.3", "R3.1")
async def test_an_accepted_order_is_published_as_a_cloud_event_with_a_stable_id(shop: Shop) -> None:
    trace_id = secrets.token_hex(16)
    placed = await shop.place(order_request(), metadata=(("traceparent", f"00-{trace_id}-{secrets.token_hex(8)}-01"),))
    assert shop.stack.platform is not None
    topics = RedisStreams(shop.stack.platform.env["REDIS_HOST"])
    events = [event for event in await topics.events("orders") if event["subject"] == placed.order_id]
    assert len(events) == 1
    (event,) = events
    assert event["specversion"] == "1.0"
    assert event["type"] == "shop.orders.v1.OrderPlaced"
    assert event["source"] == "orders"
    assert event["id"] == f"{placed.order_id}:placed"
    assert event["datacontenttype"] == "application/json"
    assert event["data"]["order"]["orderId"] == placed.order_id
    assert trace_id in event["traceparent"]
