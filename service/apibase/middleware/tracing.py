"""A span for each call that is sampled, and for every call the ids that tie its log lines and its own calls to it.

Names, attributes and what counts as an error are OpenTelemetry's semantic conventions for rpc and messaging; docs/tracing.md
has them. What the conventions lack begins with `dapr.` or `apibase.`.
"""

from __future__ import annotations

import asyncio
import re
from random import getrandbits
from typing import TYPE_CHECKING

from opentelemetry import trace
from opentelemetry.sdk.trace.sampling import TraceIdRatioBased
from opentelemetry.trace import Link, SpanKind, Status, StatusCode

from apibase.middleware.base import Middleware
from apibase.middleware.call import CALLS, RPCS, Kind
from apibase.middleware.hooks import Hooks
from apibase.observability import CORRELATION_HEADER
from apibase.observability.context import (
    BEYOND_TRACEPARENT,
    enter,
    enter_unsampled,
    extract,
    leave,
    new_span_context,
)
from apibase.observability.log_secrets import without_secrets
from apibase.observability.tracing import record_error

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from opentelemetry.trace import Span, SpanContext
    from opentelemetry.util.types import AttributeValue

    from apibase.events import EventContext
    from apibase.middleware.call import Call, Target
    from apibase.observability.tracing import Tracer

_UNSAMPLED = re.compile("00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f][02468ace])")
_ENTERED = -1
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

    def hooks(self, target: Target) -> Hooks:
        """Have the rest of the chain run within the trace."""
        carrier = event_carrier if target.kind is Kind.EVENT else _headers
        bound = 0 if self._tracer is None else self._tracer.root_bound
        # An rpc has a task of its own, from which nothing has to be taken back.
        without_span = _without_span(bound) if target.kind in RPCS and bound is not None else None
        begin = None if self._tracer is None else self._tracer.begin
        is_call = target.kind in CALLS
        kind = SpanKind.SERVER if is_call else SpanKind.CONSUMER
        name, fixed, end = _span_name(target), _attributes(target), _end_call if is_call else _end_delivery

        def enter_trace(call: Call) -> None:
            root_id = 0 if without_span is None else without_span(call.headers)
            if root_id == _ENTERED:
                return
            given = carrier(call)
            parent, context = extract(given)
            if begin is None:
                span: Span = trace.NonRecordingSpan(parent or new_span_context())
            else:
                span = begin(name, kind, parent, context, fixed, () if is_call else _links(call, parent), root_id)
            scope = enter(span, context, given.get(CORRELATION_HEADER, ""))
            call.trace = span if span.is_recording() else None, scope

        def leave_trace(call: Call) -> None:
            if call.trace is None:
                return
            span, scope = call.trace
            leave(scope)
            if span is not None:
                end(span, call)

        return Hooks(before=enter_trace, after=leave_trace, failed=_note)


def _note(call: Call, error: BaseException) -> None:
    if call.error is None:
        call.error = error


def _without_span(root_bound: int) -> Callable[[Mapping[str, str]], int]:
    """Return what enters the trace of an rpc that is not sampled, as most are, for a fraction of what OpenTelemetry's objects cost.

    It returns `_ENTERED` where that was all; otherwise the trace id that a root is to have, 0 where the caller has one.
    """

    def enter_it(headers: Mapping[str, str]) -> int:
        if not BEYOND_TRACEPARENT.isdisjoint(headers):
            return 0
        traceparent = headers.get("traceparent")
        if traceparent is None:
            trace_id = getrandbits(128) or 1
            if trace_id & TraceIdRatioBased.TRACE_ID_LIMIT < root_bound:
                return trace_id
            span_id, is_remote = getrandbits(64) or 1, False
        else:
            unsampled = _UNSAMPLED.fullmatch(traceparent)
            if unsampled is None:
                return 0
            trace_id, span_id, is_remote = int(unsampled[1], 16), int(unsampled[2], 16), True
            if not trace_id or not span_id:
                return 0
        enter_unsampled(trace_id, span_id, headers.get(CORRELATION_HEADER, ""), is_remote=is_remote)
        return _ENTERED

    return enter_it


