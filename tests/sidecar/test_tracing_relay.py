"""What travels with a trace from app to app through real sidecars, what is told of an error, and spans at the very end."""

from __future__ import annotations

import json
import secrets
import signal
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio

from apibase.contract.codegen import generate
from apibase.local.options import StackOptions
from apibase.local.stack import Stack
from apibase.local.topology import read_topology
from tests.plugins.stack_logs import running
from tests.sidecar.shop import eventually
from tests.telemetry.otlp import Received, receiving_grpc
from tests.telemetry.spans import SpanTree

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.full]

HERE = Path(__file__).parent / "tracing"
PASS = "relay.v1.RelayService/Pass"


@dataclass
class Relay:
    """The apps, the receiver of their spans, and the caller's stub."""

    stack: Stack
    received: Received
    stub: Any
    pb2: Any

    async def pass_on(self, *route: str, fail: bool = False, metadata: tuple[tuple[str, str], ...] = ()) -> Any:
        request = self.pb2.PassRequest(route=route[1:], fail=fail)
        return await self.stub.Pass(request, metadata=(("dapr-app-id", route[0]), *metadata), timeout=10)

    async def tree(self, trace_id: str, caller: str, servers: int) -> SpanTree:
        """Wait for a trace in which so many apps have served a call."""

        async def probe() -> SpanTree | None:
            tree = self.received.tree(trace_id, caller)
            served = [span for span in tree.spans.values() if (span.name, span.kind) == (PASS, "SERVER")]
            return tree if len(served) == servers and not tree.orphans else None

        return await eventually(probe, within=15, what=f"{servers} apps have told of {trace_id}")

    def log(self, app: str, trace_id: str) -> list[dict[str, Any]]:
        lines = self.stack.app(app).log_path.read_text(encoding="utf-8").splitlines()
        found = [json.loads(line) for line in lines if line.startswith("{")]
        return [line for line in found if line.get("trace_id") == trace_id]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def relay(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Relay]:
    out = tmp_path_factory.mktemp("generated")
    generate([HERE / "protos"], out)
    sys.path.insert(0, str(out))
    from relay.v1 import relay_pb2, relay_pb2_grpc  # noqa: PLC0415 - generated just now

    path = ":".join([str(out), *filter(None, sys.path)])
    soon = {"PYTHONPATH": path, "OTEL_BSP_SCHEDULE_DELAY": "200"}
    late = soon | {"OTEL_BSP_SCHEDULE_DELAY": "120000"}
    async with receiving_grpc() as received:
        options = StackOptions(
            otlp=received.address, env={**dict.fromkeys(("front", "back", "caller"), soon), "late": late}
        )
        async with Stack(read_topology(HERE / "compose" / "dapr.yaml"), options) as stack:
            running.append(stack)
            async with grpc.aio.insecure_channel(stack.sidecar("caller").grpc_address) as channel:
                yield Relay(stack, received, relay_pb2_grpc.RelayServiceStub(channel), relay_pb2)
            running.remove(stack)
    sys.path.remove(str(out))


def headers(trace_id: str, caller: str, flags: str = "01") -> tuple[tuple[str, str], ...]:
    return (("traceparent", f"00-{trace_id}-{caller}-{flags}"),)


@pytest.mark.req("R2.5", "R10.1")
async def test_baggage_and_tracestate_arrive_at_every_app_of_a_trace(relay: Relay) -> None:
    trace_id, caller = secrets.token_hex(16), secrets.token_hex(8)
    more = (("tracestate", "shelf=7,vendor=x"), ("baggage", "tenant=acme"))

    answer = await relay.pass_on("front", "back", metadata=(*headers(trace_id, caller), *more))

    assert [(stop.app_id, stop.tenant, stop.tracestate) for stop in answer.stops] == [
        ("front", "acme", "shelf=7,vendor=x"),
        ("back", "acme", "shelf=7,vendor=x"),
    ]
    tree = await relay.tree(trace_id, caller, servers=2)
    (served,) = tree.find("back", PASS)
    assert [f"{span.service} {span.kind}" for span in tree.path(served)] == [
        "caller CLIENT",
        "front SERVER",
        "front CLIENT",
        "front CLIENT",
        "back SERVER",
    ], tree


@pytest.mark.req("R10.4")
async def test_log_lines_of_tasks_and_threads_have_the_ids_of_their_call(relay: Relay) -> None:
    trace_id, caller = secrets.token_hex(16), secrets.token_hex(8)

    await relay.pass_on("front", "back", metadata=headers(trace_id, caller))

    tree = await relay.tree(trace_id, caller, servers=2)
    for app in ("front", "back"):
        (served,) = tree.find(app, PASS, "SERVER")
        places = {line["where"]: line["span_id"] for line in relay.log(app, trace_id) if line["logger"] == "relay"}
        assert places == {"task": served.id, "thread": served.id}


@pytest.mark.req("R10.5")
async def test_an_exception_is_on_the_span_with_its_stack_and_in_the_log_with_the_same_ids(relay: Relay) -> None:
    trace_id, caller = secrets.token_hex(16), secrets.token_hex(8)

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await relay.pass_on("front", "back", fail=True, metadata=headers(trace_id, caller))

    assert "inner text" not in str(caught.value.details())
    tree = await relay.tree(trace_id, caller, servers=2)
    (served,) = tree.find("back", PASS)
    assert served.failed
    assert (served.attributes["rpc.response.status_code"], served.attributes["error.type"]) == ("INTERNAL", "INTERNAL")
    (exception,) = served.exceptions
    assert (exception["exception.type"], exception["exception.message"]) == ("RuntimeError", "inner text")
    assert "relay_app.py" in exception["exception.stacktrace"]
    (line,) = [line for line in relay.log("back", trace_id) if "error" in line]
    assert line["span_id"] == served.id
    assert line["error"]["message"] == "inner text"
    (made,) = tree.find("front", PASS, "CLIENT")
    assert made.failed
    assert made.attributes["error.type"] == "INTERNAL"


@pytest.mark.req("R10.1")
async def test_the_span_of_the_last_call_before_the_end_of_its_app_arrives(relay: Relay) -> None:
    trace_id, caller = secrets.token_hex(16), secrets.token_hex(8)

    await relay.pass_on("late", metadata=headers(trace_id, caller))
    assert not relay.received.tree(trace_id).find("late", PASS)
    await relay.stack.kill("late", signal.SIGTERM)

    assert relay.received.tree(trace_id).find("late", PASS), "it had ended with the process"
