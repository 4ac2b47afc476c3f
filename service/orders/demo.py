"""The demo: places a file of orders from the storefront's app id, waits for what becomes of each, and checks it."""

from __future__ import annotations

import argparse
import asyncio
import json
import secrets
import signal
import statistics
import time
from dataclasses import dataclass, field
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import grpc
from google.protobuf import json_format
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from rich import box
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from shop.orders.v1 import order_pb2, service_pb2, service_pb2_grpc
from shop.payments.v1 import payment_pb2
from shop.payments.v1 import service_pb2 as payments_pb2
from shop.payments.v1 import service_pb2_grpc as payments_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from rich.console import Console

    from apibase.local.demo import DemoContext

T = TypeVar("T")

CALLER = "storefront"
_AT_ONCE = 8
_SETTLE_SECONDS = 60.0
_POLL_SECONDS = 0.02
_CALL_SECONDS = 10.0
_WIDE = 150
_OPEN = {order_pb2.ORDER_STATUS_ACCEPTED, order_pb2.ORDER_STATUS_STARTED}
_TRY_AGAIN = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}


@dataclass(frozen=True)
class Case:
    """One line of the demo file: a request, and what is expected to become of it."""

    name: str
    request: service_pb2.PlaceOrderRequest
    expect: dict[str, str]
    same_as: str = ""
    after: str = ""

    @classmethod
    def from_json(cls, line: str) -> Case:
        """Read a line; `pad_note` stands for a note of that many letters."""
        data: dict[str, Any] = json.loads(line)
        request = json_format.ParseDict(data["request"], service_pb2.PlaceOrderRequest())
        request.note += "x" * int(data.get("pad_note", 0))
        return cls(data["name"], request, data["expect"], data.get("same_as", ""), data.get("after", ""))


@dataclass
class Result:
    """What became of a case."""

    case: Case
    trace_id: str
    code: str = ""
    reason: str = ""
    fields: tuple[str, ...] = ()
    order: order_pb2.Order | None = None
    called_seconds: float = 0.0
    settled_seconds: float | None = None
    tries: int = 0
    problems: list[str] = field(default_factory=list)

    @property
    def outcome(self) -> str:
        """The outcome in a word or two: a status of the order, or a status code with its reason."""
        if self.order is not None:
            return order_pb2.OrderStatus.Name(self.order.status).removeprefix("ORDER_STATUS_")
        return f"{self.code} {self.reason}".strip()


