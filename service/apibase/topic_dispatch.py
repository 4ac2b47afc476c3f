"""A topic event on its way from daprd to its handler, whichever way it came: its attributes, its trace, its handler."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from google.protobuf import json_format
from loguru import logger

from apibase.dead_letters import REPLAY
from apibase.events import EventContext
from apibase.observability import call_context
from apibase.settings import DEFAULT_MAX_BYTES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dapr.proto.runtime.v1 import appcallback_pb2
    from google.protobuf import struct_pb2

    from apibase.delivery import Status, TopicDelivery
    from apibase.routes import Incoming, RouteTable

_TRACE_KEYS = frozenset({"traceparent", "tracestate"})


class TopicDispatch:
    """Has each event delivered to its handler in a route table."""

    def __init__(self, routes: RouteTable, topics: TopicDelivery, max_data_bytes: int = DEFAULT_MAX_BYTES) -> None:
        self._routes = routes
        self._topics = topics
        self._max_data_bytes = max_data_bytes

    async def dispatch(self, incoming: Incoming, path: str, remaining: float | None) -> Status:
        """Have an event handled, within its own trace, and return what daprd is told.

        `path` is the rule that daprd found, `remaining` the seconds that the call has.
        """
        event = incoming.event
        with call_context(_carrier(event)):
            route = self._routes.topic(event, path)
            if handlers := _replayed_for(event):
                route = self._routes.replayed(event, handlers, route)
                if route is None:
                    logger.bind(event_id=event.id).debug(
                        "event {} is published again for {}; acknowledged", event.id, ", ".join(handlers)
                    )
                    return "SUCCESS"
            if route is None and (not event.type or self._routes.is_ambiguous(event)):
                logger.bind(event_id=event.id).warning(
                    "an event on topic {!r} of {!r} has no type, so no handler can be told; dropped",
                    event.topic,
                    event.pubsub_name,
                )
                return "DROP"
            if route is None:
                logger.bind(event_id=event.id).debug(
                    "no handler listens to {} on topic {!r} of {!r}; acknowledged",
                    event.type,
                    event.topic,
                    event.pubsub_name,
                )
                return "SUCCESS"
            taken = incoming if route.any_size else sized(incoming, self._max_data_bytes)
            return await self._topics.deliver(route, taken, remaining)


def sized(incoming: Incoming, max_data_bytes: int) -> Incoming:
    """Return what came, marked where it is larger than a handler takes."""
    return replace(incoming, too_large=True) if len(incoming.data) > max_data_bytes else incoming


def log_unreadable(event_id: str, topic: str, pubsub_name: str) -> None:
    """Say that an event is left to daprd's dead letters because protobuf can't read it (see `callback_requests`)."""
    logger.bind(event_id=event_id).warning(
        "an event on topic {!r} of {!r} can't be read, as one whose extensions are nested too deep; dropped",
        topic,
        pubsub_name,
    )


def topic_event(
    request: appcallback_pb2.TopicEventRequest | appcallback_pb2.TopicEventCERequest,
    pubsub_name: str,
    topic: str,
    headers: Mapping[str, str],
    metadata: Mapping[str, str] | None = None,
) -> EventContext:
    """Return where a topic event came from, of a request that has its CloudEvent."""
    return EventContext(
        kind="topic",
        source=request.source,
        id=request.id,
        type=request.type,
        pubsub_name=pubsub_name,
        topic=topic,
        content_type=request.data_content_type,
        extensions={key: _plain(value) for key, value in request.extensions.fields.items()},
        metadata=dict(metadata or {}),
        headers=headers,
    )


def _plain(value: struct_pb2.Value) -> object:
    """Return an extension's value as JSON has it; one that holds a number which JSON doesn't have, as text."""
    try:
        return json_format.MessageToDict(value)
    except (json_format.Error, ValueError):
        return str(value).strip()


def _replayed_for(event: EventContext) -> list[str]:
    """Return the handlers that a dead letter is published again for; none for any other event."""
    names = event.extensions.get(REPLAY)
    return [name for name in names.split(",") if name] if isinstance(names, str) else []


def _carrier(event: EventContext) -> Mapping[str, str]:
    """Return the headers that hold the event's trace.

    The event's own `traceparent` names its publisher; daprd's header, where it continues that trace, the delivery.
    """
    published = event.extensions.get("traceparent")
    if not isinstance(published, str) or not _trace_id(published).strip("0"):
        return event.headers
    if _trace_id(event.headers.get("traceparent", "")) == _trace_id(published):
        return event.headers
    return {
        **event.headers,
        **{key: value for key, value in event.extensions.items() if key in _TRACE_KEYS and isinstance(value, str)},
    }


def _trace_id(traceparent: str) -> str:
    return traceparent[3:35]
