"""Trace and correlation context of the call in hand: taken from what comes in, put on what goes out.

The trace context is W3C's, held in OpenTelemetry's context; the correlation id travels as `x-correlation-id` and is the
trace id where nobody set one.
"""

from __future__ import annotations

import random
import re
from contextvars import ContextVar, Token
from typing import TYPE_CHECKING

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.baggage.propagation import W3CBaggagePropagator
from opentelemetry.context import Context
from opentelemetry.propagators.composite import CompositePropagator
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

if TYPE_CHECKING:
    from collections.abc import Mapping

    from opentelemetry.propagators.textmap import TextMapPropagator

CORRELATION_HEADER = "x-correlation-id"

_TRACEPARENT = re.compile("00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")
_EMPTY = Context()
BEYOND_TRACEPARENT = frozenset({"tracestate", "baggage"})
"""What else of a trace a caller may send."""
_SPAN_KEY = next(iter(trace.set_span_in_context(trace.INVALID_SPAN, _EMPTY)))
_propagator: TextMapPropagator = CompositePropagator([TraceContextTextMapPropagator(), W3CBaggagePropagator()])
Ids = tuple[int, int, str]
"""A trace id, a span id (both 0 outside of a call), and the correlation id that the caller gave, if it gave one."""

_call_ids: ContextVar[Ids] = ContextVar("call_ids", default=(0, 0, ""))
_correlation_id: ContextVar[str] = ContextVar("correlation_id", default="")


class call_context:  # noqa: N801 - used as a function is
    """Make the trace and correlation ids of `carrier` (lower-case header names) those of the calls within.

    Without a valid `traceparent`, a new trace begins.
    """

    __slots__ = ("_carrier", "_scope")

    def __init__(self, carrier: Mapping[str, str]) -> None:
        self._carrier = carrier

    def __enter__(self) -> None:
        parent, context = extract(self._carrier)
        span = trace.NonRecordingSpan(parent or new_span_context())
        self._scope = enter(span, context, self._carrier.get(CORRELATION_HEADER, ""))

    def __exit__(self, *_exc: object) -> None:
        leave(self._scope)


Scope = tuple[Token[Context], Token[str], Token[Ids]]
"""What `leave` takes back."""


def enter(span: trace.Span, context: Context, correlation: str) -> Scope:
    """Make a span the current one, within `context`, and its ids and the correlation id those of the call."""
    ids = span.get_span_context()
    return (
        otel_context.attach(trace.set_span_in_context(span, context)),
        _correlation_id.set(correlation),
        _call_ids.set((ids.trace_id, ids.span_id, correlation)),
    )


class _Ids(trace.NonRecordingSpan):
    """A span of which there are only ids; OpenTelemetry's own object of them is made when somebody asks."""

    __slots__ = ("_ids", "_is_remote", "_made")

    def __init__(self, trace_id: int, span_id: int, *, is_remote: bool) -> None:
        self._ids = trace_id, span_id
        self._is_remote = is_remote
        self._made: trace.SpanContext | None = None

    def get_span_context(self) -> trace.SpanContext:
        """Return the ids, not sampled."""
        if self._made is None:
            self._made = trace.SpanContext(*self._ids, is_remote=self._is_remote)
        return self._made


def enter_unsampled(trace_id: int, span_id: int, correlation: str, *, is_remote: bool) -> None:
    """Make the ids of a call that is not sampled current for the rest of its task, which is its own: nothing takes it back."""
    otel_context.attach(Context({_SPAN_KEY: _Ids(trace_id, span_id, is_remote=is_remote)}))
    if correlation:
        _correlation_id.set(correlation)
    _call_ids.set((trace_id, span_id, correlation))


def leave(scope: Scope) -> None:
    """Undo `enter`."""
    context, correlation, ids = scope
    _call_ids.reset(ids)
    _correlation_id.reset(correlation)
    otel_context.detach(context)


def extract(carrier: Mapping[str, str]) -> tuple[trace.SpanContext | None, Context]:
    """Return the parent that `carrier` names, if it does, and the context that holds it, with the baggage."""
    if BEYOND_TRACEPARENT.isdisjoint(carrier):
        # As most callers have it: the propagators' own way takes several times as long, and each call pays for it.
        parent = carrier.get("traceparent")
        if parent is None:
            return None, _EMPTY
        plain = _TRACEPARENT.fullmatch(parent)
        if plain is not None:
            found = trace.SpanContext(
                int(plain[1], 16), int(plain[2], 16), is_remote=True, trace_flags=trace.TraceFlags(int(plain[3], 16))
            )
            if found.is_valid:
                return found, trace.set_span_in_context(trace.NonRecordingSpan(found), _EMPTY)
    context = _propagator.extract(dict(carrier), context=_EMPTY)
    found = trace.get_current_span(context).get_span_context()
    return (found if found.is_valid else None), context


def outbound_headers(span: trace.Span | None = None) -> dict[str, str]:
    """Return the headers that carry the current context to another service; empty outside of a call.

    `span` is that of the outbound call itself, where it has one.
    """
    headers: dict[str, str] = {}
    _propagator.inject(headers, None if span is None else trace.set_span_in_context(span))
    correlation = correlation_id()
    if correlation:
        headers[CORRELATION_HEADER] = correlation
    return headers


def trace_ids() -> tuple[str, str]:
    """Return the current trace id and span id in hex, or two empty strings outside of a call."""
    span_context = trace.get_current_span().get_span_context()
    if not span_context.is_valid:
        return "", ""
    return trace.format_trace_id(span_context.trace_id), trace.format_span_id(span_context.span_id)


def correlation_id() -> str:
    """Return the current correlation id: the caller's, or else the trace id."""
    return _correlation_id.get() or trace_ids()[0]


def current_ids() -> Ids:
    """Return what ties a log line to its call, not yet as text."""
    span_context = trace.get_current_span().get_span_context()
    return span_context.trace_id, span_context.span_id, _correlation_id.get()


def call_ids() -> Ids:
    """Return the ids of the inbound call itself, whatever spans its handler has begun."""
    return _call_ids.get()


def new_span_context() -> trace.SpanContext:
    """Return the ids of a new trace that is not sampled."""
    return trace.SpanContext(
        trace_id=random.getrandbits(128) or 1,
        span_id=random.getrandbits(64) or 1,
        is_remote=False,
    )
