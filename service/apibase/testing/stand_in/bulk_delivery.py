"""Bringing records in batches: one call for those of a route, a verdict for each."""

from __future__ import annotations

import asyncio
import uuid
from typing import TYPE_CHECKING

from dapr.proto.runtime.v1 import appcallback_pb2

from apibase.testing.stand_in.cloud_events import CLOUD_EVENT, Unreadable, data_of
from apibase.testing.stand_in.delivery import PUBSUB_NAME, attributes_of, bury, event_of, extensions, give_up, route

if TYPE_CHECKING:
    from apibase.testing.stand_in.broker import Broker
    from apibase.testing.stand_in.records import Delivery
    from apibase.testing.stand_in.subscription import Subscription

_TYPE = "com.dapr.event.sent.bulk"
_Entry = appcallback_pb2.TopicEventBulkRequestEntry


class Batches:
    """Collects the records of a subscription, and brings them when there are enough, or when the time is up."""

    def __init__(self, subscription: Subscription, broker: Broker) -> None:
        self._subscription = subscription
        self._broker = broker
        self._waiting: list[Delivery] = []

    def add(self, delivery: Delivery) -> None:
        """Have a record brought with others."""
        self._waiting.append(delivery)
        if len(self._waiting) >= self._subscription.batch:
            self._broker.work.start(self._bring())
        elif len(self._waiting) == 1:
            self._broker.work.start(self._bring_later())

    async def _bring_later(self) -> None:
        # A clock that stands would have a test wait for nothing: what was published at once is a batch there.
        if self._broker.clock.runs:
            await self._broker.clock.sleep(self._subscription.batch_wait)
        else:
            await asyncio.sleep(0)
        await self._bring()

    async def _bring(self) -> None:
        batch, self._waiting = self._waiting[: self._subscription.batch], self._waiting[self._subscription.batch :]
        if batch:
            await deliver_batch(batch, self._subscription, self._broker)


async def deliver_batch(batch: list[Delivery], subscription: Subscription, broker: Broker) -> None:
    """Bring a batch, until each of it is acknowledged, a dead letter, or lost."""
    by_path: dict[str, list[tuple[str, Delivery, _Entry]]] = {}
    for delivery in batch:
        entry_id = str(uuid.uuid4())
        try:
            event = event_of(delivery.record, subscription)
            entry = _entry(entry_id, delivery, subscription)
        except (ValueError, Unreadable) as error:
            give_up(delivery, subscription, broker, f"the record is no CloudEvent: {error}")
            continue
        # The rules of a raw batch see its bytes, as text.
        seen = delivery.record.data.decode(errors="replace") if subscription.raw else None
        path = route(delivery, event, subscription, broker, seen)
        if path is not None:
            by_path.setdefault(path, []).append((entry_id, delivery, entry))
    await asyncio.gather(*(_bring(path, entries, subscription, broker) for path, entries in by_path.items()))


async def _bring(
    path: str, entries: list[tuple[str, Delivery, _Entry]], subscription: Subscription, broker: Broker
) -> None:
    retries = broker.retries(subscription.pubsub_name)
    turn = 0
    while True:
        metadata = {PUBSUB_NAME: subscription.pubsub_name}
        request = appcallback_pb2.TopicEventBulkRequest(
            id=str(uuid.uuid4()),
            entries=[entry for _, _, entry in entries],
            metadata=metadata,
            topic=subscription.topic,
            pubsub_name=subscription.pubsub_name,
            type=_TYPE,
            path=path,
        )
        verdicts = await subscription.postman.deliver_bulk(request, metadata)
        left = []
        for entry_id, delivery, entry in entries:
            verdict = verdicts.get(entry_id, "RETRY")
            delivery.verdicts.append(verdict)
            if verdict in {"SUCCESS", "UNIMPLEMENTED"}:
                delivery.ended = True
            elif verdict == "DROP":
                bury(delivery, subscription, broker)
            else:
                left.append((entry_id, delivery, entry))
        entries = left
        if not entries or retries is None or 0 <= retries.most <= turn:
            break
        await broker.clock.sleep(retries.delay(turn))
        turn += 1
    for _, delivery, _ in entries:
        give_up(delivery, subscription, broker, "the tries are used up")


def _entry(entry_id: str, delivery: Delivery, subscription: Subscription) -> _Entry:
    record = delivery.record
    if subscription.raw:
        return _Entry(
            entry_id=entry_id, bytes=record.data, content_type="application/octet-stream", metadata=record.metadata
        )
    event = event_of(record, subscription)
    cloud_event = appcallback_pb2.TopicEventCERequest(
        **attributes_of(event), data=data_of(event, in_batch=True), extensions=extensions(event)
    )
    return _Entry(entry_id=entry_id, cloud_event=cloud_event, content_type=CLOUD_EVENT, metadata=record.metadata)
