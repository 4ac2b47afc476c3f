"""What the span of an inbound call says, whose child it is, and what the ids are where there is none."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from types import SimpleNamespace
from typing import Any, cast

import grpc
import pytest
from opentelemetry import baggage, trace
from opentelemetry.trace import SpanKind, StatusCode, format_span_id, format_trace_id

from apibase import ServiceError
from apibase.events import EventContext
from apibase.middleware.call import RPCS, Call, Kind, Target
from apibase.middleware.tracing import Tracing
from apibase.observability import correlation_id, outbound_headers, trace_ids
from tests.unit.traced import Recorded

TRACE, CALLER, OTHER = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7", "a" * 32
SAMPLED = f"00-{TRACE}-{CALLER}-01"
ERRORS = {"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"}
EVENT = Target(
    Kind.EVENT, "desk.v1.DeskEvents.OnAsked", source="asked", route=cast("Any", SimpleNamespace(pubsub_name="events"))
)
ASK = Target(Kind.UNARY, "desk.v1.Desk.Ask")


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> Recorded:
    return Recorded(monkeypatch)


async def run(
    middleware: Tracing,
    target: Target,
    handler: Callable[[Call], Awaitable[object]],
    headers: Mapping[str, str] | None = None,
    extensions: Mapping[str, object] | None = None,
) -> Call:
    given = {"traceparent": SAMPLED} if headers is None else headers
    event = None
    if target.kind not in RPCS:
        event = EventContext("topic", "orders", "e7", "desk.v1.Asked", extensions=extensions or {}, headers=given)
    call = Call(target, tuple(given.items()), given, lambda _: None, event=event)
    await middleware.wrap(target, handler)(call)
    return call


def ends(outcome: str, reason: str = "", error: BaseException | None = None) -> Callable[[Call], Awaitable[object]]:
    """Return the rest of a chain that ends a call so."""

    async def handler(call: Call) -> object:
        call.outcome, call.reason, call.error = outcome, reason, error
        return None

    return handler


@pytest.mark.req("R10.1")
@pytest.mark.parametrize("kind", sorted(RPCS))
async def test_an_rpc_is_a_server_span_below_its_caller(recorded: Recorded, kind: Kind) -> None:
    await run(Tracing(recorded.tracer), Target(kind, "desk.v1.Desk.Ask"), ends("OK"))

    span = recorded.one()
    assert (span.name, span.kind) == ("desk.v1.Desk/Ask", SpanKind.SERVER)
    assert dict(span.attributes or {}) == {
        "rpc.system.name": "grpc",
        "rpc.method": "desk.v1.Desk/Ask",
        "rpc.response.status_code": "OK",
    }
    assert span.context is not None
    assert format_trace_id(span.context.trace_id) == TRACE
    assert span.parent is not None
    assert format_span_id(span.parent.span_id) == CALLER
    assert span.parent.is_remote
    assert span.status.status_code is StatusCode.UNSET


@pytest.mark.parametrize(
    ("target", "name", "kind", "method"),
    [
        (
            Target(Kind.INVOKE, "wish"),
            "invoke wish",
            SpanKind.SERVER,
            "dapr.proto.runtime.v1.AppCallback/OnInvoke",
        ),
        (Target(Kind.BINDING, "desk.v1.DeskEvents.OnTick", source="tick"), "binding tick", SpanKind.CONSUMER, None),
        (Target(Kind.JOB, "desk.v1.DeskEvents.Nightly", source="nightly"), "job nightly", SpanKind.CONSUMER, None),
    ],
)
async def test_what_has_no_convention_of_its_own_is_named_by_its_kind(
    recorded: Recorded, target: Target, name: str, kind: SpanKind, method: str | None
) -> None:
    await run(Tracing(recorded.tracer), target, ends("OK"))

    span = recorded.one()
    attributes = dict(span.attributes or {})
    assert (span.name, span.kind, attributes.get("rpc.method")) == (name, kind, method)
    assert (attributes["apibase.kind"], attributes["code.function.name"]) == (str(target.kind), target.name)


@pytest.mark.parametrize("code", [code.name for code in grpc.StatusCode])
async def test_an_error_of_a_server_is_what_is_not_its_callers(recorded: Recorded, code: str) -> None:
    await run(Tracing(recorded.tracer), ASK, ends(code, "" if code == "OK" else "WHY"))

    span = recorded.one()
    attributes = dict(span.attributes or {})
    assert attributes["rpc.response.status_code"] == code
    assert attributes.get("error.type") == (code if code in ERRORS else None)
    assert attributes.get("apibase.reason") == (None if code == "OK" else "WHY")
    assert span.status.status_code is (StatusCode.ERROR if code in ERRORS else StatusCode.UNSET)


@pytest.mark.req("R10.5")
async def test_an_exception_is_on_the_span_with_its_stack(recorded: Recorded) -> None:
    async def handler(call: Call) -> object:
        try:
            raise LookupError("no such desk")
        except LookupError as error:
            call.outcome, call.error = "INTERNAL", error
        return None

    await run(Tracing(recorded.tracer), ASK, handler)

    (event,) = recorded.one().events
    attributes = dict(event.attributes or {})
    assert (attributes["exception.type"], attributes["exception.message"]) == ("LookupError", "no such desk")
    assert 'raise LookupError("no such desk")' in str(attributes["exception.stacktrace"])


async def test_what_a_middleware_outside_of_the_errors_raises_is_on_the_span_too(recorded: Recorded) -> None:
    async def handler(call: Call) -> object:
        raise LookupError("no such desk")

    with pytest.raises(LookupError):
        await run(Tracing(recorded.tracer), ASK, handler)

    span = recorded.one()
    assert [event.name for event in span.events] == ["exception"]
    assert dict(span.attributes or {})["error.type"] == "UNKNOWN"
    assert span.status.status_code is StatusCode.ERROR


async def test_a_call_that_its_caller_cancels_is_no_error(recorded: Recorded) -> None:
    started = asyncio.Event()

    async def handler(call: Call) -> object:
        started.set()
        call.outcome = "CANCELLED"
        await asyncio.Event().wait()
        return None

    task = asyncio.create_task(run(Tracing(recorded.tracer), ASK, handler))
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    span = recorded.one()
    assert (span.events, span.status.status_code) == ((), StatusCode.UNSET)
    assert dict(span.attributes or {})["rpc.response.status_code"] == "CANCELLED"


@pytest.mark.req("R10.1")
async def test_an_event_is_a_consumer_span_that_says_which_event_it_was(recorded: Recorded) -> None:
    await run(Tracing(recorded.tracer), EVENT, ends("SUCCESS"))

    span = recorded.one()
    assert (span.name, span.kind, span.status.status_code) == ("process asked", SpanKind.CONSUMER, StatusCode.UNSET)
    assert dict(span.attributes or {}) == {
        "messaging.system": "dapr",
        "messaging.operation.type": "process",
        "messaging.operation.name": "process",
        "messaging.destination.name": "asked",
        "messaging.message.id": "e7",
        "dapr.pubsub.name": "events",
        "cloudevents.event_id": "e7",
        "cloudevents.event_type": "desk.v1.Asked",
        "cloudevents.event_source": "orders",
        "apibase.kind": "event",
        "apibase.verdict": "SUCCESS",
        "code.function.name": "desk.v1.DeskEvents.OnAsked",
    }


@pytest.mark.parametrize(
    ("outcome", "reason", "error", "error_type"),
    [
        ("RETRY", "not now", ServiceError(grpc.StatusCode.UNAVAILABLE, "LATER", "not now"), "ServiceError"),
        ("RETRY", "cancelled", None, "RETRY"),
        ("DROP", "left to the sidecar", None, "DROP"),
        ("SUCCESS", "dead letter on asked.dead", LookupError("no desk"), "LookupError"),
        ("SUCCESS", "repeated: e7", None, None),
    ],
)
async def test_a_delivery_that_was_not_handled_is_an_error_whatever_the_sidecar_is_told(
    recorded: Recorded, outcome: str, reason: str, error: Exception | None, error_type: str | None
) -> None:
    await run(Tracing(recorded.tracer), EVENT, ends(outcome, reason, error))

    span = recorded.one()
    attributes = dict(span.attributes or {})
    assert (attributes["apibase.verdict"], attributes["apibase.reason"]) == (outcome, reason)
    assert attributes.get("error.type") == error_type
    assert span.status.status_code is (StatusCode.ERROR if error_type else StatusCode.UNSET)
    assert len(span.events) == (error is not None)


@pytest.mark.req("R2.5", "R10.1")
@pytest.mark.parametrize(
    ("header", "event", "parent", "linked"),
    [
        pytest.param(None, None, None, None, id="no trace at all: a root"),
        pytest.param((TRACE, "1" * 16, "01"), None, (TRACE, "1" * 16), None, id="the sidecar's alone"),
        pytest.param(None, (TRACE, CALLER, "01"), (TRACE, CALLER), None, id="the event's alone"),
        pytest.param(
            (TRACE, "1" * 16, "01"), (TRACE, CALLER, "01"), (TRACE, "1" * 16), None, id="the sidecar continues it"
        ),
        pytest.param((OTHER, "1" * 16, "01"), (TRACE, CALLER, "01"), (TRACE, CALLER), OTHER, id="two traces"),
        pytest.param((OTHER, "1" * 16, "00"), (TRACE, CALLER, "01"), (TRACE, CALLER), None, id="its own has no span"),
        pytest.param((TRACE, "1" * 16, "01"), ("0" * 32, "0" * 16, "00"), (TRACE, "1" * 16), None, id="zeros"),
    ],
)
async def test_an_event_goes_on_in_its_publishers_trace_and_is_linked_to_the_sidecars_where_that_is_another(
    recorded: Recorded,
    header: tuple[str, str, str] | None,
    event: tuple[str, str, str] | None,
    parent: tuple[str, str] | None,
    linked: str | None,
) -> None:
    headers = {"traceparent": "-".join(("00", *header))} if header else {}
    extensions: dict[str, object] = {"traceparent": "-".join(("00", *event))} if event else {}

    await run(Tracing(recorded.tracer), EVENT, ends("SUCCESS"), headers, extensions)

    span = recorded.one()
    above = span.parent and (format_trace_id(span.parent.trace_id), format_span_id(span.parent.span_id))
    assert above == parent
    assert [format_trace_id(link.context.trace_id) for link in span.links] == ([linked] if linked else [])


@pytest.mark.req("R2.5")
@pytest.mark.parametrize("sidecars", [TRACE, OTHER], ids=["the sidecar continues it", "the sidecar has another trace"])
async def test_the_tracestate_is_that_of_the_events_trace(recorded: Recorded, sidecars: str) -> None:
    seen: list[dict[str, str]] = []

    async def handler(call: Call) -> object:
        seen.append(outbound_headers())
        return None

    headers = {"traceparent": f"00-{sidecars}-{'1' * 16}-01"} | ({} if sidecars == TRACE else {"tracestate": "o=1"})
    extensions = {"traceparent": SAMPLED, "tracestate": "shelf=7"}
    await run(Tracing(recorded.tracer), EVENT, handler, headers, extensions)
    await run(Tracing(recorded.tracer), EVENT, handler, headers, {"traceparent": SAMPLED})

    assert [headers.get("tracestate") for headers in seen] == ["shelf=7", None]


@pytest.mark.req("R2.5", "R10.4")
@pytest.mark.parametrize("with_tracer", [True, False])
async def test_within_a_call_ids_baggage_and_state_are_those_of_its_trace_in_tasks_too(
    recorded: Recorded, with_tracer: bool
) -> None:
    seen: list[tuple[tuple[str, str], object, dict[str, str]]] = []

    async def look() -> None:
        seen.append((trace_ids(), baggage.get_baggage("tenant"), outbound_headers()))

    async def handler(call: Call) -> object:
        await look()
        await asyncio.create_task(look())
        return None

    headers = {"traceparent": SAMPLED, "tracestate": "shelf=7", "baggage": "tenant=acme", "x-correlation-id": "c7"}
    await run(Tracing(recorded.tracer if with_tracer else None), ASK, handler, headers)

    here = format_span_id(recorded.one().get_span_context().span_id) if with_tracer else CALLER
    outbound = headers | {"traceparent": f"00-{TRACE}-{here}-01"}
    assert seen == [((TRACE, here), "acme", outbound)] * 2
    assert (trace_ids(), correlation_id(), baggage.get_all()) == (("", ""), "", {})


@pytest.mark.req("R10.1")
async def test_a_call_that_is_not_sampled_has_no_span_and_goes_by_its_callers_ids(recorded: Recorded) -> None:
    seen: list[dict[str, str]] = []

    async def handler(call: Call) -> object:
        assert not trace.get_current_span().is_recording()
        seen.append(outbound_headers())
        return None

    unsampled = SAMPLED.removesuffix("1") + "0"
    await run(Tracing(recorded.tracer), ASK, handler, {"traceparent": unsampled})

    assert seen[0]["traceparent"] == unsampled
    assert recorded.spans == ()


async def test_without_a_tracer_a_call_without_a_trace_begins_one_that_nobody_samples() -> None:
    seen: list[str] = []

    async def handler(call: Call) -> object:
        seen.append(outbound_headers()["traceparent"])
        return None

    await run(Tracing(None), ASK, handler, {})
    await run(Tracing(None), ASK, handler, {})

    assert len(set(seen)) == 2
    assert all(traceparent.endswith("-00") for traceparent in seen)
