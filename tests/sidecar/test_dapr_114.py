"""The reference system on Dapr 1.14, the oldest series that is supported."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from shop.orders.v1 import order_pb2
from shop.payments.v1 import payment_pb2
from tests.sidecar.shop import Shop, charges, open_shop, order_request

pytestmark = [pytest.mark.full, pytest.mark.asyncio(loop_scope="module")]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shop() -> AsyncIterator[Shop]:
    async with open_shop(dapr="1.14") as opened:
        yield opened


@pytest.mark.timeout(900)  # The first time, its binaries are built.
async def test_the_sidecars_are_of_that_series(shop: Shop) -> None:
    ready = [line for line in shop.log_lines("orders") if "runtime" in line]
    assert [line["runtime"] for line in ready] == ["1.14.4"]


async def test_an_order_is_paid_and_settled_by_its_event(shop: Shop) -> None:
    placed = await shop.place(order_request())
    settled = await shop.final(placed.order_id)
    assert settled.status == order_pb2.ORDER_STATUS_SETTLED
    payment = await shop.payment(placed.order_id)
    assert (payment.status, payment.amount) == (payment_pb2.PAYMENT_STATUS_CAPTURED, settled.total)
    assert charges(payment) == 1


async def test_a_declined_card_rejects_the_order(shop: Shop) -> None:
    placed = await shop.place(order_request(payment_token="tok_declined"))
    final = await shop.final(placed.order_id)
    assert (final.status, final.status_reason) == (order_pb2.ORDER_STATUS_REJECTED, "card_declined")
