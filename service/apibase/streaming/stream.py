"""One stream of a topic's events: opened, read, answered, and ended in the way that costs the fewest events.

It is read as bytes, so that an event which protobuf can't read is told by itself (see `callback_requests`) instead of ending
the stream, and with it every event in flight. It is never cancelled while that can be helped: daprd takes the events that
it has in flight on a stream which breaks off for failed, and on one that is half-closed for undelivered.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import grpc
from dapr.proto import api_v1
from dapr.proto.runtime.v1 import appcallback_pb2
from google.protobuf.message import DecodeError

from apibase.callback_requests import fields_of, texts_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from apibase.delivery import Status

METHOD = "/dapr.proto.runtime.v1.Dapr/SubscribeTopicEventsAlpha1"

_ASKS = 3
_STATUS_LOST = "Internal error from Core"

_Frame = api_v1.SubscribeTopicEventsResponseAlpha1
_EVENT = _Frame.EVENT_MESSAGE_FIELD_NUMBER


class StreamEnded(Exception):
    """The sidecar ended the stream, or sent what is no part of its protocol."""


class UnreadableEvent(Exception):
    """An event that protobuf can't read; `event` has those of its attributes that can be told."""

    def __init__(self, event: appcallback_pb2.TopicEventRequest) -> None:
        super().__init__(event.id)
        self.event = event


class TopicStream:
    """A stream, from its opening to its end. Read by one task at a time; answered by any."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._method: grpc.aio.StreamStreamMultiCallable[Any, Any] = channel.stream_stream(
            METHOD,
            request_serializer=api_v1.SubscribeTopicEventsRequestAlpha1.SerializeToString,
            response_deserializer=None,
        )
        self.draining = False
        """Whether its end is coming, so that no event is taken from it any more."""
        self._call: grpc.aio.StreamStreamCall[Any, Any] = self._method()
        self._first: appcallback_pb2.TopicEventRequest | UnreadableEvent | None = None
        # As long as what daprd has in flight: it sends no more than that.
        self._answers: asyncio.Queue[api_v1.SubscribeTopicEventsRequestAlpha1 | None] = asyncio.Queue()
        self._writer: asyncio.Task[None] | None = None

    async def open(
        self, pubsub_name: str, topic: str, *, metadata: Mapping[str, str], dead_letter_topic: str = ""
    ) -> None:
        """Subscribe; returning means that daprd has. Raises `grpc.aio.AioRpcError` or `StreamEnded`."""
        request = api_v1.SubscribeTopicEventsRequestInitialAlpha1(
            pubsub_name=pubsub_name, topic=topic, metadata=metadata, dead_letter_topic=dead_letter_topic or None
        )
        await self._ask(api_v1.SubscribeTopicEventsRequestAlpha1(initial_request=request))
        try:
            self._first = await self._next()
        except UnreadableEvent as unreadable:
            self._first = unreadable
        if self._writer is None:
            self._writer = asyncio.create_task(self._write())

    async def _ask(self, request: api_v1.SubscribeTopicEventsRequestAlpha1) -> None:
        for left in reversed(range(_ASKS)):
            try:
                await self._call.write(request)
            except asyncio.InvalidStateError:
                return  # It is over already: reading says why.
            except grpc.aio.AioRpcError as error:
                # Where a stream ends at the very moment that it is written to, gRPC loses why. It is to be known.
                if error.details() != _STATUS_LOST or not left:
                    raise
                self._call = self._method()
            else:
                return

    async def read(self) -> appcallback_pb2.TopicEventRequest:
        """Return the next event. Raises `UnreadableEvent`, and at the end `grpc.aio.AioRpcError` or `StreamEnded`."""
        event, self._first = self._first, None
        while event is None:
            event = await self._next()
        if isinstance(event, UnreadableEvent):
            raise event
        return event

    async def _next(self) -> appcallback_pb2.TopicEventRequest | None:
        """Return the event of the next frame; None for a frame without one."""
        data = await self._call.read()
        if not isinstance(data, bytes):  # grpc.aio.EOF
            raise StreamEnded("the sidecar ended the stream")
        try:
            frame = _Frame.FromString(data)
        except DecodeError:
            raise _unreadable(data) from None
        return frame.event_message if frame.HasField("event_message") else None

    def answer(self, event_id: str, status: Status) -> bool:
        """Tell daprd what became of an event; False where the stream is over, so that it can't be told."""
        if self._call.done() or self._writer is None or self._writer.done():
            return False
        verdict = appcallback_pb2.TopicEventResponse(
            status=appcallback_pb2.TopicEventResponse.TopicEventResponseStatus.Value(status)
        )
        processed = api_v1.SubscribeTopicEventsRequestProcessedAlpha1(id=event_id, status=verdict)
        self._answers.put_nowait(api_v1.SubscribeTopicEventsRequestAlpha1(event_processed=processed))
        return True

    async def half_close(self) -> None:
        """Say that no answer comes any more, after those that have been given. The end is there to read."""
        if self._writer is None:
            self._writer = asyncio.create_task(self._write())
        self._answers.put_nowait(None)
        await asyncio.wait({self._writer})

    async def abandon(self) -> None:
        """Break the stream off, if it is not over."""
        self._call.cancel()
        if self._writer is not None:
            self._writer.cancel()
            await asyncio.wait({self._writer})

    async def _write(self) -> None:
        """Write one answer after the other: gRPC takes no two at a time, and a write that is cancelled ends the stream."""
        # The reader is told why a stream has ended.
        with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
            while (answer := await self._answers.get()) is not None:
                await self._call.write(answer)
            await self._call.done_writing()


def _unreadable(data: bytes) -> UnreadableEvent | StreamEnded:
    for number, value in fields_of(data):
        if number == _EVENT:
            event = texts_of(appcallback_pb2.TopicEventRequest, value)
            if event.id:
                return UnreadableEvent(event)
    return StreamEnded("the sidecar sent what is no frame of a subscription")
