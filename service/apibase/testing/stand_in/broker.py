"""Topics, and who listens to them."""

from __future__ import annotations

import collections
from typing import TYPE_CHECKING

from loguru import logger

from apibase.testing.stand_in.bulk_delivery import Batches
from apibase.testing.stand_in.delivery import PUBSUB_NAME, deliver
from apibase.testing.stand_in.records import Delivery, Record

if TYPE_CHECKING:
    from collections.abc import Mapping

    from apibase.testing.stand_in.clock import Clock
    from apibase.testing.stand_in.registry import Registry
    from apibase.testing.stand_in.resources import Retries
    from apibase.testing.stand_in.subscription import Subscription
    from apibase.testing.stand_in.work import Work

_FORGETFUL = "pubsub.in-memory"
"""The component that keeps nothing: what is published while nobody listens is gone."""
_ACKNOWLEDGES = frozenset({_FORGETFUL, "pubsub.redis"})
"""Those that under daprd 1.18 never bring again what an app did not take."""
_AGAIN_SECONDS = 1.0


class Broker:
    """Keeps what is published, and has each record brought to one subscription of its topic."""

    def __init__(self, registry: Registry, clock: Clock, work: Work, retries: Mapping[str, Retries]) -> None:
        self.clock = clock
        self.work = work
        self.records: list[Record] = []
        """Everything that was published, the oldest first."""
        self._registry = registry
        self._retries = retries
        self._subscriptions: dict[tuple[str, str], list[Subscription]] = collections.defaultdict(list)
        self._batches: dict[Subscription, Batches] = {}
        self._waiting: dict[tuple[str, str], list[Delivery]] = collections.defaultdict(list)
        self._turn = 0

    @property
    def subscriptions(self) -> list[Subscription]:
        """All of them."""
        return [each for found in self._subscriptions.values() for each in found]

    def retries(self, pubsub_name: str) -> Retries | None:
        """Return the retry policy of what comes in from a component."""
        return self._retries.get(pubsub_name)

    def subscribe(self, subscription: Subscription) -> None:
        """Bring records to a subscription from now on, and those first that nobody has had."""
        topic = subscription.pubsub_name, subscription.topic
        self._subscriptions[topic].append(subscription)
        if subscription.batch:
            self._batches[subscription] = Batches(subscription, self)
        for delivery in self._waiting.pop(topic, []):
            self.bring(delivery)

    def unsubscribe(self, subscription: Subscription) -> None:
        """Bring no more records to a subscription."""
        found = self._subscriptions[subscription.pubsub_name, subscription.topic]
        if subscription in found:
            found.remove(subscription)

    def publish(self, record: Record) -> Delivery:
        """Put a record on its topic, and return what becomes of it."""
        self.records.append(record)
        delivery = Delivery(record)
        self.bring(delivery)
        return delivery

    def publish_dead_letter(self, delivery: Delivery, topic: str) -> None:
        """Put a record on another topic, as it came."""
        record = delivery.record
        delivery.dead_letter_topic = topic
        metadata = {**record.metadata, PUBSUB_NAME: record.pubsub_name}
        self.publish(Record(record.pubsub_name, topic, record.data, metadata, "sidecar"))

    def refused(self, delivery: Delivery, subscription: Subscription) -> None:
        """Take back a record that the app did not take: it comes again, or is lost where the component acknowledges it."""
        component = self._registry.component(subscription.pubsub_name)
        if component is not None and component.type not in _ACKNOWLEDGES:
            self.work.start(self._bring_again(delivery))
            return
        delivery.ended = True
        logger.warning(
            "a record of {!r} on {!r} is lost: {}", subscription.topic, subscription.pubsub_name, delivery.problem
        )

    async def _bring_again(self, delivery: Delivery) -> None:
        await self.clock.sleep(_AGAIN_SECONDS)
        self.bring(delivery)

    def bring(self, delivery: Delivery) -> None:
        """Have a record brought to who listens now, or will."""
        record = delivery.record
        topic = record.pubsub_name, record.topic
        listening = self._subscriptions.get(topic)
        if not listening:
            component = self._registry.component(record.pubsub_name)
            delivery.heard = False
            if component is not None and component.type == _FORGETFUL:
                delivery.ended = True
            else:
                self._waiting[topic].append(delivery)
            return
        delivery.heard = True
        self._turn += 1
        subscription = listening[self._turn % len(listening)]
        if subscription in self._batches:
            self._batches[subscription].add(delivery)
        else:
            self.work.start(deliver(delivery, subscription, self))
