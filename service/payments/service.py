"""`PaymentService`: the ledger. A payment's row and its etag decide every race."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from google.protobuf.timestamp_pb2 import Timestamp

from apibase import Conflict, PubSubPublisher, StateItem, StateManager
from payments.errors import payment_id_reused, payment_not_found, wrong_status
from shop.payments.v1 import events_pb2, payment_pb2, service_pb2, service_pb2_grpc

if TYPE_CHECKING:
    import grpc

    from payments.provider import PaymentProvider

    Context = grpc.aio.ServicerContext[Any, Any]

_AUTHORISED = payment_pb2.PAYMENT_STATUS_AUTHORISED
_CAPTURED = payment_pb2.PAYMENT_STATUS_CAPTURED
_DECLINED = payment_pb2.PAYMENT_STATUS_DECLINED
_VOIDED = payment_pb2.PAYMENT_STATUS_VOIDED


class PaymentService(service_pb2_grpc.PaymentServiceServicer):
    """Serves the contract of the same name."""

    def __init__(self, state: StateManager, publisher: PubSubPublisher, provider: PaymentProvider) -> None:
        self._provider = provider
        self._state = state
        self._publisher = publisher

    async def Authorise(self, request: service_pb2.AuthoriseRequest, context: Context) -> service_pb2.AuthoriseResponse:
        """Reserve the amount, unless the payment id is known."""
        payment = await self._load(request.payment_id)
        if payment is None:
            reason = await self._provider.decline_reason(request.payment_token)
            new = payment_pb2.Payment(
                payment_id=request.payment_id, order_id=request.order_id, amount=request.amount, decline_reason=reason
            )
            _enter(new, _DECLINED if reason else _AUTHORISED)
            payment = await self._create(new)
        if payment.status != _VOIDED and (payment.amount != request.amount or payment.order_id != request.order_id):
            raise payment_id_reused(request.payment_id)
        return service_pb2.AuthoriseResponse(payment=payment)

    async def Capture(self, request: service_pb2.CaptureRequest, context: Context) -> service_pb2.CaptureResponse:
        """Take the amount once; say so each time, for the event may have been lost the last time."""
        while True:
            item = await self._item(request.payment_id)
            if item is None:
                raise payment_not_found(request.payment_id)
            payment = item.value
            if payment.status == _CAPTURED:
                break
            if payment.status != _AUTHORISED:
                raise wrong_status(payment)
            _enter(payment, _CAPTURED)
            if await self._replace(item):
                break
        await self._publisher.publish(
            events_pb2.PaymentSettled(payment_id=payment.payment_id, order_id=payment.order_id, amount=payment.amount),
            id=f"{payment.payment_id}:settled",
            subject=payment.payment_id,
        )
        return service_pb2.CaptureResponse(payment=payment)

    async def Void(self, request: service_pb2.VoidRequest, context: Context) -> service_pb2.VoidResponse:
        """Give the reservation up, or make sure that there never is one."""
        while True:
            item = await self._item(request.payment_id)
            if item is None:
                never = payment_pb2.Payment(payment_id=request.payment_id)
                _enter(never, _VOIDED)
                payment = await self._create(never)
                if payment.status == _VOIDED:
                    return service_pb2.VoidResponse(payment=payment)
                continue
            payment = item.value
            if payment.status == _CAPTURED:
                raise wrong_status(payment)
            if payment.status in {_VOIDED, _DECLINED}:
                return service_pb2.VoidResponse(payment=payment)
            _enter(payment, _VOIDED)
            if await self._replace(item):
                return service_pb2.VoidResponse(payment=payment)

    async def GetPayment(
        self, request: service_pb2.GetPaymentRequest, context: Context
    ) -> service_pb2.GetPaymentResponse:
        """Return a payment as it stands."""
        payment = await self._load(request.payment_id)
        if payment is None:
            raise payment_not_found(request.payment_id)
        return service_pb2.GetPaymentResponse(payment=payment)

    async def _item(self, payment_id: str) -> StateItem[payment_pb2.Payment] | None:
        return await self._state.get(f"payment/{payment_id}", payment_pb2.Payment)

    async def _load(self, payment_id: str) -> payment_pb2.Payment | None:
        item = await self._item(payment_id)
        return item.value if item else None

    async def _create(self, payment: payment_pb2.Payment) -> payment_pb2.Payment:
        """Write a new row, and return the one that is there: this, or that of whoever was first."""
        try:
            await self._state.save(f"payment/{payment.payment_id}", payment, first_write=True)
        except Conflict:
            return await self._load(payment.payment_id) or payment
        return payment

    async def _replace(self, item: StateItem[payment_pb2.Payment]) -> bool:
        """Write a row over the version that was read; False where somebody else wrote first."""
        try:
            await self._state.save(item.key, item.value, etag=item.etag)
        except Conflict:
            return False
        return True


def _enter(payment: payment_pb2.Payment, status: payment_pb2.PaymentStatus.ValueType) -> None:
    """Put a payment into a status, with an entry that says when."""
    at = Timestamp()
    at.GetCurrentTime()
    payment.status = status
    payment.entries.add(status=status, at=at)
