"""A span for each call that is sampled, and for every call the ids that tie its log lines and its own calls to it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from opentelemetry import trace
from opentelemetry.trace import Link, SpanKind, Status, StatusCode

from apibase.middleware.base import Middleware
from apibase.middleware.call import RPCS, Kind
from apibase.observability import CORRELATION_HEADER
from apibase.observability.context import enter, extract, leave, new_span_context

if TYPE_CHECKING:
    from collections.abc import Mapping

    from opentelemetry.trace import Span
    from opentelemetry.util.types import AttributeValue

    from apibase.events import EventContext
    from apibase.middleware.call import Call, Proceed, Target
    from apibase.observability.tracing import Tracer

_FINE = frozenset({"OK", "SUCCESS"})
_TRACE_KEYS = frozenset({"traceparent", "tracestate"})
# What the semantic conventions call errors of a server; the others are the caller's own.
_SERVER_ERRORS = frozenset({"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"})


class Tracing(Middleware):
    """Continues the caller's trace, or begins one; with a tracer, in a span of its own where the call is sampled.

    A delivery continues the trace of the event's publisher, and is linked to the sidecar's where that is another one.
    """

    built_in = True

    def __init__(self, tracer: Tracer | None) -> None:
        self._tracer = tracer

    def wrap(self, target: Target, proceed: Proceed) -> Proceed:
        """Have the rest of the chain run within the trace."""
        tracer = self._tracer
        carrier = event_carrier if target.kind is Kind.EVENT else _headers
        if tracer is None:

            async def continued(call: Call) -> object:
                given = carrier(call)
                parent, context = extract(given)
                span = trace.NonRecordingSpan(parent or new_span_context())
                scope = enter(span, context, given.get(CORRELATION_HEADER, ""))
                try:
                    return await proceed(call)
                finally:
                    leave(scope)

            return continued

        name, kind = (
            _span_name(target),
            SpanKind.SERVER if target.kind in RPCS or target.kind is Kind.INVOKE else SpanKind.CONSUMER,
        )
        fixed = _attributes(target)

        async def traced(call: Call) -> object:
            given = carrier(call)
            parent, context = extract(given)
            links = _links(call, parent) if kind is SpanKind.CONSUMER else ()
            span = tracer.begin(name, kind, parent, context, fixed, links)
            scope = enter(span, context, given.get(CORRELATION_HEADER, ""))
            try:
                return await proceed(call)
            finally:
                leave(scope)
                if span.is_recording():
                    _end(span, call)

        return traced


def event_carrier(call: Call) -> Mapping[str, str]:
    """Return the headers that hold an event's trace.

    The event's own `traceparent` names its publisher; daprd's header, where it continues that trace, the delivery.
    """
    event = call.event
    if event is None:
        return call.headers
    published = event.extensions.get("traceparent")
    if not isinstance(published, str) or not _trace_id(published).strip("0"):
        return call.headers
    if _trace_id(call.headers.get("traceparent", "")) == _trace_id(published):
        return call.headers
    return {
        **call.headers,
        **{key: value for key, value in event.extensions.items() if key in _TRACE_KEYS and isinstance(value, str)},
    }


def _headers(call: Call) -> Mapping[str, str]:
    return call.headers


def _trace_id(traceparent: str) -> str:
    return traceparent[3:35]


def _links(call: Call, parent: trace.SpanContext | None) -> tuple[Link, ...]:
    """Return a link to the sidecar's trace, where the event's own is another."""
    sidecars, _ = extract(call.headers)
    if sidecars is None or (parent is not None and sidecars.trace_id == parent.trace_id):
        return ()
    return (Link(sidecars),)


def _span_name(target: Target) -> str:
    if target.kind in RPCS:
        service, _, method = target.name.rpartition(".")
        return f"{service}/{method}"
    if target.kind is Kind.EVENT and target.route is not None:
        return f"process {getattr(target.route, 'topic', '') or target.name}"
    return f"{target.kind} {target.name}" if target.kind is not Kind.INVOKE else target.name


def _attributes(target: Target) -> dict[str, AttributeValue]:
    """Return what the semantic conventions have for every call of a handler."""
    if target.kind in RPCS:
        service, _, method = target.name.rpartition(".")
        return {"rpc.system.name": "grpc", "rpc.method": f"{service}/{method}"}
    if target.kind is Kind.EVENT:
        route = target.route
        return {
            "messaging.system": "dapr",
            "messaging.operation.type": "process",
            "messaging.operation.name": "process",
            "messaging.destination.name": getattr(route, "topic", ""),
            "dapr.pubsub.name": getattr(route, "pubsub_name", ""),
            "code.function.name": target.name,
        }
    return {"dapr.call.kind": str(target.kind), "code.function.name": target.name}


def _end(span: Span, call: Call) -> None:
    """Write down how a call ended."""
    outcome = call.outcome or "UNKNOWN"
    if call.target.kind in RPCS or call.target.kind is Kind.INVOKE:
        span.set_attribute("rpc.response.status_code", outcome)
    else:
        span.set_attribute("dapr.verdict", outcome)
        _describe(span, call.event)
    if call.failure is not None or call.reason:
        span.set_attribute("error.type", call.failure.reason if call.failure is not None else outcome)
    error = call.error
    if error is not None:
        span.record_exception(error)
    if outcome in _SERVER_ERRORS or (
        call.target.kind not in RPCS and outcome not in _FINE and call.target.kind is not Kind.INVOKE
    ):
        span.set_status(Status(StatusCode.ERROR, call.reason))
    span.end()


def _describe(span: Span, event: EventContext | None) -> None:
    if event is None:
        return
    if event.id:
        span.set_attribute("messaging.message.id", event.id)
    if event.type:
        span.set_attribute("cloudevents.event_type", event.type)
    if event.source:
        span.set_attribute("cloudevents.event_source", event.source)
