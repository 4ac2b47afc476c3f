"""PlaceOrder: one row for one idempotency key, whatever is lost on the way."""

from __future__ import annotations

import asyncio

import grpc
import pytest
from google.type.money_pb2 import Money

from apibase import InvalidRequest, ServiceError, SidecarError, SidecarUnavailable
from orders import rules
from shop.orders.v1 import events_pb2, order_pb2
from tests.unit.memory_state import refused, unavailable
from tests.unit.shop import CONTEXT, Shop, cut, order_request

ORDER_ID = rules.order_id("ann", "key-1")
ROW = f"order/{ORDER_ID}"


@pytest.fixture
def shop() -> Shop:
    return Shop()


async def test_an_order_is_priced_saved_announced_and_paid(shop: Shop) -> None:
    order = await shop.place()

    assert order.order_id == ORDER_ID
    assert order.total == Money(currency_code="EUR", units=30, nanos=800_000_000)
    assert [(line.sku, line.quantity, line.unit_price.units) for line in order.lines] == [("MUG", 2, 11), ("TEA", 1, 7)]
    assert order.status == order_pb2.ORDER_STATUS_STARTED
    assert await shop.captures(ORDER_ID) == 1
    ((placed, event_id, subject),) = [
        entry for entry in shop.broker.published if isinstance(entry[0], events_pb2.OrderPlaced)
    ]
    assert (placed.order.order_id, event_id, subject) == (ORDER_ID, f"{ORDER_ID}:placed", ORDER_ID)

    await shop.deliver()

    assert await shop.status(ORDER_ID) == "SETTLED"


async def test_the_payment_token_leaves_the_row_for_payments_alone(shop: Shop) -> None:
    order = await shop.place(payment_token="tok_hunter2")

    assert "hunter2" not in str(order)
    assert "hunter2" not in str(shop.broker.published)
    assert "hunter2" in shop.state.rows[ROW][0]


async def test_the_same_request_again_is_the_same_order_and_one_payment(shop: Shop) -> None:
    await shop.place()
    await shop.deliver()

    again = await shop.place()

    assert (again.order_id, again.status) == (ORDER_ID, order_pb2.ORDER_STATUS_SETTLED)
    assert shop.wire.calls == ["Authorise", "Capture"]
    assert len(shop.broker.of(events_pb2.OrderPlaced)) == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"currency_code": "JPY", "lines": [order_pb2.OrderLine(sku="MUG", quantity=2)]},
        {"lines": [order_pb2.OrderLine(sku="MUG", quantity=3), order_pb2.OrderLine(sku="TEA", quantity=1)]},
        {"lines": [order_pb2.OrderLine(sku="MUG", quantity=2)]},
        {"payment_token": "tok_other"},
        {"note": "ring twice"},
    ],
    ids=["currency", "quantity", "lines", "payment token", "note"],
)
async def test_a_used_key_with_another_body_is_refused(shop: Shop, changes: dict[str, object]) -> None:
    await shop.place()

    with pytest.raises(ServiceError) as caught:
        await shop.place(**changes)

    assert (caught.value.code, caught.value.reason) == (grpc.StatusCode.ALREADY_EXISTS, "IDEMPOTENCY_KEY_REUSED")
    assert caught.value.metadata == {"order_id": ORDER_ID}
    assert shop.wire.calls == ["Authorise", "Capture"]


async def test_another_key_or_another_customer_is_another_order(shop: Shop) -> None:
    orders = [await shop.place(), await shop.place(idempotency_key="key-2"), await shop.place(customer_id="bob")]

    assert len({order.order_id for order in orders}) == 3


async def test_one_key_at_the_same_instant_is_one_order_and_one_payment(shop: Shop) -> None:
    replicas = [shop.orders, shop.replica()[0]]

    answers = await asyncio.gather(*(replicas[n % 2].PlaceOrder(order_request(), CONTEXT) for n in range(20)))
    await shop.deliver()

    assert {answer.order.order_id for answer in answers} == {ORDER_ID}
    assert shop.state.saves.count(ROW) <= 3  # accepted, started, settled
    assert await shop.captures(ORDER_ID) == 1
    assert await shop.status(ORDER_ID) == "SETTLED"


async def test_a_row_that_somebody_else_wrote_first_is_the_order(shop: Shop) -> None:
    # Between our look and our write, the same request ran at another replica.
    shop.state.before_save(ROW, lambda: shop.replica()[0].PlaceOrder(order_request(), CONTEXT))

    order = await shop.place()

    assert order.order_id == ORDER_ID
    assert len(shop.broker.of(events_pb2.OrderPlaced)) == 1
    assert shop.wire.calls == ["Authorise", "Capture"]


async def test_a_row_that_somebody_else_wrote_first_with_another_body_wins(shop: Shop) -> None:
    shop.state.before_save(ROW, lambda: shop.replica()[0].PlaceOrder(order_request(note="theirs"), CONTEXT))

    with pytest.raises(ServiceError, match="IDEMPOTENCY_KEY_REUSED"):
        await shop.place(note="ours")

    assert (await shop.record(ORDER_ID)).body_hash == rules.body_hash(
        "EUR", [rules.Line("MUG", 2), rules.Line("TEA", 1)], "tok_visa", "theirs"
    )


