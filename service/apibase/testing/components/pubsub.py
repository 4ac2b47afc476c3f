"""A broker in memory: publishing, subscriptions with acknowledgements, delivering again."""

from __future__ import annotations

import asyncio
import itertools
import json
import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from google.protobuf import json_format

from apibase.contract import event_options
from apibase.testing.components.component import MockComponent
from apibase.testing.faults import InjectedStatus
from dapr_components.v1 import common_pb2, pubsub_pb2

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from pathlib import Path

    from google.protobuf.descriptor import ServiceDescriptor
    from google.protobuf.message import Message

    from apibase.testing.components.component import Call, CallContext, Stream, Unary
    from apibase.testing.faults import Faults

_SERVICE = pubsub_pb2.DESCRIPTOR.services_by_name["PubSub"]
CLOUD_EVENT = "application/cloudevents+json"


@dataclass(eq=False)
class BrokerMessage:
    """A message on a topic, and what has become of it."""

    topic: str
    data: bytes
    """As daprd published it: mostly a CloudEvent, as JSON."""
    metadata: dict[str, str]
    content_type: str
    id: str
    attempts: int = 0
    """How often it was delivered, to any subscription."""
    errors: list[str] = field(default_factory=list)
    """What daprd said each time that it did not take it."""
    _acknowledged: asyncio.Event = field(default_factory=asyncio.Event, repr=False)

    @property
    def is_acknowledged(self) -> bool:
        """Whether a subscription has taken it."""
        return self._acknowledged.is_set()

    def event(self) -> dict[str, Any]:
        """Return the CloudEvent that the data is. Raises `ValueError` where it is none."""
        found = json.loads(self.data)
        if not isinstance(found, dict) or "specversion" not in found:
            raise ValueError(f"the data on {self.topic!r} is no CloudEvent: {self.data[:100]!r}")
        return found

    async def acknowledged(self, within: float = 5.0) -> None:
        """Return when a subscription has taken it. Raises `TimeoutError` after so many seconds, with what happened instead."""
        try:
            await asyncio.wait_for(self._acknowledged.wait(), within)
        except TimeoutError:
            message = f"the message on {self.topic!r} was delivered {self.attempts} times and not taken: {self.errors}"
            raise TimeoutError(message) from None


class _Subscription:
    """A stream of daprd's for one topic. Its queue has messages, and at last why it ends: an error, or None."""

    def __init__(self, topic: str) -> None:
        self.topic = topic
        self.queue: asyncio.Queue[BrokerMessage | InjectedStatus | None] = asyncio.Queue()
        self.unsettled: dict[str, BrokerMessage] = {}
        self.tasks: set[asyncio.Task[None]] = set()


