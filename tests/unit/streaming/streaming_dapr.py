"""A sidecar whose streams of topic events a test plays by hand, frame by frame."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import grpc
from dapr.proto import api_v1, appcallback_v1
from google.protobuf import struct_pb2

from apibase.streaming.stream import METHOD
from tests.unit.fake_dapr import FakeDapr, eventually

Context = grpc.aio.ServicerContext

Frame = api_v1.SubscribeTopicEventsResponseAlpha1
INITIAL = Frame(initial_response=api_v1.SubscribeTopicEventsResponseInitialAlpha1()).SerializeToString()


def event_frame(id_: str, data: Any = None, *, type_: str = "desk.v1.Asked", **fields: Any) -> bytes:
    """A frame with an event of topic `desk`; `data` is bytes, or what JSON is made of."""
    event = appcallback_v1.TopicEventRequest(
        id=id_,
        source="shop",
        type=type_,
        spec_version="1.0",
        data_content_type="application/json",
        data=data if isinstance(data, bytes) else json.dumps(data or {"text": id_}).encode(),
        topic="desk",
        pubsub_name="events",
        path="/",
        **fields,
    )
    return Frame(event_message=event).SerializeToString()


def deep_event_frame(id_: str) -> bytes:
    """A frame with an event whose extension is nested deeper than protobuf reads; no library would write it."""
    value = _field(struct_pb2.Value.STRING_VALUE_FIELD_NUMBER, b"bottom")
    for _ in range(60):
        value = _field(struct_pb2.Value.LIST_VALUE_FIELD_NUMBER, _field(1, value))
    extensions = _field(1, _field(1, b"nested") + _field(2, value))
    event = Frame.FromString(event_frame(id_)).event_message.SerializeToString()
    event += _field(appcallback_v1.TopicEventRequest.EXTENSIONS_FIELD_NUMBER, extensions)
    return _field(Frame.EVENT_MESSAGE_FIELD_NUMBER, event)


def _field(number: int, data: bytes) -> bytes:
    """A field that has a length, as it is on the wire."""
    length = len(data)
    varint = b""
    while length > 127:
        varint += bytes([length % 128 + 128])
        length //= 128
    return bytes([number << 3 | 2]) + varint + bytes([length]) + data


class PlayedStream:
    """The sidecar's side of one stream."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.metadata = dict(context.invocation_metadata() or ())
        self.seconds_left = context.time_remaining()
        self.initial: Any = None
        self.verdicts: list[tuple[str, str]] = []
        self.half_closed = False
        self.over = False
        self.ending: asyncio.Future[tuple[grpc.StatusCode, str]] = asyncio.get_running_loop().create_future()

    async def accept(self) -> None:
        await self.context.write(INITIAL)

    async def send(self, *frames: bytes) -> None:
        for frame in frames:
            await self.context.write(frame)

    def end(self, code: grpc.StatusCode = grpc.StatusCode.OK, details: str = "") -> None:
        self.ending.set_result((code, details))

    async def told(self, *verdicts: tuple[str, str]) -> None:
        """Wait until these verdicts have come, in any order, and see that there are no others."""
        await eventually(lambda: len(self.verdicts) >= len(verdicts))
        assert sorted(self.verdicts) == sorted(verdicts)


class StreamingDapr(FakeDapr):
    """The fake sidecar, with streams. Each that is opened waits in `opened` until the test takes it by `next_stream`."""

    def __init__(self, address: str, token: str = "") -> None:
        super().__init__(address, token=token)
        self.opened: asyncio.Queue[PlayedStream] = asyncio.Queue()
        self.taken = 0
        self.subscriptions: list[Any] = []

    async def start(self) -> None:
        service, method = METHOD[1:].split("/")
        requests = {
            "GetMetadata": api_v1.GetMetadataRequest,
            "SetMetadata": api_v1.SetMetadataRequest,
            "GetState": api_v1.GetStateRequest,
            "PublishEvent": api_v1.PublishEventRequest,
        }
        handlers: dict[str, Any] = {
            name: grpc.unary_unary_rpc_method_handler(
                getattr(self, name),
                request_deserializer=request.FromString,
                response_serializer=lambda answer: answer.SerializeToString(),
            )
            for name, request in requests.items()
        }
        # Bytes out: a frame may be one that no library would write.
        handlers[method] = grpc.stream_stream_rpc_method_handler(
            self._stream, request_deserializer=api_v1.SubscribeTopicEventsRequestAlpha1.FromString
        )
        self._server = grpc.aio.server()
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
        self._server.add_insecure_port(self.address.replace("unix://", "unix:"))
        await self._server.start()

    async def next_stream(self, *, accept: bool = True) -> PlayedStream:
        """Return the next stream that was opened, once it has said what for."""
        stream = await asyncio.wait_for(self.opened.get(), 5)
        await eventually(lambda: stream.initial is not None)
        if accept:
            await stream.accept()
        return stream

    async def GetMetadata(self, request: Any, context: Context) -> Any:
        answer = await super().GetMetadata(request, context)
        answer.subscriptions.extend(self.subscriptions)
        return answer

    async def _stream(self, requests: Any, context: Context) -> None:
        await self._take("SubscribeTopicEventsAlpha1", None, context)
        stream = PlayedStream(context)
        self.opened.put_nowait(stream)
        self.taken += 1
        reading = asyncio.ensure_future(self._read(stream, requests))
        try:
            code, details = await stream.ending
        finally:
            stream.over = True
            reading.cancel()
        if code is not grpc.StatusCode.OK:
            await context.abort(code, details)

    async def _read(self, stream: PlayedStream, requests: Any) -> None:
        names = appcallback_v1.TopicEventResponse.TopicEventResponseStatus
        async for request in requests:
            if request.HasField("initial_request"):
                stream.initial = request.initial_request
            else:
                processed = request.event_processed
                stream.verdicts.append((processed.id, names.Name(processed.status.status)))
        stream.half_closed = True
        if not stream.ending.done():
            stream.end(grpc.StatusCode.UNKNOWN, "EOF")  # as daprd does
