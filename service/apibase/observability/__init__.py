"""Logs and the context that ties them to a trace."""

from apibase.observability.context import CORRELATION_HEADER, call_context, correlation_id, outbound_headers, trace_ids
from apibase.observability.log_levels import set_log_level
from apibase.observability.log_loop import prepare_loop
from apibase.observability.log_secrets import hide_in_logs
from apibase.observability.logging import CallLevel, configure_logging, flush_logs, log_outcome

__all__ = [
    "CORRELATION_HEADER",
    "CallLevel",
    "call_context",
    "configure_logging",
    "correlation_id",
    "flush_logs",
    "hide_in_logs",
    "log_outcome",
    "outbound_headers",
    "prepare_loop",
    "set_log_level",
    "trace_ids",
]
