"""Subscriptions that the app opens itself, as streams."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import grpc
from dapr.proto import api_v1

from apibase.testing.stand_in.api_errors import ApiError
from apibase.testing.stand_in.app_link import verdict_of
from apibase.testing.stand_in.subscription import Rule, Subscription

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from dapr.proto.runtime.v1 import appcallback_pb2

    from apibase.testing.stand_in.api import ApiCall, Operations
    from apibase.testing.stand_in.broker import Broker
    from apibase.testing.stand_in.registry import Registry

_UNKNOWN = grpc.StatusCode.UNKNOWN


class StreamPostman:
    """Brings events down one stream, and matches the verdicts that come up to them."""

    def __init__(self) -> None:
        self.outgoing: asyncio.Queue[Any] = asyncio.Queue()
        self._answers: dict[str, asyncio.Future[str]] = {}
        self._closed = False

    async def deliver(self, request: appcallback_pb2.TopicEventRequest, headers: Mapping[str, str]) -> str:  # noqa: ARG002 - a stream has none
        """Bring an event; its verdict is CANCELLED where the stream ends before."""
        if self._closed:
            return "CANCELLED"
        answer = self._answers[request.id] = asyncio.get_running_loop().create_future()
        await self.outgoing.put(api_v1.SubscribeTopicEventsResponseAlpha1(event_message=request))
        verdict: str = await answer
        return verdict

    async def deliver_bulk(
        self, request: appcallback_pb2.TopicEventBulkRequest, headers: Mapping[str, str]
    ) -> Mapping[str, str]:
        """Never asked for: streams have no batches."""
        raise NotImplementedError

    def settle(self, event_id: str, verdict: str) -> None:
        """Take the verdict on an event."""
        answer = self._answers.pop(event_id, None)
        if answer is not None and not answer.done():
            answer.set_result(verdict)

    def close(self) -> None:
        """Leave what has no verdict to others."""
        self._closed = True
        for event_id in list(self._answers):
            self.settle(event_id, "CANCELLED")


class StreamingApi:
    """Dapr's operation that subscribes by a stream."""

    def __init__(self, registry: Registry, broker: Broker) -> None:
        self._registry = registry
        self._broker = broker

    @property
    def operations(self) -> Operations:
        """By the names of their rpcs."""
        return {"SubscribeTopicEventsAlpha1": self._subscribe}

    async def _subscribe(self, requests: Any, _call: ApiCall) -> AsyncIterator[Any]:  # noqa: ANN401 - the API's messages
        first = await anext(aiter(requests), None)
        if first is None or not first.HasField("initial_request"):
            raise ApiError(_UNKNOWN, "initial request is required" if first is not None else "EOF")
        subscription, postman = self._open(first.initial_request)
        yield api_v1.SubscribeTopicEventsResponseAlpha1(
            initial_response=api_v1.SubscribeTopicEventsResponseInitialAlpha1()
        )
        reader = asyncio.ensure_future(_read(requests, postman))
        self._broker.subscribe(subscription)
        try:
            while True:
                sending = asyncio.ensure_future(postman.outgoing.get())
                await asyncio.wait({sending, reader}, return_when=asyncio.FIRST_COMPLETED)
                if not sending.done():
                    sending.cancel()
                    reader.result()
                    return
                yield sending.result()
        finally:
            self._broker.unsubscribe(subscription)
            postman.close()
            reader.cancel()

    def _open(self, request: Any) -> tuple[Subscription, StreamPostman]:  # noqa: ANN401 - the API's message
        name, topic = request.pubsub_name, request.topic
        if not name or not topic:
            raise ApiError(_UNKNOWN, "topic is required" if name else "pubsubName is required")
        if self._registry.component(name, "pubsub") is None:
            raise ApiError(grpc.StatusCode.INVALID_ARGUMENT, f"pubsub {name} is not found", "DAPR_PUBSUB_NOT_FOUND")
        postman = StreamPostman()
        dead_letters, metadata = request.dead_letter_topic, dict(request.metadata)
        rules = (Rule.of("", "/"),)
        return Subscription(name, topic, rules, postman, "streaming", dead_letters, metadata), postman


async def _read(requests: Any, postman: StreamPostman) -> None:  # noqa: ANN401 - an iterator of the API's messages
    async for request in requests:
        if not request.HasField("event_processed"):
            raise ApiError(_UNKNOWN, "duplicate initial request received")
        postman.settle(request.event_processed.id, verdict_of(request.event_processed.status.status))
