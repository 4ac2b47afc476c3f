"""What crashes and outages leave of orders: nothing lost, nothing charged twice."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

import grpc
import pytest
import pytest_asyncio

from shop.orders.v1 import order_pb2, service_pb2
from shop.payments.v1 import payment_pb2
from tests.sidecar.shop import OPEN, Shop, charges, eventually, open_shop, order_request

pytestmark = pytest.mark.asyncio(loop_scope="module")

TRY_AGAIN = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.INTERNAL}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shop() -> AsyncIterator[Shop]:
    """The reference system, with orders that are taken up after one second and expire after eight."""
    env = {"orders": {"ORDERS_SWEEP_GRACE": "1", "ORDERS_EXPIRY": "8", "ORDERS_PAYMENT_TIMEOUT": "1"}}
    async with open_shop(env=env) as opened:
        yield opened


async def place_until_answered(shop: Shop, request: service_pb2.PlaceOrderRequest) -> order_pb2.Order:
    """Place an order as a careful caller does: the same key again while the service is away."""

    async def probe() -> order_pb2.Order | None:
        try:
            return await shop.place(request, timeout=5)
        except grpc.aio.AioRpcError as error:
            assert error.code() in TRY_AGAIN, error
            return None

    return await eventually(probe, within=60, what="an answer to PlaceOrder")


@pytest.mark.parametrize("victim", ["payments", "orders"])
@pytest.mark.req("R2.2")
async def test_an_app_killed_under_load_loses_no_order_and_charges_none_twice(shop: Shop, victim: str) -> None:
    at_once = asyncio.Semaphore(8)
    answered = 0

    async def place() -> order_pb2.Order:
        nonlocal answered
        async with at_once:
            order = await place_until_answered(shop, order_request())
            answered += 1
            return order

    placing = [asyncio.create_task(place()) for _ in range(60)]

    async def some_answered() -> bool:
        return answered >= 10

    await eventually(some_answered, within=30, what="ten orders are answered")
    await shop.stack.kill(victim)
    await shop.stack.restart(victim)
    orders = await asyncio.gather(*placing)
    assert len({order.order_id for order in orders}) == 60
    # Nobody waits longer than the expiry for the outage to end: an order may expire, but then it is not charged.
    for order in orders:
        final = await shop.final(order.order_id)
        payment = await shop.payment(order.order_id)
        assert charges(payment) == (1 if final.status == order_pb2.ORDER_STATUS_SETTLED else 0)
        assert final.status in {order_pb2.ORDER_STATUS_SETTLED, order_pb2.ORDER_STATUS_EXPIRED}


async def test_a_key_sent_again_after_app_and_sidecar_restarted_is_the_same_order_and_payment(shop: Shop) -> None:
    request = order_request()
    before = await shop.place(request)
    await shop.final(before.order_id)
    await shop.stack.restart("orders")
    await shop.stack.restart_sidecar("orders")
    after = await place_until_answered(shop, request)
    assert after.order_id == before.order_id
    assert after.status == order_pb2.ORDER_STATUS_SETTLED
    assert charges(await shop.payment(before.order_id)) == 1


@pytest.mark.req("R6.1", "R6.3")
async def test_an_order_whose_payment_never_started_is_taken_up_by_the_cron_sweep(shop: Shop) -> None:
    await shop.stack.kill("payments")
    placed = await shop.place(order_request(), timeout=9)
    assert placed.status in OPEN
    await shop.stack.restart("payments")
    assert (await shop.final(placed.order_id)).status == order_pb2.ORDER_STATUS_SETTLED
    assert charges(await shop.payment(placed.order_id)) == 1


@pytest.mark.req("R6.3")
async def test_an_order_that_is_not_paid_in_time_expires_and_can_never_be_charged(shop: Shop) -> None:
    await shop.stack.kill("payments")
    placed = await shop.place(order_request(), timeout=9)

    async def expiring() -> bool:
        return any(placed.order_id in str(line) and "not finished" in str(line) for line in shop.log_lines("orders"))

    await eventually(expiring, within=30, what="the sweep finds the order while payments is away")
    started = placed.accepted_at.seconds

    async def too_old() -> bool:
        return time.time() - started > 9

    await eventually(too_old, within=30, what="the order is older than the expiry")
    await shop.stack.restart("payments")
    final = await shop.final(placed.order_id)
    assert (final.status, final.status_reason) == (order_pb2.ORDER_STATUS_EXPIRED, "not_settled_in_time")
    assert (await shop.payment(placed.order_id)).status == payment_pb2.PAYMENT_STATUS_VOIDED


async def test_a_cancel_while_payments_is_away_is_carried_out_when_it_is_back(shop: Shop) -> None:
    await shop.stack.kill("payments")
    placed = await shop.place(order_request(), timeout=9)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await shop.orders.CancelOrder(service_pb2.CancelOrderRequest(order_id=placed.order_id))
    assert caught.value.code() in TRY_AGAIN
    await shop.stack.restart("payments")
    final = await shop.final(placed.order_id)
    assert final.status == order_pb2.ORDER_STATUS_CANCELLED
    assert (await shop.payment(placed.order_id)).status == payment_pb2.PAYMENT_STATUS_VOIDED


@pytest.mark.req("R15.5", "R1.5")
async def test_an_app_without_its_sidecar_says_what_it_waits_for_and_is_ready_when_it_comes(shop: Shop) -> None:
    await shop.stack.kill("payments")
    await shop.stack.kill_sidecar("payments")
    before = len(list(shop.log_lines("payments")))
    starting = asyncio.create_task(shop.stack.restart("payments"))

    async def waiting() -> int:
        lines = list(shop.log_lines("payments"))[before:]
        return sum("waiting for the sidecar at 127.0.0.1:" in line.get("message", "") for line in lines) >= 2

    try:
        await eventually(waiting, within=20, what="two lines that say what is waited for")
        assert not starting.done()
        await shop.stack.restart_sidecar("payments")
        await asyncio.wait_for(starting, 15)
    finally:
        starting.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await starting
    placed = await place_until_answered(shop, order_request())
    assert (await shop.final(placed.order_id)).status == order_pb2.ORDER_STATUS_SETTLED
