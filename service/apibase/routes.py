"""The route table: which handler takes what daprd brings. Annotations and decorators fill the same one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from dapr.proto.runtime.v1 import appcallback_pb2

from apibase.contract import (
    BindingListener,
    ContractError,
    JobListener,
    Listener,
    TopicListener,
    is_implemented,
    listeners,
    request_class,
    servicer_contract,
    where,
)
from apibase.contract.match_guard import guarded
from apibase.decoding import decode
from apibase.threads import as_async

if TYPE_CHECKING:
    from google.protobuf.descriptor import ServiceDescriptor
    from google.protobuf.message import Message

    from apibase.event_identity import Deduplication
    from apibase.events import EventContext
    from dapr_contract.v1 import annotations_pb2

DEFAULT_PATH = "(default)"
"""The route that daprd is told for events that match no rule; it would drop them without one. No handler has such a name."""

GENERIC_EVENT_TYPE = "com.dapr.event.sent"
"""The CloudEvent type that daprd gives to events of publishers that name none."""

_NO_TYPE = frozenset({GENERIC_EVENT_TYPE, ""})

Headers = tuple[tuple[str, str | bytes], ...]


@dataclass(frozen=True, slots=True)
class Incoming:
    """What daprd brought, before anything is decoded. `request` is daprd's own message."""

    event: EventContext
    data: bytes
    request: Message
    headers: Headers = ()
    """The headers of daprd's call as they came, binary and repeated ones too, but without the app's token."""
    too_large: bool = False
    """Whether its data is more than a handler takes: none is called."""
    message: Message | None = None
    """The contract's message, where it was decoded before its handler is called."""


Handler = Callable[[Incoming], Awaitable[object]]


@dataclass(frozen=True, slots=True)
class Route:
    """A handler, and what it is called for. `name` is the contract's method, or the function's name; `place` where it stands."""

    name: str
    handler: Handler
    place: str = ""
    request: type[Message] | None = None
    """The contract's message; None for a handler that takes what comes."""
    domain: str = "apibase"
    """The proto package that the reasons of the handler's errors belong to."""


@dataclass(frozen=True, slots=True)
class TopicRoute(Route):
    """A handler of events on a topic."""

    pubsub_name: str = ""
    topic: str = ""
    event_type: str = ""
    """The CloudEvent type that it takes; empty for any."""
    match: str = ""
    priority: int = 0
    any_topic: bool = False
    """Whether `topic` is a pattern, so that events come with other topics than that."""
    dead_letter_topic: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)
    bulk: annotations_pb2.Bulk | None = None
    any_size: bool = False
    """Whether it takes events that are larger than the setting `max_message_bytes`."""
    deduplication: Deduplication | None = None
    """How an event that was handled before is recognised; None where it is handled again."""


_BATCH = 100  # daprd's own, where a contract names no size; its components have less

_OF_ALL = ("dead_letter_topic", "metadata", "bulk")
"""What is said of a subscription, so of all its handlers."""


@dataclass(frozen=True, slots=True)
class JobRoute(Route):
    """A handler of a job; `options` say how it is scheduled, or None where somebody else schedules it."""

    options: annotations_pb2.Job | None = None


