"""A subscription: what daprd knows of it, and which of its routes an event takes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from apibase.testing.stand_in.cel import RuleNotSupported, compile_rule

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from dapr.proto.runtime.v1 import appcallback_pb2

    from apibase.testing.stand_in.resources import DeclaredSubscription

_MOST, _WAIT_MS = 100, 1000


class Postman(Protocol):
    """Brings events to whoever listens."""

    async def deliver(self, request: appcallback_pb2.TopicEventRequest, headers: Mapping[str, str]) -> str:
        """Bring one, and return the verdict: SUCCESS, RETRY, DROP, or a status' name."""

    async def deliver_bulk(
        self, request: appcallback_pb2.TopicEventBulkRequest, headers: Mapping[str, str]
    ) -> Mapping[str, str]:
        """Bring several, and return verdicts by entry; one without a verdict comes again."""


@dataclass(frozen=True)
class Rule:
    """A route: events that match go to `path`. Without a `match` it takes every event."""

    match: str
    path: str
    matches: Callable[[dict[str, Any]], bool] | None

    @classmethod
    def of(cls, match: str, path: str) -> Rule:
        """Return the rule. Raises `RuleNotSupported`."""
        match = match.strip()
        return cls(match, path, compile_rule(match) if match else None)


@dataclass(eq=False)
class Subscription:
    """One subscription of the app. `kind` is `programmatic`, `declarative` or `streaming`."""

    pubsub_name: str
    topic: str
    rules: tuple[Rule, ...]
    postman: Postman
    kind: str = "programmatic"
    dead_letter_topic: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)
    batch: int = 0
    """The most events of a batch; 0: they come one by one."""
    batch_wait: float = 0.0
    """Seconds that a batch is waited for."""

    @property
    def raw(self) -> bool:
        """Whether records are no CloudEvents."""
        return self.metadata.get("rawPayload", "").lower() == "true"

    def path(self, event: Any) -> str | None:  # noqa: ANN401 - a CloudEvent, or what a raw batch has
        """Return the path of the first rule that matches; None where none does. Raises `RuleError`."""
        return next((rule.path for rule in self.rules if rule.matches is None or rule.matches({"event": event})), None)


def from_app(told: appcallback_pb2.TopicSubscription, postman: Postman) -> Subscription:
    """Return what an app has answered to `ListTopicSubscriptions`. Raises `RuleNotSupported`, which names the topic."""
    rules = [(rule.match, rule.path) for rule in told.routes.rules] if told.HasField("routes") else []
    if told.routes.default or not rules:
        rules.append(("", told.routes.default))
    bulk = told.bulk_subscribe
    return Subscription(
        told.pubsub_name,
        told.topic,
        _rules(told.topic, rules),
        postman,
        "programmatic",
        told.dead_letter_topic,
        dict(told.metadata),
        (bulk.max_messages_count or _MOST) if bulk.enabled else 0,
        (bulk.max_await_duration_ms or _WAIT_MS) / 1000,
    )


def from_file(told: DeclaredSubscription, postman: Postman) -> Subscription:
    """Return what a resource file declares. Raises `RuleNotSupported`, which names the topic."""
    most, wait = told.bulk or (0, 0)
    return Subscription(
        told.pubsub_name,
        told.topic,
        _rules(told.topic, list(told.rules)),
        postman,
        "declarative",
        told.dead_letter_topic,
        told.metadata,
        (most or _MOST) if told.bulk else 0,
        (wait or _WAIT_MS) / 1000,
    )


def _rules(topic: str, pairs: list[tuple[str, str]]) -> tuple[Rule, ...]:
    try:
        return tuple(Rule.of(match, path) for match, path in pairs)
    except RuleNotSupported as error:
        raise RuleNotSupported(f"topic {topic!r}: {error}") from None
