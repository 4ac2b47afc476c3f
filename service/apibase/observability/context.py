"""Trace and correlation context of the call in hand: taken from what comes in, put on what goes out.

The trace context is W3C's, held in OpenTelemetry's context; the correlation id travels as `x-correlation-id` and is the
trace id where nobody set one.
"""

from __future__ import annotations

import random
import re
from contextvars import ContextVar
from typing import TYPE_CHECKING

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

if TYPE_CHECKING:
    from collections.abc import Mapping

    from opentelemetry.propagators.textmap import TextMapPropagator

CORRELATION_HEADER = "x-correlation-id"

_TRACEPARENT = re.compile("00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")
_propagator: TextMapPropagator = TraceContextTextMapPropagator()
Ids = tuple[int, int, str]
"""A trace id, a span id (both 0 outside of a call), and the correlation id that the caller gave, if it gave one."""

_call_ids: ContextVar[Ids] = ContextVar("call_ids", default=(0, 0, ""))
_correlation_id: ContextVar[str] = ContextVar("correlation_id", default="")


class call_context:  # noqa: N801 - used as a function is
    """Make the trace and correlation ids of `carrier` (lower-case header names) those of the calls within.

    Without a valid `traceparent`, a new trace begins.
    """

    __slots__ = ("_carrier", "_correlation", "_ids", "_token")

    def __init__(self, carrier: Mapping[str, str]) -> None:
        self._carrier = carrier

    def __enter__(self) -> None:
        span, context = _extract(self._carrier)
        correlation = self._carrier.get(CORRELATION_HEADER, "")
        self._token = otel_context.attach(context)
        self._correlation = _correlation_id.set(correlation)
        self._ids = _call_ids.set((span.trace_id, span.span_id, correlation))

    def __exit__(self, *_exc: object) -> None:
        _call_ids.reset(self._ids)
        _correlation_id.reset(self._correlation)
        otel_context.detach(self._token)


def _extract(carrier: Mapping[str, str]) -> tuple[trace.SpanContext, otel_context.Context]:
    """Return the parent that `carrier` names, or a new trace's, and the context that holds it."""
    parent = carrier.get("traceparent")
    span_context = None
    if parent is not None:
        # As most callers have it: the propagator's own way takes several times as long, and each call pays for it.
        plain = _TRACEPARENT.fullmatch(parent) if "tracestate" not in carrier else None
        if plain is None:
            context = _propagator.extract(dict(carrier), context=otel_context.Context())
            found = trace.get_current_span(context).get_span_context()
            if found.is_valid:
                return found, context
        else:
            span_context = trace.SpanContext(
                int(plain[1], 16), int(plain[2], 16), is_remote=True, trace_flags=trace.TraceFlags(int(plain[3], 16))
            )
    if span_context is None or not span_context.is_valid:
        span_context = _new_span_context()
    return span_context, trace.set_span_in_context(trace.NonRecordingSpan(span_context), otel_context.Context())


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


def current_ids() -> Ids:
    """Return what ties a log line to its call, not yet as text."""
    span_context = trace.get_current_span().get_span_context()
    return span_context.trace_id, span_context.span_id, _correlation_id.get()


def call_ids() -> Ids:
    """Return the ids of the inbound call itself, whatever spans its handler has begun."""
    return _call_ids.get()


def _new_span_context() -> trace.SpanContext:
    return trace.SpanContext(
        trace_id=random.getrandbits(128) or 1,
        span_id=random.getrandbits(64) or 1,
        is_remote=False,
    )
