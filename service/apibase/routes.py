"""The route table: which handler takes an event of a topic or binding."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from google.protobuf.message import Message

from apibase.contract import (
    BindingListener,
    ContractError,
    TopicListener,
    is_implemented,
    listeners,
    request_class,
    servicer_contract,
)
from apibase.events import EventContext

Handler = Callable[[Message, EventContext], Awaitable[Message | None]]


@dataclass(frozen=True, slots=True)
class Route:
    """One listener with the handler that takes its events. `name` is the method's full name."""

    name: str
    listener: TopicListener | BindingListener
    request: type[Message]
    handler: Handler


class RouteTable:
    """Every listener of an app. Filled before the server starts, read-only from then on."""

    def __init__(self) -> None:
        self._topics: dict[tuple[str, str], dict[str, Route]] = {}
        self._bindings: dict[str, Route] = {}

    def add(self, servicer: object) -> int:
        """Add the listeners of a servicer and return how many they are; none for a service of rpcs.

        Raises `ContractError` where a listener is not implemented, where two handlers claim the same event, or two
        listeners of a topic disagree on its dead-letter topic: daprd knows one subscription for each topic.
        """
        found = listeners(servicer_contract(servicer))
        for listener in found:
            if not is_implemented(servicer, listener.method):
                name = type(servicer).__qualname__
                message = f"{name} listens to {listener.method.full_name} but does not implement it; add the method"
                raise ContractError(message)
            handler = getattr(servicer, listener.method.name)
            route = Route(listener.method.full_name, listener, request_class(listener.method), handler)
            if isinstance(listener, TopicListener):
                self._add_topic(route, listener)
            else:
                self._add_binding(route, listener)
        return len(found)

    def _add_topic(self, route: Route, listener: TopicListener) -> None:
        by_type = self._topics.setdefault((listener.pubsub_name, listener.topic), {})
        event_type = listener.method.input_type.full_name
        where = f"topic {listener.topic!r} of {listener.pubsub_name!r}"
        if event_type in by_type:
            message = (
                f"{route.name} and {by_type[event_type].name} both listen to {event_type} on {where}; take one away"
            )
            raise ContractError(message)
        for other in by_type.values():
            assert isinstance(other.listener, TopicListener)  # noqa: S101 - an invariant, not input
            if other.listener.dead_letter_topic != listener.dead_letter_topic:
                message = f"{route.name} and {other.name} name different dead-letter topics for {where}; agree on one"
                raise ContractError(message)
        by_type[event_type] = route

    def _add_binding(self, route: Route, listener: BindingListener) -> None:
        if listener.name in self._bindings:
            message = f"{route.name} and {self._bindings[listener.name].name} both listen to binding {listener.name!r}; take one away"
            raise ContractError(message)
        self._bindings[listener.name] = route

    @property
    def subscriptions(self) -> list[TopicListener]:
        """One listener for each topic that is subscribed to."""
        return [listener for routes in self._topics.values() for listener in _first_listener(routes)]

    @property
    def bindings(self) -> list[str]:
        """The names of the input bindings that are listened to."""
        return list(self._bindings)

    def topic(self, pubsub_name: str, topic: str, event_type: str) -> Route | None:
        """Return the route of an event by its CloudEvent type, or None when no handler listens to that type."""
        return self._topics.get((pubsub_name, topic), {}).get(event_type)

    def binding(self, name: str) -> Route | None:
        """Return the route of a binding's events."""
        return self._bindings.get(name)


def _first_listener(routes: dict[str, Route]) -> list[TopicListener]:
    return [route.listener for route in list(routes.values())[:1] if isinstance(route.listener, TopicListener)]
