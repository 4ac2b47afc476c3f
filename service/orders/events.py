"""`OrderEvents`: what the orders service listens to."""

from __future__ import annotations

import asyncio
import time
from enum import Enum, auto
from typing import TYPE_CHECKING

import grpc
from google.protobuf.empty_pb2 import Empty
from loguru import logger

from apibase import Drop, EventContext, ServiceError
from apibase.observability import call_context
from orders.errors import told
from orders.store import PAGES, is_open
from shop.orders.v1 import events_pb2_grpc, order_pb2

if TYPE_CHECKING:
    from collections.abc import Iterable

    from google.protobuf.timestamp_pb2 import Timestamp

    from orders.checkout import Checkout
    from orders.settings import OrderSettings
    from orders.store import OrderStore
    from shop.orders.v1.storage_pb2 import OpenOrder
    from shop.payments.v1.events_pb2 import PaymentSettled

_AT_ONCE = 16
_ROWLESS_SECONDS = 600.0


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
        if request.payment_id != request.order_id:
            reason = f"payment {request.payment_id} is not the payment of order {request.order_id}"
            raise Drop(reason)
        if record.order.total != request.amount:
            reason = f"payment {request.payment_id} is not the amount of order {request.order_id}"
            raise Drop(reason)
        await self._checkout.settle(request.order_id)
        return Empty()

    async def SweepOrders(self, request: Empty, context: EventContext) -> Empty:
        """Take up the orders that a crash or an outage left, and end those that took too long.

        What fails stays for the next sweep and stops nothing else; a page that can't be read fails the sweep in the end.
        """
        if self._sweeping.locked():
            return Empty()
        async with self._sweeping:
            at_once = asyncio.Semaphore(_AT_ONCE)
            pages = await asyncio.gather(
                *(self._sweep_page(page, at_once) for page in range(PAGES)), return_exceptions=True
            )
        taken_up = sum(page for page in pages if isinstance(page, int))
        if taken_up:
            logger.bind(taken_up=taken_up).info("swept the open orders: took up {}", taken_up)
        _raise_first(pages)
        return Empty()

    async def _sweep_page(self, page: int, at_once: asyncio.Semaphore) -> int:
        async with at_once:
            entries = await self._store.open_orders(page)
        left = [entry for entry in entries if _age(entry.added_at) >= self._settings.sweep_grace]

        async def sweep(entry: OpenOrder) -> _Found:
            async with at_once:
                return await self._sweep_order(entry)

        results = await asyncio.gather(*(sweep(entry) for entry in left), return_exceptions=True)
        ended = [entry for entry, result in zip(left, results, strict=True) if result is _Found.ENDED]
        if ended:
            await self._store.remove_open(page, ended)
        _raise_first(results)
        return results.count(_Found.OPEN)

    async def _sweep_order(self, entry: OpenOrder) -> _Found:
        """Take one order up, and return what it was found to be."""
        try:
            record = await self._store.load(entry.order_id)
        except ServiceError as error:
            logger.bind(order_id=entry.order_id).warning("not taken up: {}", told(error))
            return _Found.UNKNOWN
        if record is None:
            # A call that wrote its entry may write its row much later, at a slow store or after a pause of the process.
            return _Found.ENDED if _age(entry.added_at) >= _ROWLESS_SECONDS else _Found.UNKNOWN
        if not is_open(record.order):
            return _Found.ENDED
        with call_context({"traceparent": record.traceparent}):
            try:
                if record.closing_as:
                    await self._checkout.close(entry.order_id, record.closing_as)
                elif _age(record.order.accepted_at) >= self._settings.expiry:
                    await self._checkout.close(entry.order_id, order_pb2.ORDER_STATUS_EXPIRED)
                else:
                    await self._checkout.advance(record)
            except (ServiceError, grpc.aio.AioRpcError) as error:
                logger.bind(order_id=entry.order_id).warning("taken up, not finished: {}", told(error))
        return _Found.OPEN


class _Found(Enum):
    """What the sweep found an order of the index to be."""

    OPEN = auto()
    ENDED = auto()
    UNKNOWN = auto()


def _age(stamp: Timestamp) -> float:
    """Return the seconds since then."""
    return time.time() - stamp.seconds


def _raise_first(results: Iterable[object]) -> None:
    for result in results:
        if isinstance(result, BaseException):
            raise result
