"""Trace, correlation id and deadline of an inbound call, as its handler and its log line see them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from loguru import logger

from apibase.deadline import deadline
from apibase.observability import correlation_id, outbound_headers, trace_ids
from tests.unit.fake_dapr import eventually

if TYPE_CHECKING:
    from tests.unit.conftest import Desk, Log

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
TRACEPARENT = f"00-{TRACE}-00f067aa0ba902b7-01"

pytestmark = pytest.mark.req("R10.4")


@pytest.fixture
def ask(desk: Desk) -> Any:
    """Return a handler that answers with what it passes on to others, and logs."""

    async def handler(request: Any, context: Any) -> Any:
        logger.info("at work")
        return desk.pb2.Answer(text=repr(outbound_headers()))

    return handler


async def test_a_call_belongs_to_its_callers_trace(desk: Desk, served: Any, log: Log, ask: Any) -> None:
    async with served(ask=ask) as stub:
        answer = await stub.Ask(
            desk.pb2.Question(text="why"), metadata=(("traceparent", TRACEPARENT), ("tracestate", "vendor=1"))
        )

    for line in (log.one(message="at work"), log.one(logger="apibase.call")):
        assert (line["trace_id"], line["span_id"]) == (TRACE, "00f067aa0ba902b7")
        assert line["correlation_id"] == TRACE
    passed_on = eval(answer.text)
    assert passed_on["traceparent"] == TRACEPARENT
    assert passed_on["tracestate"] == "vendor=1"


@pytest.mark.parametrize("given", [None, "garbage", f"00-{'0' * 32}-00f067aa0ba902b7-01"])
async def test_a_call_without_a_valid_trace_begins_one(
    desk: Desk, served: Any, log: Log, ask: Any, given: str | None
) -> None:
    metadata = () if given is None else (("traceparent", given),)
    async with served(ask=ask) as stub:
        for _ in range(2):
            await stub.Ask(desk.pb2.Question(text="why"), metadata=metadata)

    first, second = log.of(logger="apibase.call")
    assert len(first["trace_id"]) == 32
    assert first["trace_id"].strip("0")
    assert first["trace_id"] != second["trace_id"]
    assert log.of(message="at work")[0]["trace_id"] == first["trace_id"]


async def test_a_correlation_id_goes_through(desk: Desk, served: Any, log: Log, ask: Any) -> None:
    async with served(ask=ask) as stub:
        answer = await stub.Ask(
            desk.pb2.Question(text="why"), metadata=(("x-correlation-id", "order-7"), ("traceparent", TRACEPARENT))
        )

    assert log.one(message="at work")["correlation_id"] == "order-7"
    assert eval(answer.text)["x-correlation-id"] == "order-7"


async def test_calls_at_once_keep_their_contexts_apart(desk: Desk, served: Any) -> None:
    gate = asyncio.Event()
    waiting = 0

    async def ask(request: Any, context: Any) -> Any:
        nonlocal waiting
        waiting += 1
        await gate.wait()
        return desk.pb2.Answer(text=f"{trace_ids()[0]} {correlation_id()}")

    async with served(ask=ask) as stub:
        calls = [
            stub.Ask(
                desk.pb2.Question(text="why"),
                metadata=(("traceparent", f"00-{number:032x}-00f067aa0ba902b7-01"), ("x-correlation-id", f"c{number}")),
            )
            for number in range(1, 21)
        ]
        await eventually(lambda: waiting == 20)
        gate.set()
        answers = [(await call).text for call in calls]

    assert answers == [f"{number:032x} c{number}" for number in range(1, 21)]


async def test_nothing_of_a_call_is_left_after_it(desk: Desk, served: Any, ask: Any) -> None:
    async with served(ask=ask) as stub:
        await stub.Ask(desk.pb2.Question(text="why"), metadata=(("traceparent", TRACEPARENT),), timeout=5)

    assert trace_ids() == ("", "")
    assert outbound_headers() == {}
    assert deadline.bound(None) is None


async def test_a_handler_knows_what_is_left_of_its_callers_deadline(desk: Desk, served: Any) -> None:
    left: list[float | None] = []

    async def ask(request: Any, context: Any) -> Any:
        left.append(deadline.bound(None))
        left.append(deadline.bound(1.0))
        return desk.pb2.Answer()

    async with served(ask=ask) as stub:
        await stub.Ask(desk.pb2.Question(text="why"), timeout=30)
        await stub.Ask(desk.pb2.Question(text="why"))

    assert left[0] == pytest.approx(30, abs=1)
    assert left[1] == 1.0
    assert left[2:] == [None, 1.0]
