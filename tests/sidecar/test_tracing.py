"""One trace through the reference system and its sidecars, at real receivers: caller → orders → payments → event → orders."""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

import pytest
import pytest_asyncio

from tests.sidecar.shop import Shop, eventually, open_shop, order_request
from tests.telemetry.otlp import receiving_grpc
from tests.telemetry.spans import SpanSeen, SpanTree

pytestmark = pytest.mark.asyncio(loop_scope="module")

SOON = {app: {"OTEL_BSP_SCHEDULE_DELAY": "200"} for app in ("orders", "payments", "storefront")}
PLACE, CAPTURE = "shop.orders.v1.OrderService/PlaceOrder", "shop.payments.v1.PaymentService/Capture"
# Span by span, from the caller on: who made it, its kind, and its name. A name with a slash before it is a sidecar's.
TO_THE_HANDLER = [
    ("storefront", "CLIENT", f"/{PLACE}"),
    ("orders", "SERVER", PLACE),
    ("orders", "CLIENT", CAPTURE),
    ("orders", "CLIENT", f"/{CAPTURE}"),
    ("payments", "SERVER", CAPTURE),
    ("payments", "PRODUCER", "publish payments"),
    ("orders", "CLIENT", "pubsub/payments"),
    ("orders", "CONSUMER", "process payments"),
]


@dataclass
class Traced:
    """The reference system, and what its receiver knows of a trace."""

    shop: Shop
    tree: Callable[[str, str], Awaitable[SpanTree]]

    async def place(self, trace_id: str, caller: str, *, sampled: bool) -> None:
        """Place an order within a caller's trace, and wait until the event of its payment is handled."""
        header = f"00-{trace_id}-{caller}-0{int(sampled)}"
        placed = await self.shop.place(order_request(), metadata=(("traceparent", header), ("tracestate", "shelf=7")))
        await self.shop.final(placed.order_id)


@contextlib.asynccontextmanager
async def at_otlp() -> AsyncIterator[Traced]:
    async with receiving_grpc() as received, open_shop(env=SOON, otlp=received.address) as shop:

        async def tree(trace_id: str, caller: str) -> SpanTree:
            return received.tree(trace_id, caller)

        yield Traced(shop, tree)


@contextlib.asynccontextmanager
async def at_zipkin() -> AsyncIterator[Traced]:
    async with open_shop(env=SOON, zipkin=True) as shop:

        def fetch(trace_id: str) -> list[SpanSeen]:
            url = f"http://{shop.stack.zipkin}/api/v2/trace/{trace_id}"
            try:
                with urllib.request.urlopen(url, timeout=5) as answer:
                    return [SpanSeen.of_zipkin(span) for span in json.load(answer)]
            except urllib.error.HTTPError as error:
                if error.code != 404:
                    raise
                return []

        async def tree(trace_id: str, caller: str) -> SpanTree:
            return SpanTree(await asyncio.to_thread(fetch, trace_id), caller)

        yield Traced(shop, tree)


@pytest_asyncio.fixture(
    scope="module",
    loop_scope="module",
    params=[pytest.param(at_otlp, id="otlp"), pytest.param(at_zipkin, id="zipkin", marks=pytest.mark.full)],
)
async def traced(request: pytest.FixtureRequest) -> AsyncIterator[Traced]:
    async with request.param() as opened:
        yield opened


def calls_of_apps(tree: SpanTree) -> list[SpanSeen]:
    """The spans of what apps have called: each goes on at the app's sidecar."""
    return [span for span in tree.spans.values() if "rpc.method" in span.attributes and span.kind != "SERVER"]


async def complete_tree(traced: Traced, trace_id: str, caller: str) -> SpanTree:
    """Wait for a tree that has the event's handler, no orphan, and below every call what became of it."""
    seen: list[SpanTree] = []

    async def complete() -> bool:
        tree = await traced.tree(trace_id, caller)
        seen[:] = [tree]
        if not tree.find("orders", "process payments") or tree.orphans:
            return False
        made = calls_of_apps(tree)
        return len(made) >= 8 and all(tree.children(span) for span in made)

    try:
        await eventually(complete, within=20, what="the tree is complete")
    except AssertionError as error:
        error.add_note(f"{seen[0]}\norphans: {', '.join(map(str, seen[0].orphans))}")
        raise
    return seen[0]


@pytest.mark.req("R2.5", "R10.1", "R10.2", "R10.4")
async def test_a_callers_trace_is_one_unbroken_tree_down_to_the_events_handler(traced: Traced) -> None:
    unsampled, trace_id, caller = secrets.token_hex(16), secrets.token_hex(16), secrets.token_hex(8)
    await traced.place(unsampled, secrets.token_hex(8), sampled=False)
    await traced.place(trace_id, caller, sampled=True)

    tree = await complete_tree(traced, trace_id, caller)

    assert len(tree.roots) == 1
    (handled,) = tree.find("orders", "process payments")
    assert [(span.service, span.kind, span.name.lower()) for span in tree.path(handled)] == [
        (service, kind, name.lower()) for service, kind, name in TO_THE_HANDLER
    ], tree
    assert {span.trace for span in tree.spans.values()} == {trace_id}
    for app in ("orders", "payments"):
        lines = [line for line in traced.shop.log_lines(app) if line.get("trace_id") == trace_id]
        assert lines
        assert {tree.spans[line["span_id"]].service for line in lines} == {app}

    # What its caller did not sample was handled before, and has no span anywhere, but the ids in the log.
    assert not (await traced.tree(unsampled, "")).spans
    assert any(line.get("trace_id") == unsampled for line in traced.shop.log_lines("payments"))
