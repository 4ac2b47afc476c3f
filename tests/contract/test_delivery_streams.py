"""Subscriptions that the app opens itself, as streams: what comes down, and what the verdicts that go up do."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest
from dapr.proto import api_v1
from dapr.proto.runtime.v1 import appcallback_pb2

from apibase import Publication, PubSubPublisher
from tests.contract.beside import Beside
from tests.contract.sides import Side

_Request = api_v1.SubscribeTopicEventsRequestAlpha1
_Status = appcallback_pb2.TopicEventResponse.TopicEventResponseStatus


class Stream:
    """One stream, by the API itself."""

    def __init__(self, side: Side, topic: str, **options: Any) -> None:
        self._call = side.sidecar.stub.SubscribeTopicEventsAlpha1()
        self._first = _Request(initial_request={"pubsub_name": "events", "topic": topic, **options})

    async def open(self) -> Stream:
        await self._call.write(self._first)
        assert (await self.read()).HasField("initial_response")
        return self

    async def read(self, within: float = 10) -> Any:
        return await asyncio.wait_for(self._call.read(), within)

    async def event(self) -> Any:
        return (await self.read()).event_message

    async def settle(self, event: Any, status: str) -> None:
        verdict = {"id": event.id, "status": {"status": _Status.Value(status)}}
        await self._call.write(_Request(event_processed=verdict))

    async def close(self) -> None:
        await self._call.done_writing()
        self._call.cancel()


@pytest.fixture
def publisher(side: Side) -> PubSubPublisher:
    return PubSubPublisher(side.sidecar)


async def test_events_come_down_a_stream_with_their_attributes(side: Side, publisher: PubSubPublisher) -> None:
    topic = side.key("stream")
    stream = await Stream(side, topic).open()
    for number in (1, 2):
        await publisher.publish(
            Publication({"n": number}, pubsub_name="events", topic=topic, type="t", id=f"{topic}-{number}")
        )

    events = [await stream.event(), await stream.event()]

    assert {(event.id, event.data) for event in events} == {(f"{topic}-1", b'{"n":1}'), (f"{topic}-2", b'{"n":2}')}
    event = events[0]
    assert (event.topic, event.pubsub_name, event.type, event.source) == (topic, "events", "t", "contract")
    assert (event.path, event.data_content_type, event.spec_version) == ("/", "application/json", "1.0")
    for event in events:
        await stream.settle(event, "SUCCESS")
    await stream.close()


async def test_what_is_published_before_a_stream_opens_comes_down_it(side: Side, publisher: PubSubPublisher) -> None:
    topic = side.key("early")
    await publisher.publish(Publication("early", pubsub_name="events", topic=topic))

    stream = await Stream(side, topic).open()

    event = await stream.event()
    assert event.data == b"early"
    await stream.settle(event, "SUCCESS")
    await stream.close()


@pytest.mark.req("R3.4")
async def test_an_event_that_is_put_off_comes_down_again(side: Side, publisher: PubSubPublisher) -> None:
    topic = side.key("again")
    stream = await Stream(side, topic).open()
    await publisher.publish(Publication("again", pubsub_name="events", topic=topic))

    first = await stream.event()
    await stream.settle(first, "RETRY")
    second = await stream.event()

    assert first.id == second.id
    await stream.settle(second, "SUCCESS")
    await stream.close()


@pytest.mark.req("R3.6")
@pytest.mark.parametrize(("verdict", "times"), [("DROP", 1), ("RETRY", 4)])
async def test_an_event_that_is_not_taken_goes_to_the_dead_letter_topic(
    side: Side, publisher: PubSubPublisher, beside: Beside, verdict: str, times: int
) -> None:
    topic = side.key("dead")
    stream = await Stream(side, topic, dead_letter_topic="delivery.dead").open()
    event_id = await publisher.publish(Publication("dead", pubsub_name="events", topic=topic))

    for _ in range(times):
        await stream.settle(await stream.event(), verdict)

    assert (await beside.listeners.letter(event_id)).data() == "dead"
    await stream.close()


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        ({"pubsub_name": "nowhere", "topic": "t"}, {grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.UNKNOWN}),
        ({"pubsub_name": "events", "topic": ""}, {grpc.StatusCode.UNKNOWN}),
        ({"pubsub_name": "", "topic": "t"}, {grpc.StatusCode.UNKNOWN}),
    ],
    ids=["no such component", "no topic", "no component"],
)
async def test_a_stream_of_nothing_is_refused(side: Side, beside: Beside, request_: Any, code: set[Any]) -> None:
    call = side.sidecar.stub.SubscribeTopicEventsAlpha1()
    await call.write(_Request(initial_request=request_))

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await asyncio.wait_for(call.read(), 10)

    assert caught.value.code() in code


async def test_a_stream_that_says_nothing_first_is_refused(side: Side, beside: Beside) -> None:
    call = side.sidecar.stub.SubscribeTopicEventsAlpha1()
    await call.write(_Request(event_processed={"id": "1"}))

    with pytest.raises(grpc.aio.AioRpcError, match="initial request is required"):
        await asyncio.wait_for(call.read(), 10)
