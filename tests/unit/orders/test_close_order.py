"""The end of an order: settled, cancelled or expired, and every race between them."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from google.type.money_pb2 import Money

from apibase import Conflict, Drop, ServiceError
from orders import rules
from orders.settings import OrderSettings
from shop.orders.v1 import order_pb2
from shop.payments.v1 import payment_pb2
from shop.payments.v1 import service_pb2 as payments_pb2
from shop.payments.v1.events_pb2 import PaymentSettled
from tests.unit.memory_state import unavailable
from tests.unit.shop import CONTEXT, EVENT, Shop, cut, order_request, quietly

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

ORDER_ID = rules.order_id("ann", "key-1")
ROW = f"order/{ORDER_ID}"
EXPIRED = order_pb2.ORDER_STATUS_EXPIRED
CANCELLED = order_pb2.ORDER_STATUS_CANCELLED


@pytest.fixture
def shop() -> Shop:
    return Shop()


async def place_unpaid(shop: Shop) -> None:
    """Place an order while payments are away."""
    shop.wire.down = True
    await shop.place()
    shop.wire.down = False


async def is_closed(call: Awaitable[Any], status: str) -> None:
    """Expect FAILED_PRECONDITION that names the order's final status."""
    with pytest.raises(ServiceError) as caught:
        await call
    assert (caught.value.code, caught.value.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "ORDER_CLOSED")
    assert caught.value.metadata == {"order_id": ORDER_ID, "status": f"ORDER_STATUS_{status}"}


async def payment_status(shop: Shop) -> str:
    payment = await shop.payment(ORDER_ID)
    return payment_pb2.PaymentStatus.Name(payment.status).removeprefix("PAYMENT_STATUS_") if payment else ""


async def test_an_unpaid_order_can_be_cancelled_and_its_payment_never_comes(shop: Shop) -> None:
    await place_unpaid(shop)

    order = await shop.cancel(ORDER_ID)
    await shop.sweep()

    assert (order.status, order.status_reason) == (CANCELLED, "cancelled_by_customer")
    assert await shop.status(ORDER_ID) == "CANCELLED"
    assert (await shop.record(ORDER_ID)).closing_as == order_pb2.ORDER_STATUS_UNSPECIFIED
    assert await payment_status(shop) == "VOIDED"


async def test_cancelling_again_returns_the_cancelled_order(shop: Shop) -> None:
    await place_unpaid(shop)
    await shop.cancel(ORDER_ID)

    assert (await shop.cancel(ORDER_ID)).status == CANCELLED
    assert shop.wire.calls == ["Void"]


async def test_an_authorised_payment_is_voided(shop: Shop) -> None:
    shop.wire.before("Capture", cut)
    await shop.place()
    assert await payment_status(shop) == "AUTHORISED"

    await shop.cancel(ORDER_ID)

    assert await payment_status(shop) == "VOIDED"
    assert await shop.status(ORDER_ID) == "CANCELLED"


async def test_a_captured_order_cannot_be_cancelled_and_is_settled_at_once(shop: Shop) -> None:
    await shop.place()

    await is_closed(shop.cancel(ORDER_ID), "SETTLED")

    assert await shop.status(ORDER_ID) == "SETTLED"
    assert await shop.captures(ORDER_ID) == 1


@pytest.mark.parametrize(
    ("changes", "status"),
    [({}, "SETTLED"), ({"payment_token": "tok_declined"}, "REJECTED")],
    ids=["settled", "rejected"],
)
async def test_an_order_that_ended_otherwise_cannot_be_cancelled(
    shop: Shop, changes: dict[str, str], status: str
) -> None:
    await shop.place(**changes)
    await shop.deliver()
    calls = len(shop.wire.calls)

    await is_closed(shop.cancel(ORDER_ID), status)

    assert len(shop.wire.calls) == calls


async def test_a_declined_payment_makes_a_cancelled_order_a_rejected_one(shop: Shop) -> None:
    shop.wire.after("Authorise", cut)
    await shop.place(payment_token="tok_declined")

    await is_closed(shop.cancel(ORDER_ID), "REJECTED")

    assert (await shop.get(ORDER_ID)).status_reason == "card_declined"


async def test_an_expired_order_cannot_be_cancelled(shop: Shop) -> None:
    await place_unpaid(shop)
    await shop.checkout.close(ORDER_ID, EXPIRED)

    await is_closed(shop.cancel(ORDER_ID), "EXPIRED")


async def test_a_cancelled_order_does_not_expire(shop: Shop) -> None:
    await place_unpaid(shop)
    await shop.cancel(ORDER_ID)

    await is_closed(shop.checkout.close(ORDER_ID, EXPIRED), "CANCELLED")


async def test_a_cancellation_between_authorising_and_capturing_wins(shop: Shop) -> None:
    shop.wire.before("Capture", lambda: shop.cancel(ORDER_ID))

    order = await shop.place()
    await shop.sweep()
    await shop.deliver()

    assert order.status == CANCELLED
    assert await shop.status(ORDER_ID) == "CANCELLED"
    assert await shop.captures(ORDER_ID) == 0


