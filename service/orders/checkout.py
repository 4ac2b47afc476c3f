"""What happens to an order between its acceptance and its end. Every step can be repeated after a crash.

The ledger at `payments` decides a race between paying and closing: a voided payment can't be captured, nor the reverse.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import grpc
from loguru import logger

from orders.errors import order_closed
from orders.store import is_open
from shop.orders.v1 import events_pb2, order_pb2
from shop.payments.v1 import payment_pb2, service_pb2

if TYPE_CHECKING:
    from apibase import PubSubPublisher
    from orders.store import OrderStore
    from shop.orders.v1.storage_pb2 import OrderRecord
    from shop.payments.v1.service_pb2_grpc import PaymentServiceAsyncStub

# Why an order was closed early, as its customer reads it.
_REASONS = {
    order_pb2.ORDER_STATUS_CANCELLED: "cancelled_by_customer",
    order_pb2.ORDER_STATUS_EXPIRED: "not_settled_in_time",
}


class Checkout:
    """Takes an accepted order through its payment, or to its early end."""

    def __init__(
        self,
        store: OrderStore,
        payments: PaymentServiceAsyncStub,
        publisher: PubSubPublisher,
        *,
        payment_timeout: float,
    ) -> None:
        self._store = store
        self._payments = payments
        self._publisher = publisher
        self._timeout = payment_timeout

    async def advance(self, record: OrderRecord) -> OrderRecord:
        """Take an order as far as it goes now, and return it.

        Announces it, authorises and captures its payment; the `PaymentSettled` event settles it then. Raises what the
        sidecar or `payments` failed with; the sweep repeats it later.
        """
        order = record.order
        if order.status == order_pb2.ORDER_STATUS_ACCEPTED:
            await self._publisher.publish(
                events_pb2.OrderPlaced(order=order), id=f"{order.order_id}:placed", subject=order.order_id
            )
            record = await self._move(record, order_pb2.ORDER_STATUS_STARTED)
        if record.order.status != order_pb2.ORDER_STATUS_STARTED or record.closing_as:
            return record
        authorised = await self._payments.Authorise(
            service_pb2.AuthoriseRequest(
                payment_id=order.order_id,
                order_id=order.order_id,
                amount=order.total,
                payment_token=record.payment_token,
            ),
            timeout=self._timeout,
        )
        status = authorised.payment.status
        if status == payment_pb2.PAYMENT_STATUS_DECLINED:
            return await self._move(record, order_pb2.ORDER_STATUS_REJECTED, reason=authorised.payment.decline_reason)
        if status == payment_pb2.PAYMENT_STATUS_VOIDED:
            # Somebody closes this order right now, and says how.
            return await self._store.load(order.order_id) or record
        await self._payments.Capture(service_pb2.CaptureRequest(payment_id=order.order_id), timeout=self._timeout)
        return record

    async def settle(self, order_id: str) -> OrderRecord | None:
        """Settle an order whose payment is captured; None where there is no such order."""
        ended_before: list[str] = []

        def change(record: OrderRecord) -> bool:
            if not is_open(record.order):
                if record.order.status != order_pb2.ORDER_STATUS_SETTLED:
                    ended_before.append(order_pb2.OrderStatus.Name(record.order.status))
                return False
            record.order.status = order_pb2.ORDER_STATUS_SETTLED
            record.closing_as = order_pb2.ORDER_STATUS_UNSPECIFIED
            return True

        record = await self._store.update(order_id, change)
        if ended_before:
            logger.bind(order_id=order_id).error("payment captured for an order that is {}", ended_before[-1])
        return record

    async def close(self, order_id: str, closing_as: order_pb2.OrderStatus.ValueType) -> OrderRecord | None:
        """Void an order's payment and end it as CANCELLED or EXPIRED; None where there is no such order.

        Raises FAILED_PRECONDITION when the order ended otherwise, or its payment is captured.
        """

        def begin(record: OrderRecord) -> bool:
            if not is_open(record.order) or record.closing_as:
                return False
            record.closing_as = closing_as
            return True

        record = await self._store.update(order_id, begin)
        if record is None:
            return None
        if not is_open(record.order):
            if record.order.status == closing_as:
                return record
            raise order_closed(record.order)
        try:
            voided = await self._payments.Void(service_pb2.VoidRequest(payment_id=order_id), timeout=self._timeout)
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.FAILED_PRECONDITION:
                raise
            return await self._paid_after_all(order_id)
        if voided.payment.status == payment_pb2.PAYMENT_STATUS_DECLINED:
            ended = await self._move(record, order_pb2.ORDER_STATUS_REJECTED, reason=voided.payment.decline_reason)
        else:
            ended = await self._move(record, record.closing_as, reason=_REASONS[record.closing_as])
        if ended.order.status != closing_as:
            raise order_closed(ended.order)
        return ended

    async def _paid_after_all(self, order_id: str) -> OrderRecord:
        """The payment was captured before it could be voided: have the order settled, and say that it is closed."""
        await self._payments.Capture(service_pb2.CaptureRequest(payment_id=order_id), timeout=self._timeout)
        record = await self.settle(order_id)
        assert record is not None  # noqa: S101 - an invariant, not input
        raise order_closed(record.order)

    async def _move(
        self, record: OrderRecord, status: order_pb2.OrderStatus.ValueType, *, reason: str = ""
    ) -> OrderRecord:
        """Move an open order on, and return it as it is then; one that ended in between stays as it is."""
        nonce = record.nonce

        def change(current: OrderRecord) -> bool:
            if current.nonce != nonce or not is_open(current.order) or current.order.status == status:
                return False
            current.order.status = status
            if not is_open(current.order):
                current.order.status_reason = reason
                current.closing_as = order_pb2.ORDER_STATUS_UNSPECIFIED
            return True

        moved = await self._store.update(record.order.order_id, change)
        return moved or record
