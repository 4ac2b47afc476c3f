"""The reference system on real sidecars, as tests use it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import grpc
from google.protobuf.message import Message
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from apibase import ServiceInvocationClient, Settings, Sidecar
from apibase.local.binaries.dapr_tool import SERIES
from apibase.local.options import StackOptions
from apibase.local.stack import Stack
from apibase.local.topology import read_topology
from shop.orders.v1 import order_pb2, service_pb2
from shop.orders.v1.service_pb2_grpc import OrderServiceStub
from shop.payments.v1 import payment_pb2
from shop.payments.v1 import service_pb2 as payments_pb2
from shop.payments.v1.service_pb2_grpc import PaymentServiceStub
from tests.plugins.stack_logs import running

ROOT = Path(__file__).parent.parent.parent
OPEN = {order_pb2.ORDER_STATUS_ACCEPTED, order_pb2.ORDER_STATUS_STARTED}

T = TypeVar("T")


async def eventually(probe: Callable[[], Awaitable[T]], *, within: float, what: str) -> T:
    """Ask again until the probe returns something true; fail after `within` seconds, with what it last returned."""
    deadline = time.monotonic() + within
    while True:
        result = await probe()
        if result:
            return result
        if time.monotonic() > deadline:
            raise AssertionError(f"{what}: not within {within:.0f} s; last seen: {result!r}")
        await asyncio.sleep(0.05)


@dataclass
class Shop:
    """The stack, and the two services as the storefront sees them through its own sidecar."""

    stack: Stack
    orders: Any
    payments: Any

    async def place(self, request: service_pb2.PlaceOrderRequest, **options: Any) -> order_pb2.Order:
        return (await self.orders.PlaceOrder(request, **options)).order

    async def get(self, order_id: str) -> order_pb2.Order:
        return (await self.orders.GetOrder(service_pb2.GetOrderRequest(order_id=order_id))).order

    async def payment(self, order_id: str) -> payment_pb2.Payment:
        """The ledger's row; asked again while `payments` is away, for its sidecar redials a restarted app only after a while."""

        async def probe() -> payment_pb2.Payment | None:
            try:
                return (await self.payments.GetPayment(payments_pb2.GetPaymentRequest(payment_id=order_id))).payment
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.UNAVAILABLE:
                    raise
            return None

        return await eventually(probe, within=15, what=f"payment {order_id} can be read")

    async def final(self, order_id: str, *, within: float = 30.0) -> order_pb2.Order:
        """Wait until the order has a final status; calls that fail on the way are no answer."""

        async def probe() -> order_pb2.Order | None:
            with contextlib.suppress(grpc.aio.AioRpcError):
                order = await self.get(order_id)
                if order.status not in OPEN:
                    return order
            return None

        return await eventually(probe, within=within, what=f"order {order_id} is final")

    def log_lines(self, app_id: str, replica: int = 0) -> Iterator[dict[str, Any]]:
        """The JSON lines that an app has logged so far."""
        for line in self.stack.app(app_id, replica).log_path.read_text(encoding="utf-8").splitlines():
            start = line.find("{")
            if start >= 0:
                with contextlib.suppress(json.JSONDecodeError):
                    yield json.loads(line[start:])


def charges(payment: payment_pb2.Payment) -> int:
    return sum(entry.status == payment_pb2.PAYMENT_STATUS_CAPTURED for entry in payment.entries)


def order_request(key: str | None = None, **changes: Any) -> service_pb2.PlaceOrderRequest:
    """A good order; a new one, unless a key is given."""
    fields: dict[str, Any] = {
        "customer_id": "ann",
        "idempotency_key": key or uuid.uuid4().hex,
        "currency_code": "EUR",
        "lines": [{"sku": "MUG-RED", "quantity": 2}],
        "payment_token": "tok_visa",
    }
    return service_pb2.PlaceOrderRequest(**{**fields, **changes})


def details(error: grpc.aio.AioRpcError) -> dict[str, Message]:
    """The details of a rich error, by message name."""
    status = rpc_status.from_call(error)
    found: dict[str, Message] = {}
    for packed in status.details if status else ():
        for kind in (error_details_pb2.ErrorInfo, error_details_pb2.BadRequest):
            message = kind()
            if packed.Unpack(message):
                found[kind.DESCRIPTOR.name] = message
    return found


@contextlib.asynccontextmanager
async def open_shop(
    *,
    env: Mapping[str, Mapping[str, str]] | None = None,
    replicas: Mapping[str, int] | None = None,
    dapr: str = SERIES,
    zipkin: bool = False,
    otlp: str = "",
) -> AsyncIterator[Shop]:
    """The whole topology on real sidecars and backends, stopped and removed at the end."""
    options = StackOptions(env=env or {}, replicas=replicas or {}, dapr=dapr, zipkin=zipkin, otlp=otlp)
    stack = Stack(read_topology(ROOT / "compose" / "dapr.yaml"), options)
    async with stack:
        running.append(stack)
        sidecar = Sidecar(Settings(app_id="storefront", dapr_grpc_endpoint=stack.sidecar("storefront").grpc_address))
        invocation = ServiceInvocationClient(sidecar)
        try:
            yield Shop(
                stack,
                invocation.client(OrderServiceStub, app_id="orders"),
                invocation.client(PaymentServiceStub, app_id="payments"),
            )
        finally:
            await sidecar.close()
            running.remove(stack)