class RouteTable:
    """Every handler of an app. Filled before the server starts, read-only from then on."""

    def __init__(self) -> None:
        self._topics: dict[tuple[str, str], list[TopicRoute]] = {}
        self._bindings: dict[str, Route] = {}
        self._jobs: dict[str, JobRoute] = {}
        self._methods: dict[str, Route] = {}

    def add(self, servicer: object) -> int:
        """Add the listeners of a servicer and return how many they are; none for a service of rpcs.

        Raises `ContractError` where a listener is not implemented, or contradicts another one.
        """
        found = listeners(servicer_contract(servicer))
        for listener in found:
            if not is_implemented(servicer, listener.method):
                raise ContractError(
                    f"{type(servicer).__qualname__} listens to {where(listener.method)} but does not implement it; "
                    "add the method"
                )
            self._add_listener(listener, as_async(getattr(servicer, listener.method.name), None))
        return len(found)

    def declare(self, service: ServiceDescriptor) -> list[Listener]:
        """Add the listeners of a service that nobody implements here, and return them: for who reads contracts, runs nothing.

        Raises `ContractError` as `add` does.
        """
        found = listeners(service)
        for listener in found:
            self._add_listener(listener, _nobody)
        return found

    def _add_listener(self, listener: Listener, behavior: Callable[[Message, EventContext], Awaitable[object]]) -> None:
        method = listener.method
        request = request_class(method)
        name, place, domain = method.full_name, where(method), method.containing_service.file.package
        raw = isinstance(listener, TopicListener) and listener.options.raw_payload
        handler = contract_handler(behavior, request, raw=raw)
        match listener:
            case TopicListener(options=options):
                self.add_topic(
                    TopicRoute(
                        name,
                        handler,
                        place,
                        request,
                        domain,
                        pubsub_name=options.pubsub_name,
                        topic=options.name,
                        event_type="" if raw else listener.event_type,
                        match=options.match,
                        priority=options.priority,
                        dead_letter_topic=options.dead_letter_topic,
                        metadata=dict(options.metadata) | ({"rawPayload": "true"} if raw else {}),
                        bulk=options.bulk if options.HasField("bulk") else None,
                        deduplication=listener.deduplication,
                    )
                )
            case BindingListener():
                self.add_binding(listener.name, Route(name, handler, place, request, domain))
            case JobListener():
                self.add_job(listener.name, JobRoute(name, handler, place, request, domain, options=listener.options))

    def add_topic(self, route: TopicRoute) -> None:
        """Add a handler of a topic. All handlers of one topic make one subscription, so they agree on what it is.

        A handler without a contract leaves open what it doesn't say: the others decide. Of two such handlers with rules of
        one priority, the first comes first.
        """
        routes = self._topics.setdefault((route.pubsub_name, route.topic), [])
        on = f"topic {route.topic!r} of {route.pubsub_name!r}"
        for other in routes:
            both = f"{route.place or route.name} and {other.place or other.name}"
            # A match decides alone: a second one like it would never be tried, whatever its type.
            if route.match == other.match and (route.match or route.event_type == other.event_type):
                what = f"events that match {route.match!r}" if route.match else route.event_type or "every event"
                raise ContractError(f"{both} both listen to {what} on {on}; take one away")
            if route.match and other.match:
                if route.name == other.name:
                    raise ContractError(f"{both} have one name, by which daprd tells rules apart on {on}; rename one")
                if route.priority == other.priority and route.request and other.request:
                    raise ContractError(f"{both} both have priority {route.priority} on {on}; give them an order")
            for setting in _OF_ALL:
                mine, theirs = getattr(route, setting), getattr(other, setting)
                if mine != theirs and (mine or route.request) and (theirs or other.request):
                    name = setting.replace("_", "-").replace("letter-t", "letter t")
                    raise ContractError(f"{both} name different {name} settings for {on}; agree on one")
        routes.append(route)
        for setting in _OF_ALL:
            agreed = next((said for each in routes if (said := getattr(each, setting))), getattr(route, setting))
            routes[:] = [replace(each, **{setting: agreed}) for each in routes]
        self._check_dead_letters(route)

    def _check_dead_letters(self, route: TopicRoute) -> None:
        """Raise `ContractError` where a bad event would go round for ever, from one dead-letter topic to the next."""
        way, topic = [], route.topic
        while topic and topic not in way:
            way.append(topic)
            routes = self._topics.get((route.pubsub_name, topic), [])
            topic = routes[0].dead_letter_topic if routes else ""
        if topic:
            raise ContractError(
                f"{route.place or route.name}: the dead letters of {route.pubsub_name!r} go round for ever, "
                f"{' to '.join([*way, topic])}; name another dead-letter topic"
            )

    def add_binding(self, name: str, route: Route) -> None:
        """Add the handler of an input binding."""
        _add(self._bindings, name, route, f"binding {name!r}")

    def add_job(self, name: str, route: JobRoute) -> None:
        """Add the handler of a job."""
        _add(self._jobs, name, route, f"job {name!r}")

    def add_method(self, name: str, route: Route) -> None:
        """Add the handler of a method that others invoke by its name, without a contract."""
        _add(self._methods, name, route, f"method {name!r}")

    @property
    def subscriptions(self) -> list[appcallback_pb2.TopicSubscription]:
        """What daprd is told: one subscription for each topic."""
        return [_subscription(routes) for routes in self._topics.values()]

    @property
    def largest_batch(self) -> int:
        """The most events that daprd brings in one call."""
        batches = (route.bulk.max_messages_count or _BATCH for route in self.topics if route.bulk is not None)
        return max(batches, default=1)

    @property
    def topics(self) -> list[TopicRoute]:
        """Every handler of a topic."""
        return [route for routes in self._topics.values() for route in routes]

    @property
    def bindings(self) -> Mapping[str, Route]:
        """The handlers of input bindings, by the component's name."""
        return self._bindings

    @property
    def jobs(self) -> Mapping[str, JobRoute]:
        """The handlers of jobs, by the job's name."""
        return self._jobs

    @property
    def methods(self) -> Mapping[str, Route]:
        """The handlers of methods without a contract, by name."""
        return self._methods

    def topic(self, event: EventContext, path: str) -> TopicRoute | None:
        """Return the handler of an event, or None when nobody listens to its type.

        The rule that daprd found (`path`) decides; then the CloudEvent's type; then a handler of any type. An event of a
        publisher that names no type goes to the only handler that there is. An event that came by a pattern has a topic
        of its own: `path` leads to the pattern's handlers, and no path to the only handler of a pattern in its pub/sub.
        """
        routes = self._topics.get((event.pubsub_name, event.topic), [])
        by_rule = next((route for route in routes if route.match and route.name == path), None)
        return by_rule or self._elsewhere(event, path) or _plain(routes, event) or self._of_any_topic(event, path)

    def is_ambiguous(self, event: EventContext) -> bool:
        """Whether an event names no type, and its topic has several handlers that only a type tells apart."""
        routes = self._topics.get((event.pubsub_name, event.topic), [])
        return event.type in _NO_TYPE and sum(not route.match for route in routes) > 1

    def replayed(self, event: EventContext, handlers: Collection[str], found: TopicRoute | None) -> TopicRoute | None:
        """Return the handler of an event that is published again for `handlers`; None where it is for others.

        `found` is the handler that it would have otherwise. The name decides, not rules on its data: they need not match it
        any more as they did.
        """
        if found is not None and found.name in handlers:
            return found
        routes = self._topics.get((event.pubsub_name, event.topic), []) or ([found] if found else [])
        return next((route for route in routes if route.name in handlers), None)

    def _elsewhere(self, event: EventContext, path: str) -> TopicRoute | None:
        """Return the handler that `path` names in a subscription by another topic than the event's."""
        if path in {"", DEFAULT_PATH}:
            return None
        pattern = [route for route in self._topics.get((event.pubsub_name, path), []) if route.any_topic]
        named = (route for route in self.topics if route.pubsub_name == event.pubsub_name and route.match)
        return _plain(pattern, event) or next((route for route in named if route.name == path), None)

    def _of_any_topic(self, event: EventContext, path: str) -> TopicRoute | None:
        if path:
            return None
        found = [
            route
            for route in self.topics
            if route.any_topic and not route.match and route.pubsub_name == event.pubsub_name
        ]
        return found[0] if len(found) == 1 else None