async def test_a_cancellation_before_authorising_wins(shop: Shop) -> None:
    shop.wire.before("Authorise", lambda: shop.cancel(ORDER_ID))

    order = await shop.place()
    await shop.sweep()

    assert order.status == CANCELLED
    assert await payment_status(shop) == "VOIDED"
    assert await shop.captures(ORDER_ID) == 0


async def test_a_cancellation_before_the_payment_is_started_wins(shop: Shop) -> None:
    # The row moves from ACCEPTED to STARTED while it is cancelled.
    shop.state.after_save(ROW, lambda: shop.cancel(ORDER_ID))

    order = await shop.place()

    assert order.status == CANCELLED
    assert shop.wire.calls == ["Void"]


async def test_an_order_that_is_being_cancelled_is_not_paid_meanwhile(shop: Shop) -> None:
    # The cancellation is decided while the order is placed, and payments do not hear of it yet.
    shop.wire.before("Void", cut)
    shop.state.after_save(ROW, lambda: quietly(shop.cancel(ORDER_ID)))

    await shop.place()
    assert shop.wire.calls == ["Void"]

    await shop.sweep()
    assert await shop.status(ORDER_ID) == "CANCELLED"


async def test_a_cancellation_that_payments_do_not_hear_of_never_captures(shop: Shop) -> None:
    shop.wire.before("Capture", cut)
    await shop.place()
    shop.wire.before("Void", cut)

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await shop.cancel(ORDER_ID)

    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert await payment_status(shop) == "AUTHORISED"


async def test_a_capture_between_the_decision_to_cancel_and_the_void_wins(shop: Shop) -> None:
    shop.wire.before("Capture", cut)
    await shop.place()

    async def capture() -> None:
        await shop.payments.Capture(payments_pb2.CaptureRequest(payment_id=ORDER_ID), CONTEXT)

    shop.wire.before("Void", capture)

    await is_closed(shop.cancel(ORDER_ID), "SETTLED")
    await shop.deliver()

    record = await shop.record(ORDER_ID)
    assert record.order.status == order_pb2.ORDER_STATUS_SETTLED
    assert record.order.status_reason == ""
    assert record.closing_as == order_pb2.ORDER_STATUS_UNSPECIFIED
    assert await shop.captures(ORDER_ID) == 1


async def test_a_cancellation_of_a_paid_order_whose_event_never_came_settles_it_even_when_the_first_try_is_cut(
    shop: Shop,
) -> None:
    await shop.place()
    shop.wire.after("Void", cut)
    shop.wire.before("Capture", cut)

    with pytest.raises(grpc.aio.AioRpcError):
        await shop.cancel(ORDER_ID)
    await shop.sweep()

    assert await shop.status(ORDER_ID) == "SETTLED"


async def test_a_settlement_that_is_delivered_during_the_cancellation_is_kept(shop: Shop) -> None:
    await shop.place()
    shop.wire.before("Void", shop.deliver)

    await is_closed(shop.cancel(ORDER_ID), "SETTLED")


async def test_a_cancellation_that_payments_do_not_hear_of_is_finished_by_the_sweep(shop: Shop) -> None:
    await place_unpaid(shop)
    shop.wire.down = True
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await shop.cancel(ORDER_ID)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert await shop.status(ORDER_ID) == "STARTED"

    shop.wire.down = False
    await shop.sweep()

    order = await shop.get(ORDER_ID)
    assert (order.status, order.status_reason) == (CANCELLED, "cancelled_by_customer")
    assert "Authorise" not in shop.wire.calls


@pytest.mark.parametrize(
    "lose",
    [lambda shop: shop.wire.after("Void", cut), lambda shop: shop.state.after_save(ROW, unavailable)],
    ids=["of the void", "of the row"],
)
async def test_a_cancellation_whose_answer_is_lost_can_be_repeated(shop: Shop, lose: Callable[[Shop], None]) -> None:
    await place_unpaid(shop)
    lose(shop)
    with pytest.raises((grpc.aio.AioRpcError, ServiceError)):
        await shop.cancel(ORDER_ID)

    assert (await shop.cancel(ORDER_ID)).status == CANCELLED


async def test_a_cancelled_order_that_also_expires_stays_what_it_became_first(shop: Shop) -> None:
    await place_unpaid(shop)
    shop.wire.down = True
    with pytest.raises(grpc.aio.AioRpcError):
        await shop.cancel(ORDER_ID)
    shop.wire.down = False

    await is_closed(shop.checkout.close(ORDER_ID, EXPIRED), "CANCELLED")

    assert (await shop.get(ORDER_ID)).status_reason == "cancelled_by_customer"