def read_cases(path: Path | None) -> list[Case]:
    """Read the cases of a file, by default the one that ships with the demo. Raises `ValueError` that names a wrong line."""
    source = path if path is not None else files("orders").joinpath("data", "demo_orders.jsonl")
    cases = []
    for number, line in enumerate(source.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            cases.append(Case.from_json(line))
        except KeyError as error:
            raise ValueError(f"{source}:{number}: {error.args[0]!r} is missing") from error
        except (ValueError, TypeError, AttributeError, json_format.ParseError) as error:
            raise ValueError(f"{source}:{number}: this is no case: {error}") from error
    return cases


def _prepare(arguments: Sequence[str], app_ids: Sequence[str]) -> None:
    """Read the arguments before anything is started."""
    options = _options(arguments)
    if options.kill is not None and options.kill not in app_ids:
        raise SystemExit(f"apibase demo: --kill {options.kill}: no such app; there are {', '.join(app_ids)}")
    try:
        read_cases(options.file)
    except (OSError, ValueError) as error:
        raise SystemExit(f"apibase demo: --file: {error}") from error


async def run(context: DemoContext) -> int:
    """Run the demo on a stack that is up; return 0 when everything became what the file expects."""
    options = _options(context.arguments)
    cases = read_cases(options.file)
    address = context.stack.sidecar(CALLER).grpc_address
    limit = [
        ("grpc.max_send_message_length", -1),
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 500),
    ]
    async with grpc.aio.insecure_channel(address, limit) as channel:
        shop = _Shop(channel)
        started = time.perf_counter()
        with Progress(
            TextColumn("[progress.description]{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            console=context.console,
            transient=True,
            disable=not context.console.is_terminal,
        ) as progress:
            task = progress.add_task("placing orders and waiting for them to settle", total=len(cases))
            playing = asyncio.create_task(_kill(context, options.kill)) if options.kill else None
            results = await _play(cases, shop, lambda: progress.advance(task))
            if playing is not None:
                await playing
        took = time.perf_counter() - started
        await _check(results, shop)
    _report(context.console, results, took)
    return 1 if any(result.problems for result in results) else 0


run.prepare = _prepare  # type: ignore[attr-defined]


def _options(args: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="apibase demo", description=__doc__)
    parser.add_argument(
        "--file", type=Path, help="a file of orders, one JSON object a line (default: the one that ships)"
    )
    parser.add_argument("--kill", metavar="APP", help="kill -9 this app while orders are placed, and start it again")
    return parser.parse_args(list(args))


async def _kill(context: DemoContext, app_id: str) -> None:
    """Kill an app in mid-flight, and start it again."""
    context.console.print(f"[bold]kill -9 {app_id}[/bold], while orders are being placed")
    await context.stack.kill(app_id, signal.SIGKILL)
    await context.stack.restart(app_id)
    context.console.print(f"{app_id} is back")


class _Shop:
    """The two services, as the storefront calls them through its sidecar."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._orders = service_pb2_grpc.OrderServiceStub(channel)
        self._payments = payments_pb2_grpc.PaymentServiceStub(channel)

    async def place(self, request: service_pb2.PlaceOrderRequest, traceparent: str) -> order_pb2.Order:
        placed = await self._orders.PlaceOrder(
            request, metadata=(("dapr-app-id", "orders"), ("traceparent", traceparent)), timeout=_CALL_SECONDS
        )
        return placed.order

    async def get(self, order_id: str) -> order_pb2.Order:
        got = await self._orders.GetOrder(
            service_pb2.GetOrderRequest(order_id=order_id), metadata=(("dapr-app-id", "orders"),), timeout=_CALL_SECONDS
        )
        return got.order

    async def payment(self, payment_id: str) -> payment_pb2.Payment:
        got = await self._payments.GetPayment(
            payments_pb2.GetPaymentRequest(payment_id=payment_id),
            metadata=(("dapr-app-id", "payments"),),
            timeout=_CALL_SECONDS,
        )
        return got.payment


async def _play(cases: Sequence[Case], shop: _Shop, advance: Callable[[], None]) -> list[Result]:
    """Place every case, some at once, each after the one that it names."""
    at_once = asyncio.Semaphore(_AT_ONCE)
    answered = {case.name: asyncio.Event() for case in cases}

    async def play(case: Case) -> Result:
        if case.after:
            await answered[case.after].wait()
        async with at_once:
            result = await _place(case, shop)
        answered[case.name].set()
        if result.order is not None:
            await _wait_final(result, shop)
        advance()
        return result

    return list(await asyncio.gather(*(play(case) for case in cases)))


async def _place(case: Case, shop: _Shop) -> Result:
    """Place one order, again while the service is away: the idempotency key makes that safe."""
    result = Result(case, trace_id=secrets.token_hex(16))
    deadline = time.perf_counter() + _SETTLE_SECONDS
    started = time.perf_counter()
    while True:
        result.tries += 1
        try:
            result.order = await shop.place(case.request, f"00-{result.trace_id}-{secrets.token_hex(8)}-01")
            result.code = "OK"
        except grpc.aio.AioRpcError as error:
            if error.code() in _TRY_AGAIN and time.perf_counter() < deadline:
                await asyncio.sleep(_POLL_SECONDS * 5)
                continue
            result.code = error.code().name
            result.reason, result.fields = _details(error)
        result.called_seconds = time.perf_counter() - started
        return result


async def _wait_final(result: Result, shop: _Shop) -> None:
    """Wait until an order has a final status."""
    started = time.perf_counter()
    order = result.order
    while order is not None and order.status in _OPEN and time.perf_counter() < started + _SETTLE_SECONDS:
        await asyncio.sleep(_POLL_SECONDS)
        order = result.order = await _patiently(partial(shop.get, order.order_id))
    result.settled_seconds = result.called_seconds + time.perf_counter() - started


async def _patiently(call: Callable[[], Awaitable[T]]) -> T:
    """Make a call that changes nothing, again while the service is away."""
    deadline = time.perf_counter() + _SETTLE_SECONDS
    while True:
        try:
            return await call()
        except grpc.aio.AioRpcError as error:
            if error.code() not in _TRY_AGAIN or time.perf_counter() > deadline:
                raise
        await asyncio.sleep(_POLL_SECONDS * 5)


def _details(error: grpc.aio.AioRpcError) -> tuple[str, tuple[str, ...]]:
    """Return the reason of an error's ErrorInfo, and the fields of its BadRequest."""
    status = rpc_status.from_call(error)
    reason, fields = "", list[str]()
    for detail in status.details if status else ():
        info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
        if detail.Unpack(info):
            reason = info.reason
        elif detail.Unpack(bad):
            fields = [violation.field for violation in bad.field_violations]
    return reason, tuple(fields)


async def _check(results: Sequence[Result], shop: _Shop) -> None:
    """Note where a result is not what its case expects, or money moved as it should not."""
    by_name = {result.case.name: result for result in results}
    for result in results:
        expect = result.case.expect
        got = {
            "code": result.code,
            "reason": result.reason,
            "status": result.outcome if result.order is not None else "",
            "status_reason": result.order.status_reason if result.order is not None else "",
        }
        result.problems += [
            f"{key} is {got[key]!r}, not {expect[key]!r}" for key in got if key in expect and got[key] != expect[key]
        ]
        if "field" in expect and expect["field"] not in result.fields:
            result.problems.append(
                f"the violations name {', '.join(result.fields) or 'no field'}, not {expect['field']}"
            )
        twin = by_name[result.case.same_as].order if result.case.same_as else None
        if twin is not None and (result.order is None or result.order.order_id != twin.order_id):
            result.problems.append(f"is not the same order as {result.case.same_as!r}")
        if result.order is not None:
            payment = await _patiently(partial(shop.payment, result.order.order_id))
            result.problems += _payment_problems(result.order, payment)


def _payment_problems(order: order_pb2.Order, payment: payment_pb2.Payment) -> list[str]:
    """Return what is wrong with an order's payment: captured exactly once for a settled order, never for another."""
    captures = sum(entry.status == payment_pb2.PAYMENT_STATUS_CAPTURED for entry in payment.entries)
    wanted = 1 if order.status == order_pb2.ORDER_STATUS_SETTLED else 0
    problems = [] if captures == wanted else [f"was charged {captures} times, not {wanted}"]
    if payment.amount != order.total:
        problems.append("was not charged its total")
    return problems


def _report(console: Console, results: Sequence[Result], took: float) -> None:
    """Print the table of orders, the totals, and whatever is not as expected."""
    if not console.is_terminal:
        console.width = _WIDE
    console.print(_table(results, wide=console.width >= _WIDE), soft_wrap=False)
    orders = {result.order.order_id: result for result in results if result.order is not None}
    statuses = [result.outcome.lower() for result in orders.values()]
    counts = ", ".join(f"{statuses.count(status)} {status}" for status in sorted(set(statuses), reverse=True))
    refused = sum(result.order is None for result in results)
    repeated = len(results) - refused - len(orders)
    console.print(
        f"{len(results)} requests: {len(orders)} orders ({counts}), {repeated} repeated, {refused} refused; "
        f"{took:.1f} s, {len(results) / took:.0f} requests/s"
    )
    calls = sorted(result.called_seconds * 1000 for result in results)
    settled = sorted(result.settled_seconds * 1000 for result in results if result.settled_seconds is not None)
    for what, times in (("PlaceOrder answered", calls), ("order final", settled)):
        if len(times) > 1:
            console.print(
                f"{what}: p50 {statistics.median(times):.0f} ms, p99 {statistics.quantiles(times, n=100, method='inclusive')[98]:.0f} ms"
            )
    failed = [result for result in results if result.problems]
    for result in failed:
        console.print(f"[red]✗ {result.case.name}[/red] (trace {result.trace_id}): {'; '.join(result.problems)}")
    verdict = (
        f"[red]{len(failed)} of {len(results)} did not end as the file expects[/red]"
        if failed
        else "[green]✓ every order ended as the file expects[/green]"
    )
    console.print(verdict)


def _table(results: Sequence[Result], *, wide: bool) -> Table:
    """Return the table of orders; without customers and totals where there is no room for them."""
    table = Table(
        title="Orders placed by the storefront through its sidecar",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    if wide:
        table.add_column("", justify="right")
    table.add_column("order", no_wrap=True, overflow="ellipsis")
    if wide:
        table.add_column("customer", no_wrap=True)
        table.add_column("total", justify="right", no_wrap=True)
    table.add_column("outcome", no_wrap=True, min_width=22)
    table.add_column("ms", justify="right", no_wrap=True, min_width=4)
    table.add_column("trace id", no_wrap=True, min_width=32)
    for number, result in enumerate(results, 1):
        style = "red" if result.problems else "green" if result.outcome == "SETTLED" else "yellow"
        outcome = result.outcome if wide else result.reason or result.outcome
        table.add_row(
            *([str(number)] if wide else []),
            result.case.name,
            *([result.case.request.customer_id or "—", _money(result.order)] if wide else []),
            Text(outcome + (" ✗" if result.problems else ""), style=style),
            f"{(result.settled_seconds or result.called_seconds) * 1000:.0f}",
            result.trace_id,
        )
    return table


def _money(order: order_pb2.Order | None) -> str:
    if order is None:
        return "—"
    return f"{order.total.units + order.total.nanos / 1e9:,.2f} {order.total.currency_code}"
