"""The reference system in memory: orders and payments over two stores, with a broker and a wire that can be cut."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from typing import TYPE_CHECKING, Any

import grpc
from google.protobuf.message import Message

from apibase import EventContext, ServiceError, SidecarUnavailable
from orders.checkout import Checkout
from orders.events import OrderEvents
from orders.rules import Catalogue
from orders.service import OrderService
from orders.settings import OrderSettings
from orders.store import PAGES, OrderStore
from payments.provider import DECLINED_PREFIX
from payments.service import PaymentService
from shop.orders.v1 import order_pb2, service_pb2, storage_pb2
from shop.payments.v1 import events_pb2 as payment_events_pb2
from shop.payments.v1 import payment_pb2
from tests.unit.memory_state import MemoryState

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

CATALOGUE = '{"MUG": {"EUR": "11.50", "JPY": "1800"}, "TEA": {"EUR": "7.80"}}'
CONTEXT: Any = None
"""The servicers look at no gRPC context."""
STATUS = order_pb2.OrderStatus.Name
EVENT = EventContext(kind="topic", source="payments")


class Broker:
    """Stands in for `PubSubPublisher`."""

    def __init__(self) -> None:
        self.published: list[tuple[Message, str, str]] = []
        self.down = False

    async def publish(self, event: Message, *, id: str | None = None, subject: str | None = None) -> str:
        if self.down:
            raise SidecarUnavailable("the broker is away")
        assert id is not None
        assert subject is not None
        self.published.append((event, id, subject))
        return id

    def of(self, event: type[Message]) -> list[Any]:
        return [message for message, _, _ in self.published if isinstance(message, event)]


class Wire:
    """The way from orders to payments: turns errors into what a stub raises, and can be cut.

    `before` and `after` take a hook for the next call of a method; one that raises loses the call, or its answer.
    """

    def __init__(self, payments: PaymentService) -> None:
        self._payments = payments
        self.down = False
        self.calls: list[str] = []
        self._before: dict[str, list[Callable[[], Awaitable[object]]]] = defaultdict(list)
        self._after: dict[str, list[Callable[[], Awaitable[object]]]] = defaultdict(list)

    def before(self, method: str, hook: Callable[[], Awaitable[object]]) -> None:
        self._before[method].append(hook)

    def after(self, method: str, hook: Callable[[], Awaitable[object]]) -> None:
        self._after[method].append(hook)

    async def _call(self, method: str, request: Message, timeout: float) -> Any:
        assert timeout > 0
        if self.down:
            await cut()
        self.calls.append(method)
        if self._before[method]:
            await self._before[method].pop(0)()
        try:
            response = await getattr(self._payments, method)(request, CONTEXT)
        except ServiceError as error:
            raise rpc_error(error.code, error.message) from error
        if self._after[method]:
            await self._after[method].pop(0)()
        return response

    async def Authorise(self, request: Message, *, timeout: float) -> Any:
        return await self._call("Authorise", request, timeout)

    async def Capture(self, request: Message, *, timeout: float) -> Any:
        return await self._call("Capture", request, timeout)

    async def Void(self, request: Message, *, timeout: float) -> Any:
        return await self._call("Void", request, timeout)


def rpc_error(code: grpc.StatusCode, details: str) -> grpc.aio.AioRpcError:
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(), details=details)


class Provider:
    """The payment provider, without the secret that opens it."""

    async def decline_reason(self, payment_token: str) -> str:
        return "card_declined" if payment_token.startswith(DECLINED_PREFIX) else ""


async def cut() -> None:
    """Fail as a call to an app that is away."""
    raise rpc_error(grpc.StatusCode.UNAVAILABLE, "connection refused")


async def quietly(call: Awaitable[object]) -> None:
    """Let a call fail as calls may: with an error that its caller is meant to see."""
    with contextlib.suppress(ServiceError, grpc.aio.AioRpcError):
        await call


class Shop:
    """Everything, put together as `bootstrap` does; `replica` is a second process over the same stores."""

    def __init__(self, settings: OrderSettings | None = None) -> None:
        self.state, self.ledger = MemoryState(), MemoryState()
        self.broker = Broker()
        self.payments = PaymentService(self.ledger, self.broker, Provider())  # type: ignore[arg-type]
        self.wire = Wire(self.payments)
        self.settings = settings or OrderSettings(sweep_grace=0.0)
        self.store, self.checkout, self.orders, self.events = self._process()

    def _process(self) -> tuple[OrderStore, Checkout, OrderService, OrderEvents]:
        store = OrderStore(self.state)  # type: ignore[arg-type]
        checkout = Checkout(store, self.wire, self.broker, payment_timeout=1.0)  # type: ignore[arg-type]
        return (
            store,
            checkout,
            OrderService(store, checkout, Catalogue.from_json(CATALOGUE)),
            OrderEvents(store, checkout, self.settings),
        )

    def replica(self) -> tuple[OrderService, OrderEvents]:
        return self._process()[2:]

    async def place(self, **changes: Any) -> order_pb2.Order:
        return (await self.orders.PlaceOrder(order_request(**changes), CONTEXT)).order

    async def get(self, order_id: str) -> order_pb2.Order:
        return (await self.orders.GetOrder(service_pb2.GetOrderRequest(order_id=order_id), CONTEXT)).order

    async def status(self, order_id: str) -> str:
        return STATUS((await self.get(order_id)).status).removeprefix("ORDER_STATUS_")

    async def cancel(self, order_id: str) -> order_pb2.Order:
        return (await self.orders.CancelOrder(service_pb2.CancelOrderRequest(order_id=order_id), CONTEXT)).order

    async def record(self, order_id: str) -> storage_pb2.OrderRecord:
        record = await self.store.load(order_id)
        assert record is not None
        return record

    async def sweep(self) -> None:
        await self.events.SweepOrders(CONTEXT, EVENT)

    async def deliver(self) -> None:
        """Deliver what payments published, all of it, again and again."""
        for settled in self.broker.of(payment_events_pb2.PaymentSettled):
            await self.events.OnPaymentSettled(settled, EVENT)

    async def deliver_except(self, order_id: str) -> None:
        """Deliver what payments published, but for one order."""
        for settled in self.broker.of(payment_events_pb2.PaymentSettled):
            if settled.order_id != order_id:
                await self.events.OnPaymentSettled(settled, EVENT)

    async def payment(self, order_id: str) -> payment_pb2.Payment | None:
        item = await self.ledger.get(f"payment/{order_id}", payment_pb2.Payment)
        return item.value if item else None

    async def captures(self, order_id: str) -> int:
        """Return how often an order was charged."""
        payment = await self.payment(order_id)
        return sum(entry.status == payment_pb2.PAYMENT_STATUS_CAPTURED for entry in payment.entries) if payment else 0

    async def open_ids(self) -> set[str]:
        pages = [await self.store.open_orders(page) for page in range(PAGES)]
        return {entry.order_id for page in pages for entry in page}


def order_request(**changes: Any) -> service_pb2.PlaceOrderRequest:
    return service_pb2.PlaceOrderRequest(
        **{
            "customer_id": "ann",
            "idempotency_key": "key-1",
            "currency_code": "EUR",
            "lines": [order_pb2.OrderLine(sku="MUG", quantity=2), order_pb2.OrderLine(sku="TEA", quantity=1)],
            "payment_token": "tok_visa",
            "note": "",
            **changes,
        }
    )
