"""The handlers of topics: which there may be, which of them an event is for, and what daprd is told of them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from dapr.proto.runtime.v1 import appcallback_pb2

from apibase.contract import ContractError
from apibase.contract.match_guard import guarded

if TYPE_CHECKING:
    from collections.abc import Collection

    from apibase.events import EventContext
    from apibase.routes.route import TopicRoute

DEFAULT_PATH = "(default)"
"""The route that daprd is told for events that match no rule; it would drop them without one. No handler has such a name."""

GENERIC_EVENT_TYPE = "com.dapr.event.sent"
"""The CloudEvent type that daprd gives to events of publishers that name none."""

_NO_TYPE = frozenset({GENERIC_EVENT_TYPE, ""})

_BATCH = 100  # daprd's own, where a contract names no size; its components have less

_OF_ALL = ("dead_letter_topic", "metadata", "bulk")
"""What is said of a subscription, so of all its handlers."""


class TopicTable:
    """Every handler of a topic."""

    def __init__(self) -> None:
        self._topics: dict[tuple[str, str], list[TopicRoute]] = {}

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
