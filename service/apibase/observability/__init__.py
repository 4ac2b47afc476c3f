"""Logs and the context that ties them to a trace."""

from apibase.observability.context import CORRELATION_HEADER, call_context, correlation_id, outbound_headers, trace_ids
from apibase.observability.logging import configure_logging

__all__ = [
    "CORRELATION_HEADER",
    "call_context",
    "configure_logging",
    "correlation_id",
    "outbound_headers",
    "trace_ids",
]
