"""Trace and correlation context of the call in hand: taken from what comes in, put on what goes out.

The trace context is W3C's, held in OpenTelemetry's context; the correlation id travels as `x-correlation-id` and is the
trace id where nobody set one.
"""

from __future__ import annotations

import random
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from opentelemetry.propagators.textmap import TextMapPropagator

CORRELATION_HEADER = "x-correlation-id"

_propagator: TextMapPropagator = TraceContextTextMapPropagator()
_correlation_id: ContextVar[str] = ContextVar("correlation_id", default="")


@contextmanager
def call_context(carrier: Mapping[str, str]) -> Iterator[None]:
    """Make the trace and correlation ids of `carrier` (lower-case header names) those of the calls within.

    Without a valid `traceparent`, a new trace begins.
    """
    context = _propagator.extract(dict(carrier), context=otel_context.Context())
    if not trace.get_current_span(context).get_span_context().is_valid:
        context = trace.set_span_in_context(trace.NonRecordingSpan(_new_span_context()), context)
    token = otel_context.attach(context)
    correlation = _correlation_id.set(carrier.get(CORRELATION_HEADER, ""))
    try:
        yield
    finally:
        _correlation_id.reset(correlation)
        otel_context.detach(token)


def outbound_headers() -> dict[str, str]:
    """Return the headers that carry the current context to another service; empty outside of a call."""
    headers: dict[str, str] = {}
    _propagator.inject(headers)
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


def _new_span_context() -> trace.SpanContext:
    return trace.SpanContext(
        trace_id=random.getrandbits(128) or 1,
        span_id=random.getrandbits(64) or 1,
        is_remote=False,
    )
