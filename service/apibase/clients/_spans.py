"""Spans of outbound calls: a CLIENT span for each call, a PRODUCER span where it publishes.

Only calls within a span that is recorded get one, so a call that is not sampled pays one look at the current span.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import grpc
from dapr.proto import api_v1
from opentelemetry import trace
from opentelemetry.trace import SpanKind, Status, StatusCode

from apibase.clients.publication import CLOUD_EVENT, RAW, TRACEPARENT, retraced
from apibase.observability import outbound_headers
from apibase.observability.log_secrets import without_secrets
from apibase.observability.tracing import current_tracer, record_error

if TYPE_CHECKING:
    from collections.abc import Coroutine, Mapping, MutableMapping

    from opentelemetry.trace import Span
    from opentelemetry.util.types import AttributeValue

T = TypeVar("T")

_DAPR = "dapr.proto.runtime.v1.Dapr"
_PUBLISH = f"{_DAPR}/PublishEvent"
_BULK_PUBLISH = frozenset({f"{_DAPR}/BulkPublishEvent", f"{_DAPR}/BulkPublishEventAlpha1"})


class CallSpans:
    """Spans of the calls of one method. `server` is who answers it, by the attributes `server.address` and `server.port`."""

    def __init__(self, path: str, server: Mapping[str, AttributeValue]) -> None:
        self._name = path.lstrip("/")
        self._attributes: dict[str, AttributeValue] = {
            "rpc.system.name": "grpc",
            "rpc.method": self._name,
            **server,
        }
        self._publishes = self._name == _PUBLISH or self._name in _BULK_PUBLISH

    def begin(self, request: Any) -> tuple[Span, Any] | None:  # noqa: ANN401 - of whatever method
        """Return the span of a call that is to be made now, and the request to make it with; None where there is no span.

        An event that is published carries the span on, unless its publisher has put another trace on it. A batch has one span, which
        each of its events carries on; one that is raw has no place for it.
        """
        if not trace.get_current_span().is_recording():
            return None
        tracer = current_tracer()
        if not self._publishes:
            return tracer.start_span(self._name, kind=SpanKind.CLIENT, attributes=self._attributes), request
        event = request
        span = tracer.start_span(
            f"publish {event.topic}", kind=SpanKind.PRODUCER, attributes=self._attributes | self._published(event)
        )
        if self._name in _BULK_PUBLISH:
            return span, _batch_carrying(request, span)
        return span, _carrying(request, span)

    def _published(self, event: api_v1.PublishEventRequest | api_v1.BulkPublishRequest) -> dict[str, AttributeValue]:
        attributes: dict[str, AttributeValue] = {
            "messaging.system": "dapr",
            "messaging.operation.type": "send",
            "messaging.operation.name": "publish",
            "messaging.destination.name": event.topic,
            "dapr.pubsub.name": event.pubsub_name,
        }
        if isinstance(event, api_v1.BulkPublishRequest):
            attributes["messaging.batch.message_count"] = len(event.entries)
        elif id_ := event.metadata.get("cloudevent.id", ""):
            attributes["messaging.message.id"] = id_
        return attributes


def _carrying(event: api_v1.PublishEventRequest, span: Span) -> api_v1.PublishEventRequest:
    if RAW in event.metadata:
        return event
    carrying = type(event)()
    carrying.CopyFrom(event)  # The caller's own stays as it is: it may be published again, in another trace.
    ids = _ids(span)
    carrying.data = _put_on(carrying.metadata, event.data, event.data_content_type, ids)
    return carrying


def _batch_carrying(batch: api_v1.BulkPublishRequest, span: Span) -> api_v1.BulkPublishRequest:
    if RAW in batch.metadata:
        return batch
    carrying = type(batch)()
    carrying.CopyFrom(batch)
    ids = _ids(span)
    for entry in carrying.entries:
        entry.event = _put_on(entry.metadata, entry.event, entry.content_type, ids)
    return carrying


def _ids(span: Span) -> tuple[str, str]:
    """Return what an event has whose publisher has put no other trace on it, and what it is to have."""
    return outbound_headers().get("traceparent", ""), outbound_headers(span)["traceparent"]


def _put_on(metadata: MutableMapping[str, str], data: bytes, content_type: str, ids: tuple[str, str]) -> bytes:
    """Put the span on an event: into its metadata, or, where it is a whole CloudEvent, into the data that is returned."""
    current, own = ids
    if content_type == CLOUD_EVENT:
        return retraced(data, current, own) if current else data
    if metadata.get(TRACEPARENT, current) == current:
        metadata[TRACEPARENT] = own
    return data


def end_with(span: Span, call: grpc.aio.Call) -> None:
    """End a span when its call ends, with the call's status."""
    call.add_done_callback(partial(_end, span))


def end_unmade(span: Span, error: BaseException) -> None:
    """End the span of a call that could not be made."""
    span.set_attribute("error.type", type(error).__qualname__)
    record_error(span, error)
    span.set_status(Status(StatusCode.ERROR))
    span.end()


def _end(span: Span, call: grpc.aio.Call) -> None:
    code = _at_once(call.code())
    if code is not None:
        span.set_attribute("rpc.response.status_code", code.name)
    if code is not grpc.StatusCode.OK:
        span.set_attribute("error.type", code.name if code is not None else "_OTHER")
        span.set_status(Status(StatusCode.ERROR, without_secrets(_at_once(call.details()) or "") or None))
    span.end()


def _at_once(answer: Coroutine[Any, Any, T]) -> T | None:
    """Return what is known already of a call that is over, though gRPC has it behind a coroutine; None where it is not."""
    try:
        answer.send(None)
    except StopIteration as done:
        known: T = done.value
        return known
    answer.close()
    return None
