"""`OrderService`: takes orders and tells how they stand."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

import grpc
from google.type.money_pb2 import Money
from loguru import logger

from apibase import Conflict, ServiceError, SidecarError
from apibase.observability import outbound_headers
from orders import rules
from orders.errors import idempotency_key_reused, lines_not_sold, order_not_found, told
from orders.store import now
from shop.orders.v1 import order_pb2, service_pb2, service_pb2_grpc, storage_pb2

if TYPE_CHECKING:
    from orders.checkout import Checkout
    from orders.store import OrderStore

    Context = grpc.aio.ServicerContext[Any, Any]


class OrderService(service_pb2_grpc.OrderServiceServicer):
    """Serves the contract of the same name."""

    def __init__(self, store: OrderStore, checkout: Checkout, catalogue: rules.Catalogue) -> None:
        self._store = store
        self._checkout = checkout
        self._catalogue = catalogue

    async def PlaceOrder(
        self, request: service_pb2.PlaceOrderRequest, context: Context
    ) -> service_pb2.PlaceOrderResponse:
        """Save the order's row, the one point of commitment, then start its payment."""
        new = self._record(request)
        record = await self._store.load(new.order.order_id)
        if record is None:
            record = await self._commit(new)
        if record.body_hash != new.body_hash:
            raise idempotency_key_reused(new.order.order_id)
        if record.nonce == new.nonce:
            record = await self._start(record)
        return service_pb2.PlaceOrderResponse(order=record.order)

    async def GetOrder(self, request: service_pb2.GetOrderRequest, context: Context) -> service_pb2.GetOrderResponse:
        """Return an order as it stands."""
        record = await self._store.load(request.order_id)
        if record is None:
            raise order_not_found(request.order_id)
        return service_pb2.GetOrderResponse(order=record.order)

    async def CancelOrder(
        self, request: service_pb2.CancelOrderRequest, context: Context
    ) -> service_pb2.CancelOrderResponse:
        """Void the order's payment and end it."""
        record = await self._checkout.close(request.order_id, order_pb2.ORDER_STATUS_CANCELLED)
        if record is None:
            raise order_not_found(request.order_id)
        return service_pb2.CancelOrderResponse(order=record.order)

    def _record(self, request: service_pb2.PlaceOrderRequest) -> storage_pb2.OrderRecord:
        lines = [rules.Line(line.sku, line.quantity) for line in request.lines]
        priced, problems = self._catalogue.price(lines, request.currency_code)
        if problems:
            raise lines_not_sold(problems)
        accepted_at = now()
        return storage_pb2.OrderRecord(
            order=order_pb2.Order(
                order_id=rules.order_id(request.customer_id, request.idempotency_key),
                customer_id=request.customer_id,
                status=order_pb2.ORDER_STATUS_ACCEPTED,
                lines=[
                    order_pb2.PricedLine(sku=line.sku, quantity=line.quantity, unit_price=_money(line.unit_price))
                    for line in priced
                ],
                total=_money(rules.total(priced)),
                accepted_at=accepted_at,
                updated_at=accepted_at,
            ),
            body_hash=rules.body_hash(request.currency_code, lines, request.payment_token, request.note),
            nonce=uuid.uuid4().hex,
            payment_token=request.payment_token,
            traceparent=outbound_headers().get("traceparent", ""),
        )

    async def _commit(self, new: storage_pb2.OrderRecord) -> storage_pb2.OrderRecord:
        """Write the row, and return the one that is there: ours, or that of whoever was first."""
        await self._store.add_open(new.order.order_id)
        try:
            await self._store.create(new)
        except SidecarError as error:
            # It may have been written all the same: only the row itself can tell.
            record = await self._store.load(new.order.order_id)
            if record is None:
                if isinstance(error, Conflict):
                    raise AssertionError from error  # a row in the way, and no row: rows are never deleted
                raise
            return record
        return new

    async def _start(self, record: storage_pb2.OrderRecord) -> storage_pb2.OrderRecord:
        """Start the payment. Where that fails the order stands all the same: the sweep takes it up."""
        try:
            return await self._checkout.advance(record)
        except (ServiceError, grpc.aio.AioRpcError) as error:
            logger.bind(order_id=record.order.order_id).warning(
                "payment not finished, left to the sweep: {}", told(error)
            )
            return await self._store.load(record.order.order_id) or record


def _money(amount: rules.Amount) -> Money:
    return Money(currency_code=amount.currency, units=amount.units, nanos=amount.nanos)