def _plain(routes: list[TopicRoute], event: EventContext) -> TopicRoute | None:
    """Return the handler of an event that no rule matched."""
    plain = [route for route in routes if not route.match]
    for wanted in (event.type, ""):
        for route in plain:
            if route.event_type == wanted:
                return route
    return plain[0] if event.type in _NO_TYPE and len(plain) == 1 else None


async def _nobody(message: Message, _context: EventContext) -> None:
    raise NotImplementedError(f"nobody handles {message.DESCRIPTOR.full_name}")


def contract_handler(
    behavior: Callable[[Message, EventContext], Awaitable[object]], request: type[Message], *, raw: bool
) -> Handler:
    """Return a handler that decodes and validates what comes, then calls a servicer's method."""

    async def handle(incoming: Incoming) -> None:
        message = incoming.message if incoming.message is not None else decode(request, incoming, raw=raw)
        await behavior(message, incoming.event)

    return handle


def _add(table: dict[str, Route] | dict[str, JobRoute], name: str, route: Route, what: str) -> None:
    if name in table:
        other = table[name]
        raise ContractError(
            f"{route.place or route.name} and {other.place or other.name} both listen to {what}; take one away"
        )
    table[name] = route  # type: ignore[assignment]


def _subscription(routes: list[TopicRoute]) -> appcallback_pb2.TopicSubscription:
    first = routes[0]
    subscription = appcallback_pb2.TopicSubscription(
        pubsub_name=first.pubsub_name,
        topic=first.topic,
        dead_letter_topic=first.dead_letter_topic,
        metadata=first.metadata,
    )
    ruled = sorted((route for route in routes if route.match), key=lambda route: route.priority)
    subscription.routes.rules.extend(
        appcallback_pb2.TopicRule(match=guarded(route.match), path=route.name) for route in ruled
    )
    if any(route.any_topic and not route.match for route in routes):
        subscription.routes.default = first.topic
    elif ruled:
        subscription.routes.default = DEFAULT_PATH
    if first.bulk is not None:
        subscription.bulk_subscribe.enabled = True
        subscription.bulk_subscribe.max_messages_count = first.bulk.max_messages_count
        subscription.bulk_subscribe.max_await_duration_ms = first.bulk.max_await_duration_ms
    return subscription
