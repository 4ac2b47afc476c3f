"""How many rpcs have a span, and what the others go by."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased

from apibase.middleware import Call, Kind, Target
from apibase.middleware.tracing import Tracing
from apibase.observability import outbound_headers, trace_ids
from apibase.observability.tracing import Tracer, _PinnedIds

TARGET = Target(Kind.UNARY, "desk.v1.Desk.Ask")
CALLS = 2000


class Traced:
    """An rpc behind `tracing`, with a sampler of this ratio."""

    def __init__(self, ratio: float) -> None:
        ids, self.exporter = _PinnedIds(), InMemorySpanExporter()
        provider = TracerProvider(sampler=ParentBased(TraceIdRatioBased(ratio)), id_generator=ids)
        provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        tracer = Tracer(provider, ids, (), TraceIdRatioBased.get_bound_for_rate(ratio))
        self.seen: list[tuple[str, bool, str]] = []

        async def handle(call: Call) -> None:
            sampled = trace.get_current_span().get_span_context().trace_flags.sampled
            self.seen.append((trace_ids()[0], sampled, outbound_headers()["traceparent"]))
            call.outcome = "OK"

        self._proceed = Tracing(tracer).wrap(TARGET, handle)

    async def call(self, **headers: str) -> None:
        made = Call(TARGET, (), headers, lambda _call: None)
        await asyncio.create_task(self._proceed(made))  # type: ignore[arg-type]


@pytest.mark.req("R10.1")
async def test_the_share_of_roots_with_a_span_is_the_ratio_and_ids_flags_and_headers_agree() -> None:
    traced = Traced(0.25)

    for _ in range(CALLS):
        await traced.call()

    spans = {format(span.context.trace_id, "032x") for span in traced.exporter.get_finished_spans()}
    assert CALLS * 0.2 < len(spans) < CALLS * 0.3
    assert len({trace_id for trace_id, _, _ in traced.seen}) == CALLS
    for trace_id, sampled, traceparent in traced.seen:
        assert sampled is (trace_id in spans)
        assert traceparent.startswith(f"00-{trace_id}-")
        assert traceparent.endswith("-01" if sampled else "-00")


@pytest.mark.req("R2.5")
@pytest.mark.parametrize(("flag", "spans"), [("00", 0), ("01", 1)])
async def test_a_callers_decision_stands(flag: str, spans: int) -> None:
    traced = Traced(1.0 if flag == "00" else 0.0)

    await traced.call(traceparent=f"00-{'ab' * 16}-{'cd' * 8}-{flag}", **{"x-correlation-id": "mine"})

    assert len(traced.exporter.get_finished_spans()) == spans
    ((trace_id, sampled, _),) = traced.seen
    assert (trace_id, sampled) == ("ab" * 16, flag == "01")


@pytest.mark.parametrize(
    "traceparent", [f"00-{'0' * 32}-{'cd' * 8}-00", f"00-{'ab' * 16}-{'0' * 16}-00", "rubbish", ""]
)
async def test_a_trace_that_is_none_is_a_new_one(traceparent: str) -> None:
    traced = Traced(0.0)

    await traced.call(traceparent=traceparent)

    ((trace_id, sampled, _),) = traced.seen
    assert int(trace_id, 16)
    assert trace_id != "ab" * 16
    assert not sampled


async def test_nothing_of_one_call_is_left_for_the_next(monkeypatch: Any) -> None:
    traced = Traced(0.0)

    await traced.call(**{"x-correlation-id": "mine"})

    assert trace_ids() == ("", "")
    await traced.call()
    assert len({trace_id for trace_id, _, _ in traced.seen}) == 2