async def test_a_lost_answer_of_a_row_that_was_written_is_settled_by_reading(shop: Shop) -> None:
    shop.state.after_save(ROW, unavailable)

    order = await shop.place()

    assert order.status == order_pb2.ORDER_STATUS_STARTED
    assert await shop.captures(ORDER_ID) == 1


@pytest.mark.parametrize("failure", [unavailable, refused])
async def test_a_row_that_was_not_written_is_an_error_and_no_order(shop: Shop, failure: object) -> None:
    shop.state.before_save(ROW, failure)  # type: ignore[arg-type]

    with pytest.raises(SidecarError):
        await shop.place()

    assert ROW not in shop.state.rows
    assert shop.wire.calls == []
    assert shop.broker.published == []

    order = await shop.place()  # and the same key again is that order
    assert order.order_id == ORDER_ID
    assert await shop.captures(ORDER_ID) == 1


async def test_an_order_is_in_the_index_before_its_row_is_written(shop: Shop) -> None:
    seen: list[bool] = []

    async def look() -> None:
        seen.append(ORDER_ID in await shop.open_ids())

    shop.state.before_save(ROW, look)
    await shop.place()

    assert seen == [True]


async def test_an_order_that_cannot_be_indexed_is_not_saved(shop: Shop) -> None:
    original = shop.store.add_open

    async def fail(order_id: str) -> None:
        await original(order_id)
        raise SidecarUnavailable("away")

    shop.store.add_open = fail  # type: ignore[method-assign]

    with pytest.raises(SidecarUnavailable):
        await shop.place()

    assert ROW not in shop.state.rows


async def test_an_order_stands_when_payments_are_down_and_the_sweep_pays_it(shop: Shop) -> None:
    shop.wire.down = True
    order = await shop.place()
    assert order.status == order_pb2.ORDER_STATUS_STARTED

    await shop.sweep()
    assert await shop.status(ORDER_ID) == "STARTED"
    shop.wire.down = False
    await shop.sweep()
    await shop.deliver()

    assert await shop.status(ORDER_ID) == "SETTLED"
    assert await shop.captures(ORDER_ID) == 1


async def test_an_order_stands_when_the_broker_is_down_and_the_sweep_announces_it(shop: Shop) -> None:
    shop.broker.down = True
    order = await shop.place()
    assert order.status == order_pb2.ORDER_STATUS_ACCEPTED
    assert shop.wire.calls == []

    shop.broker.down = False
    await shop.sweep()
    await shop.deliver()

    assert await shop.status(ORDER_ID) == "SETTLED"
    assert len(shop.broker.of(events_pb2.OrderPlaced)) == 1


@pytest.mark.parametrize("method", ["Authorise", "Capture"])
async def test_a_lost_answer_of_payments_charges_nobody_twice(shop: Shop, method: str) -> None:
    shop.wire.after(method, cut)
    await shop.place()

    await shop.sweep()
    await shop.sweep()
    await shop.deliver()

    assert await shop.status(ORDER_ID) == "SETTLED"
    assert await shop.captures(ORDER_ID) == 1


async def test_a_captured_payment_whose_event_the_broker_refused_is_announced_by_the_sweep(shop: Shop) -> None:
    async def broker_fails() -> None:
        shop.broker.down = True

    shop.wire.before("Capture", broker_fails)
    await shop.place()
    assert await shop.captures(ORDER_ID) == 1
    await shop.deliver()
    assert await shop.status(ORDER_ID) == "STARTED"

    shop.broker.down = False
    await shop.sweep()
    await shop.deliver()

    assert await shop.status(ORDER_ID) == "SETTLED"
    assert await shop.captures(ORDER_ID) == 1


async def test_a_declined_card_rejects_the_order_with_the_reason(shop: Shop) -> None:
    order = await shop.place(payment_token="tok_declined_1")

    assert (order.status, order.status_reason) == (order_pb2.ORDER_STATUS_REJECTED, "card_declined")
    assert await shop.captures(ORDER_ID) == 0


async def test_lines_that_are_not_sold_are_named_and_nothing_is_saved(shop: Shop) -> None:
    lines = [
        order_pb2.OrderLine(sku="MUG", quantity=1),
        order_pb2.OrderLine(sku="GOLD", quantity=1),
        order_pb2.OrderLine(sku="TEA", quantity=1),
    ]
    with pytest.raises(InvalidRequest) as caught:
        await shop.place(currency_code="JPY", lines=lines)

    assert caught.value.reason == "UNKNOWN_SKU"
    assert [(violation.field, violation.rule) for violation in caught.value.violations] == [
        ("lines[1].sku", "UNKNOWN_SKU"),
        ("lines[2].sku", "CURRENCY_NOT_OFFERED"),
    ]
    assert shop.state.rows == {}


async def test_an_order_that_nobody_placed_is_not_found(shop: Shop) -> None:
    for call in (shop.get(ORDER_ID), shop.cancel(ORDER_ID)):
        with pytest.raises(ServiceError) as caught:
            await call
        assert (caught.value.code, caught.value.reason) == (grpc.StatusCode.NOT_FOUND, "ORDER_NOT_FOUND")
        assert caught.value.metadata == {"order_id": ORDER_ID}
