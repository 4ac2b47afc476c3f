"""The outbound middleware that every app has."""

from __future__ import annotations

from typing import TYPE_CHECKING

from apibase.clients._spans import CallSpans, end_unmade, end_with
from apibase.clients.outbound import OutboundMiddleware
from apibase.deadline import deadline
from apibase.middleware.call import Kind
from apibase.observability import outbound_headers

if TYPE_CHECKING:
    from collections.abc import Mapping

    import grpc
    from opentelemetry.util.types import AttributeValue

    from apibase.clients.outbound import OutboundCall, OutboundTarget, Start

_TOKEN_HEADER = "dapr-api-token"  # noqa: S105 - a header's name


class Tracing(OutboundMiddleware):
    """Carries the trace, the baggage and the correlation id on; a span where the current one is recorded."""

    def __init__(self, sidecar: Mapping[str, AttributeValue]) -> None:
        self._sidecar = sidecar

    def wrap(self, target: OutboundTarget, start: Start) -> Start:
        """Put the headers of the current span, or of the call's own, on the call."""
        # Behind the sidecar, it is the app that answers.
        server = {"server.address": target.app_id} if target.app_id else self._sidecar
        spans = CallSpans(target.method, server)

        def traced(call: OutboundCall) -> grpc.aio.Call:
            begun = spans.begin(call.request)
            if begun is None:
                for name, value in outbound_headers().items():
                    call.set_header(name, value)
                return start(call)
            span, call.request = begun
            for name, value in outbound_headers(span).items():
                call.set_header(name, value)
            try:
                made = start(call)
            except BaseException as error:
                end_unmade(span, error)
                raise
            end_with(span, made)
            return made

        return traced


class Deadline(OutboundMiddleware):
    """Gives a call what is left of the inbound call's time; a unary one without any deadline the setting `call_timeout`."""

    def __init__(self, call_timeout: float) -> None:
        self._call_timeout = call_timeout

    def wrap(self, target: OutboundTarget, start: Start) -> Start:
        """Bound the call's timeout."""
        default = self._call_timeout if target.kind is Kind.UNARY else None

        def bounded(call: OutboundCall) -> grpc.aio.Call:
            call.timeout = deadline.bound(call.timeout if call.timeout is not None else default)
            return start(call)

        return bounded


class Identity(OutboundMiddleware):
    """Puts on a call what the sidecar asks for: its token, and the app that is called."""

    def __init__(self, token: str) -> None:
        self._token = token

    def wrap(self, target: OutboundTarget, start: Start) -> Start:
        """Put the headers on the call, unless the caller has."""
        headers = [(_TOKEN_HEADER, self._token)] if self._token else []
        if target.app_id:
            headers.append(("dapr-app-id", target.app_id))
            if target.kind is not Kind.UNARY:
                # Without it, a timeout policy of the sidecar kills a proxied stream.
                headers.append(("dapr-stream", "true"))

        def identified(call: OutboundCall) -> grpc.aio.Call:
            for name, value in headers:
                call.set_header(name, value)
            return start(call)

        return identified