def event_carrier(call: Call) -> Mapping[str, str]:
    """Return the headers that hold an event's trace.

    The event's own `traceparent` names its publisher; daprd's header, where it continues that trace, the delivery. The
    `tracestate` is the event's in both cases: daprd has none on a delivery.
    """
    event = call.event
    if event is None:
        return call.headers
    published = event.extensions.get("traceparent")
    if not isinstance(published, str) or not _trace_id(published).strip("0"):
        return call.headers
    headers = {key: value for key, value in call.headers.items() if key not in _TRACE_KEYS}
    delivery = call.headers.get("traceparent", "")
    headers["traceparent"] = delivery if _trace_id(delivery) == _trace_id(published) else published
    state = event.extensions.get("tracestate")
    return {**headers, "tracestate": state} if isinstance(state, str) and state else headers


def _headers(call: Call) -> Mapping[str, str]:
    return call.headers


def _trace_id(traceparent: str) -> str:
    return traceparent[3:35]


def _links(call: Call, parent: SpanContext | None) -> tuple[Link, ...]:
    """Return a link to the sidecar's span, where it recorded one in another trace than the event's."""
    sidecars, _ = extract(call.headers)
    if sidecars is None or not sidecars.trace_flags.sampled:
        return ()
    if parent is not None and sidecars.trace_id == parent.trace_id:
        return ()
    return (Link(sidecars),)


def _span_name(target: Target) -> str:
    if target.kind in RPCS:
        return _method(target)
    if target.kind is Kind.EVENT:
        return f"process {target.source}"
    return f"{target.kind} {target.source or target.name}"


def _method(target: Target) -> str:
    service, _, method = target.name.rpartition(".")
    return f"{service}/{method}"


def _attributes(target: Target) -> dict[str, AttributeValue]:
    """Return what is the same for every call of a handler."""
    if target.kind in RPCS:
        return {"rpc.system.name": "grpc", "rpc.method": _method(target)}
    own: dict[str, AttributeValue] = {"apibase.kind": str(target.kind), "code.function.name": target.name}
    if target.kind is Kind.EVENT:
        return {
            "messaging.system": "dapr",
            "messaging.operation.type": "process",
            "messaging.operation.name": "process",
            "messaging.destination.name": target.source,
            "dapr.pubsub.name": getattr(target.route, "pubsub_name", ""),
            **own,
        }
    if target.kind is Kind.INVOKE:
        return {"rpc.system.name": "grpc", "rpc.method": "dapr.proto.runtime.v1.AppCallback/OnInvoke", **own}
    return own


def _end_call(span: Span, call: Call) -> None:
    """Write down how a call of another app ended. What is the caller's own fault is no error of this service."""
    code = call.outcome or "UNKNOWN"
    span.set_attribute("rpc.response.status_code", code)
    _end(span, call, code if code in _SERVER_ERRORS else "")


def _end_delivery(span: Span, call: Call) -> None:
    """Write down what became of a delivery. One that was not handled is an error, also where that is the end of it."""
    outcome = call.outcome or "UNKNOWN"
    span.set_attribute("apibase.verdict", outcome)
    _describe(span, call.event)
    error = call.error
    failed = outcome not in _FINE or error is not None
    _end(span, call, (type(error).__qualname__ if error is not None else outcome) if failed else "")


def _end(span: Span, call: Call, error_type: str) -> None:
    reason = without_secrets(call.reason) if call.reason else ""
    if reason:
        span.set_attribute("apibase.reason", reason)
    if call.error is not None and not isinstance(call.error, asyncio.CancelledError):
        record_error(span, call.error)
    if error_type:
        span.set_attribute("error.type", error_type)
        span.set_status(Status(StatusCode.ERROR, reason or None))
    span.end()


def _describe(span: Span, event: EventContext | None) -> None:
    if event is None:
        return
    described = {
        "messaging.message.id": event.id,
        "cloudevents.event_id": event.id,
        "cloudevents.event_type": event.type,
        "cloudevents.event_source": event.source,
    }
    span.set_attributes({key: value for key, value in described.items() if value})
