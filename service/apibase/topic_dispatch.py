"""A topic event on its way from daprd to its handler, whichever way it came: its attributes, its trace, its handler."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from google.protobuf import json_format
from loguru import logger

from apibase.contract.reasons import chassis_reason
from apibase.dead_letters import REPLAY
from apibase.delivery import incoming_of
from apibase.errors import LeftToSidecar
from apibase.events import EventContext
from apibase.middleware.call import Call, Kind, Target
from apibase.routes import TopicRoute
from apibase.settings import DEFAULT_MAX_BYTES
from dapr_contract.v1 import errors_pb2

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from dapr.proto.runtime.v1 import appcallback_pb2
    from google.protobuf import struct_pb2

    from apibase.middleware.call import Proceed
    from apibase.middleware.chain import Chain
    from apibase.routes import Incoming, Route, RouteTable

_UNDECODABLE = chassis_reason(errors_pb2.ERROR_REASON_UNDECODABLE)

_NOBODY = "(no handler)"


class TopicDispatch:
    """Has each event handled by its handler in a route table, through the chain.

    `own` says that events come down a stream that the app itself has opened.
    """

    def __init__(
        self, routes: RouteTable, chain: Chain, max_data_bytes: int = DEFAULT_MAX_BYTES, *, own: bool = False
    ) -> None:
        self._routes = routes
        self._chain = chain
        self._max_data_bytes = max_data_bytes
        self._own = own
        self._compiled: dict[int, _Compiled] = {}
        # What can't be told a handler ends in the dead letters of its subscription, which daprd knows.
        nobody = TopicRoute(_NOBODY, self._nobody, dead_letter_topic="(the subscription's)", any_size=True)
        self._unhandled = self._compile(nobody)

    async def dispatch(self, incoming: Incoming, path: str, remaining: float | None, token: str = "") -> Call:
        """Have an event handled and return its call, of which the outcome is what daprd is told, unless there is a failure.

        `path` is the rule that daprd found, `remaining` the seconds that the call has.
        """
        event = incoming.event
        route = None if incoming.unreadable else self._routes.topic(event, path)
        if handlers := _replayed_for(event):
            route = self._routes.replayed(event, handlers, route)
        if route is None:
            compiled = self._unhandled
        else:
            found = self._compiled.get(id(route))
            compiled = found if found is not None else self._compile(route)
            if not route.any_size:
                incoming = sized(incoming, self._max_data_bytes)
        call = Call(
            compiled.target,
            incoming.headers,
            event.headers,
            compiled.read,
            remaining=remaining,
            incoming=incoming,
            event=event,
            token=token,
        )
        await compiled.run(call)
        return call

    def _compile(self, route: TopicRoute) -> _Compiled:
        target = Target(
            Kind.EVENT,
            route.name,
            route.domain,
            route.request,
            route=route,
            source=route.topic,
            unhandled=route.name == _NOBODY,
            own=self._own,
        )
        made = self._compiled[id(route)] = _Compiled.of(target, route, self._chain)
        return made

    async def _nobody(self, incoming: Incoming, event: EventContext) -> None:
        """Say why no handler takes an event. Raises `LeftToSidecar` where one may be meant."""
        to_log = logger.bind(event_id=event.id)
        if incoming.unreadable:
            log_unreadable(event.id, event.topic, event.pubsub_name)
            raise LeftToSidecar("the event can't be read", code=_UNDECODABLE)
        if handlers := _replayed_for(event):
            to_log.debug("event {} is published again for {}; acknowledged", event.id, ", ".join(handlers))
        elif not event.type or self._routes.is_ambiguous(event):
            to_log.warning(
                "an event on topic {!r} of {!r} has no type, so no handler can be told; dropped",
                event.topic,
                event.pubsub_name,
            )
            raise LeftToSidecar(f"{event.type or 'no type'} does not tell its handler", code=_UNDECODABLE)
        else:
            to_log.debug(
                "no handler listens to {} on topic {!r} of {!r}; acknowledged",
                event.type,
                event.topic,
                event.pubsub_name,
            )


class _Compiled(NamedTuple):
    """A handler behind the chain. It holds its route, by whose identity it is found."""

    target: Target
    read: Callable[[Call], Any]
    run: Proceed

    @classmethod
    def of(cls, target: Target, route: Route, chain: Chain) -> _Compiled:
        return cls(target, delivery_reader(target, route, chain), chain.compile(target, delivery_handler(route)))


def delivery_reader(target: Target, route: Route, chain: Chain) -> Callable[[Call], Any]:
    """Return what reads a delivery's data for its handler, when it has passed the chain's hooks."""
    hook = chain.request_hook(target)

    def read(call: Call) -> Any:  # noqa: ANN401 - whatever the handler takes
        data = route.read(incoming_of(call))
        return data if hook is None else hook(data)

    return read


def delivery_handler(route: Route) -> Proceed:
    """Return the end of the chain: the route's handler."""

    async def handle(call: Call) -> object:
        return await route.handler(call.request, incoming_of(call).event)

    return handle


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