class MockPubSub(MockComponent):
    """The component type `pubsub.mock`.

    Every subscription gets every message of its topic. What nobody has subscribed to, or a subscription has not
    acknowledged when it ends, waits for the next one.
    """

    kind = "pubsub"
    features: tuple[str, ...] = ("BULK_PUBSUB",)
    """What daprd is told that the broker can do; to be changed before daprd starts. Without this one, bulks come one by one."""
    redeliver_after: float | None = 0.1
    """Seconds until a message that was refused is delivered again; None for never."""

    def __init__(self, folder: Path, name: str, faults: Faults, calls: list[Call]) -> None:
        super().__init__(folder, name, faults, calls)
        self.published: list[BrokerMessage] = []
        """What daprd published, in order."""
        self._subscriptions: list[_Subscription] = []
        self._waiting: dict[str, list[BrokerMessage]] = {}
        self._ids = itertools.count(1)

    @property
    def subscribed(self) -> list[str]:
        """The topics that daprd is subscribed to now, each as often as it is."""
        return sorted(each.topic for each in self._subscriptions)

    def published_on(self, topic: str) -> list[BrokerMessage]:
        """Return what daprd published on a topic, in order."""
        return [message for message in self.published if message.topic == topic]

    def push(
        self,
        topic: str,
        data: bytes,
        *,
        content_type: str = CLOUD_EVENT,
        metadata: Mapping[str, str] | None = None,
    ) -> BrokerMessage:
        """Put a message on a topic, as somebody else does who publishes there. daprd takes data that is a CloudEvent as JSON."""
        message = BrokerMessage(topic, data, dict(metadata or {}), content_type, str(next(self._ids)))
        subscriptions = [each for each in self._subscriptions if each.topic == topic]
        for subscription in subscriptions:
            self._deliver(subscription, message)
        if not subscriptions:
            self._waiting.setdefault(topic, []).append(message)
        return message

    def push_event(self, event: Message, *, id: str = "", source: str = "mock", **attributes: str) -> BrokerMessage:  # noqa: A002 - CloudEvents' name
        """Put a contract's event on its topic, in a CloudEvent. Raises `ContractError` for a message that is no event."""
        options = event_options(event)
        envelope = {
            "specversion": "1.0",
            "id": id or str(uuid.uuid4()),
            "source": source,
            "type": event.DESCRIPTOR.full_name,
            "time": datetime.now(UTC).isoformat(),
            "datacontenttype": "application/json",
            "topic": options.topic,
            "pubsubname": options.pubsub_name,
            "data": json_format.MessageToDict(event, always_print_fields_with_no_presence=True),
            **attributes,
        }
        return self.push(options.topic, json.dumps(envelope).encode())

    def keys_of(self, request: Message) -> tuple[str, ...]:
        """Return the topic."""
        match request:
            case pubsub_pb2.PublishRequest() | pubsub_pb2.BulkPublishRequest():
                return (request.topic,)
            case _:
                return ()

    def services(self) -> Mapping[ServiceDescriptor, Mapping[str, Unary | Stream]]:
        """Return how the protocol is answered. Pause and Resume, which daprd can do without, are left out."""
        return {
            _SERVICE: {
                "Init": lambda _: pubsub_pb2.PubSubInitResponse(),
                "Features": lambda _: common_pb2.FeaturesResponse(features=self.features),
                "Publish": self._publish,
                "BulkPublish": self._bulk_publish,
                "PullMessages": self._pull_messages,
            }
        }

    def _publish(self, request: pubsub_pb2.PublishRequest) -> pubsub_pb2.PublishResponse:
        message = self.push(
            request.topic, request.data, content_type=request.content_type, metadata=dict(request.metadata)
        )
        self.published.append(message)
        return pubsub_pb2.PublishResponse()

    async def _bulk_publish(self, request: pubsub_pb2.BulkPublishRequest) -> pubsub_pb2.BulkPublishResponse:
        """Publish many, to each of which happens what was asked for of `pubsub.publish`."""
        response = pubsub_pb2.BulkPublishResponse()
        for entry in request.entries:
            try:
                await self.fault("publish", request.topic)
            except InjectedStatus as error:
                response.failed_entries.add(entry_id=entry.entry_id, error=str(error))
                continue
            metadata = {**request.metadata, **entry.metadata}
            one = pubsub_pb2.PublishRequest(
                topic=request.topic, data=entry.event, content_type=entry.content_type, metadata=metadata
            )
            self._publish(one)
        return response

    async def _pull_messages(
        self, requests: AsyncIterator[pubsub_pb2.PullMessagesRequest], context: CallContext
    ) -> AsyncIterator[pubsub_pb2.PullMessagesResponse]:
        topic = (await anext(requests)).topic.name
        await self.arrive("subscribe", (topic,), context)
        subscription = _Subscription(topic)
        self._subscriptions.append(subscription)
        settling = asyncio.create_task(self._settle(subscription, requests))
        for message in self._waiting.pop(topic, []):
            self._deliver(subscription, message)
        try:
            while (item := await subscription.queue.get()) is not None:
                if isinstance(item, InjectedStatus):
                    await context.abort(item.code, item.message)
                item.attempts += 1
                yield pubsub_pb2.PullMessagesResponse(
                    data=item.data,
                    topic_name=item.topic,
                    metadata=item.metadata,
                    content_type=item.content_type,
                    id=item.id,
                )
        finally:
            self._subscriptions.remove(subscription)
            for task in (settling, *subscription.tasks):
                task.cancel()
            self._waiting.setdefault(topic, []).extend(subscription.unsettled.values())

    async def _settle(
        self, subscription: _Subscription, requests: AsyncIterator[pubsub_pb2.PullMessagesRequest]
    ) -> None:
        """Take acknowledgements until daprd sends no more of them."""
        async for request in requests:
            message = subscription.unsettled.get(request.ack_message_id)
            if message is None:
                continue
            if not request.HasField("ack_error"):
                del subscription.unsettled[message.id]
                message._acknowledged.set()  # noqa: SLF001 - it is this file's
                continue
            message.errors.append(request.ack_error.message)
            if self.redeliver_after is None:
                del subscription.unsettled[message.id]
            else:
                self._deliver(subscription, message, after=self.redeliver_after)
        subscription.queue.put_nowait(None)

    def _deliver(self, subscription: _Subscription, message: BrokerMessage, *, after: float = 0.0) -> None:
        """Hand a message to a subscription's stream, unless what was asked for happens to it."""
        subscription.unsettled[message.id] = message

        async def hand_over() -> None:
            if after:
                await asyncio.sleep(after)
            try:
                await self.fault("deliver", message.topic)
            except InjectedStatus as error:
                subscription.queue.put_nowait(error)
            else:
                subscription.queue.put_nowait(message)

        task = asyncio.create_task(hand_over())
        subscription.tasks.add(task)
        task.add_done_callback(subscription.tasks.discard)
