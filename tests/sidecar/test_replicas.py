"""Several replicas of one app id behind their own sidecars."""

from __future__ import annotations

import asyncio

import pytest

from shop.orders.v1 import order_pb2
from tests.sidecar.shop import charges, open_shop, order_request


@pytest.mark.req("R2.1", "R14.1")
async def test_two_replicas_share_the_calls_and_serve_each_others_orders() -> None:
    async with open_shop(replicas={"orders": 2}) as shop:
        request = order_request()
        same = await asyncio.gather(*(shop.place(request) for _ in range(10)))
        others = await asyncio.gather(*(shop.place(order_request()) for _ in range(20)))
        assert len({order.order_id for order in same}) == 1
        for order in [same[0], *others]:
            assert (await shop.final(order.order_id)).status == order_pb2.ORDER_STATUS_SETTLED
            assert charges(await shop.payment(order.order_id)) == 1
        served = [
            sum(
                line.get("method") == "shop.orders.v1.OrderService.PlaceOrder"
                for line in shop.log_lines("orders", replica)
            )
            for replica in (0, 1)
        ]
        assert sum(served) == 30
        assert min(served) >= 3, served