async def test_a_row_that_changes_between_look_and_save_is_looked_at_again(shop: Shop) -> None:
    await place_unpaid(shop)
    shop.state.before_save(ROW, lambda: shop.checkout.settle(ORDER_ID))

    await is_closed(shop.cancel(ORDER_ID), "SETTLED")

    assert shop.wire.calls == []


async def test_a_row_that_never_stands_still_is_a_conflict(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    await place_unpaid(shop)
    monkeypatch.setattr("orders.store._BACKOFF_SECONDS", 0.0)

    async def touch() -> None:
        text, etag = shop.state.rows[ROW]
        shop.state.rows[ROW] = (text, f"{etag}+")

    for _ in range(100):
        shop.state.before_save(ROW, touch)

    with pytest.raises(Conflict):
        await shop.cancel(ORDER_ID)


def settled(**changes: Any) -> PaymentSettled:
    return PaymentSettled(
        **{
            "payment_id": ORDER_ID,
            "order_id": ORDER_ID,
            "amount": Money(currency_code="EUR", units=30, nanos=800_000_000),
            **changes,
        }
    )


async def test_the_same_settlement_again_changes_nothing(shop: Shop) -> None:
    await shop.place()
    await shop.deliver()
    before = shop.state.rows[ROW]

    await shop.deliver()

    assert shop.state.rows[ROW] == before


@pytest.mark.req("R3.4")
@pytest.mark.parametrize(
    ("event", "reason"),
    [
        (settled(order_id=rules.order_id("bob", "key-1")), "there is no order"),
        (settled(amount=Money(currency_code="EUR", units=1)), "is not the amount"),
        (settled(amount=Money(currency_code="USD", units=30, nanos=800_000_000)), "is not the amount"),
        (settled(payment_id=rules.order_id("bob", "key-1")), "is not the payment"),
    ],
    ids=["an unknown order", "another amount", "another currency", "another payment"],
)
async def test_a_settlement_that_cannot_be_right_is_dropped_and_settles_nothing(
    shop: Shop, event: PaymentSettled, reason: str
) -> None:
    await place_unpaid(shop)

    with pytest.raises(Drop, match=reason):
        await shop.events.OnPaymentSettled(event, EVENT)

    assert await shop.status(ORDER_ID) == "STARTED"


async def test_a_settlement_while_the_store_is_away_is_retried(shop: Shop) -> None:
    await place_unpaid(shop)
    shop.state.before_save(ROW, unavailable)

    with pytest.raises(ServiceError) as caught:
        await shop.events.OnPaymentSettled(settled(), EVENT)

    assert caught.value.retryable


async def test_a_payment_captured_for_a_cancelled_order_is_reported(shop: Shop, log: Any) -> None:
    await place_unpaid(shop)
    await shop.cancel(ORDER_ID)

    await shop.events.OnPaymentSettled(settled(), EVENT)

    assert await shop.status(ORDER_ID) == "CANCELLED"
    line = log.one(level="ERROR")
    assert line["order_id"] == ORDER_ID
    assert "ORDER_STATUS_CANCELLED" in line["message"]


async def test_an_order_that_did_not_settle_in_time_expires(shop: Shop) -> None:
    shop = Shop(OrderSettings(sweep_grace=0.0, expiry=0.001))
    shop.wire.before("Capture", cut)
    await shop.place()

    # The row's second has to be over before it counts as old.
    record = await shop.record(ORDER_ID)
    assert time.time() - record.order.accepted_at.seconds >= 0.001
    await shop.sweep()

    order = await shop.get(ORDER_ID)
    assert (order.status, order.status_reason) == (EXPIRED, "not_settled_in_time")
    assert await payment_status(shop) == "VOIDED"


async def test_an_order_that_was_paid_just_in_time_settles_instead_of_expiring(shop: Shop) -> None:
    shop = Shop(OrderSettings(sweep_grace=0.0, expiry=0.001))
    await shop.place()

    await shop.sweep()

    assert await shop.status(ORDER_ID) == "SETTLED"
    assert await shop.captures(ORDER_ID) == 1


@pytest.mark.parametrize("closed_at", ["Authorise", "Capture", "Void"])
async def test_whoever_wins_the_order_and_its_payment_agree(shop: Shop, closed_at: str) -> None:
    """Cancel at one replica while the other pays, at every step, with every answer lost once."""
    other = shop.replica()[1]

    async def sweep_elsewhere() -> None:
        await other.SweepOrders(CONTEXT, EVENT)

    shop.wire.before(closed_at, sweep_elsewhere)
    shop.wire.after("Authorise", cut)
    shop.wire.after("Void", cut)
    await shop.orders.PlaceOrder(order_request(), CONTEXT)
    await quietly(shop.cancel(ORDER_ID))
    for _ in range(3):
        await shop.sweep()
        await shop.deliver()

    outcome = (await shop.status(ORDER_ID), await payment_status(shop), await shop.captures(ORDER_ID))
    assert outcome in {("SETTLED", "CAPTURED", 1), ("CANCELLED", "VOIDED", 0)}
