"""`OrderEvents`: what the orders service listens to."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import grpc
from google.protobuf.empty_pb2 import Empty
from loguru import logger

from apibase import Drop, EventContext, ServiceError
from apibase.observability import call_context
from orders.store import PAGES, is_open
from shop.orders.v1 import events_pb2_grpc, order_pb2

if TYPE_CHECKING:
    from orders.checkout import Checkout
    from orders.settings import OrderSettings
    from orders.store import OrderStore
    from shop.orders.v1.storage_pb2 import OpenOrder
    from shop.payments.v1.events_pb2 import PaymentSettled

_AT_ONCE = 16


class OrderEvents(events_pb2_grpc.OrderEventsServicer):
    """Handles the events of the contract of the same name."""

    def __init__(self, store: OrderStore, checkout: Checkout, settings: OrderSettings) -> None:
        self._store = store
        self._checkout = checkout
        self._settings = settings
        self._sweeping = asyncio.Lock()

    async def OnPaymentSettled(self, request: PaymentSettled, context: EventContext) -> Empty:
        """Settle the order that was paid. The same event again changes nothing."""
        record = await self._store.load(request.order_id)
        if record is None:
            reason = f"there is no order {request.order_id}"
            raise Drop(reason)
        if record.order.total != request.amount:
            reason = f"payment {request.payment_id} is not the amount of order {request.order_id}"
            raise Drop(reason)
        await self._checkout.settle(request.order_id)
        return Empty()

    async def SweepOrders(self, request: Empty, context: EventContext) -> Empty:
        """Take up the orders that a crash or an outage left, and end those that took too long."""
        if self._sweeping.locked():
            return Empty()
        async with self._sweeping:
            at_once = asyncio.Semaphore(_AT_ONCE)
            counts = await asyncio.gather(*(self._sweep_page(page, at_once) for page in range(PAGES)))
        if any(counts):
            logger.bind(taken_up=sum(counts)).info("swept the open orders: took up {}", sum(counts))
        return Empty()

    async def _sweep_page(self, page: int, at_once: asyncio.Semaphore) -> int:
        async with at_once:
            entries = await self._store.open_orders(page)
        if not entries:
            return 0
        left = [entry for entry in entries if time.time() - entry.added_at.seconds >= self._settings.sweep_grace]

        async def sweep(entry: OpenOrder) -> tuple[bool, bool]:
            async with at_once:
                return await self._sweep_order(entry)

        results = await asyncio.gather(*(sweep(entry) for entry in left))
        ended = {entry.order_id for entry, (done, _) in zip(left, results, strict=True) if done}
        if ended:
            await self._store.remove_open(page, ended)
        return sum(1 for _, taken_up in results if taken_up)

    async def _sweep_order(self, entry: OpenOrder) -> tuple[bool, bool]:
        """Take one order up; return whether it has left the open ones, and whether there was something to do."""
        record = await self._store.load(entry.order_id)
        if record is None or not is_open(record.order):
            # Without a row after the grace, the call that meant to write it is over.
            return True, False
        age = time.time() - record.order.accepted_at.seconds
        with call_context({"traceparent": record.traceparent}):
            try:
                if record.closing_as:
                    await self._checkout.close(entry.order_id, record.closing_as)
                elif age >= self._settings.expiry:
                    await self._checkout.close(entry.order_id, order_pb2.ORDER_STATUS_EXPIRED)
                else:
                    await self._checkout.advance(record)
            except (ServiceError, grpc.aio.AioRpcError) as error:
                logger.bind(order_id=entry.order_id).warning("taken up, not finished: {}", error)
        return False, True
