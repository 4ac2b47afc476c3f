"""daprd's requests from their bytes: what can't be read whole ends nowhere else than what can."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from dapr.proto.runtime.v1 import appcallback_pb2
from hypothesis import given
from hypothesis import strategies as st

from apibase.callback_requests import _batch, texts_of
from apibase.middleware.call import TOKEN_HEADER
from apibase.routes import RouteTable
from tests.unit.app_channels import DROP, Listener, app_channel, served
from tests.unit.conftest import Desk, Log
from tests.unit.hostile import ALPHA, CALLBACK, METHODS, nested_too_deep

EVENT, BATCH = appcallback_pb2.TopicEventRequest, appcallback_pb2.TopicEventBulkRequest
TOKEN = "app-token"
UNREADABLE = b"\xff\xff\xff"


@pytest.fixture
async def channel(post: Desk, socket_folder: Path) -> AsyncIterator[grpc.aio.Channel]:
    routes = RouteTable()
    routes.add(Listener().implement(post, "PostEvents"))
    async with served(app_channel(routes, token=TOKEN), socket_folder) as opened:
        yield opened


async def ask(channel: grpc.aio.Channel, path: str, data: bytes, token: str = TOKEN) -> Any:
    answer = await channel.unary_unary(path)(data, metadata=((TOKEN_HEADER, token),), timeout=20)
    return METHODS[path][1].FromString(answer)


@pytest.mark.parametrize("path", [path for path, (kind, _) in METHODS.items() if not kind.DESCRIPTOR.fields])
async def test_a_request_without_fields_is_not_read(channel: grpc.aio.Channel, path: str) -> None:
    assert await ask(channel, path, UNREADABLE) == await ask(channel, path, b"")


@pytest.mark.parametrize(
    "path", [path for path, (kind, _) in METHODS.items() if kind.DESCRIPTOR.fields and kind is not EVENT]
)
async def test_bytes_that_are_no_request_are_an_invalid_argument(channel: grpc.aio.Channel, path: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await ask(channel, path, UNREADABLE)

    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert METHODS[path][0].DESCRIPTOR.full_name in caught.value.details()


@pytest.mark.parametrize("data", [UNREADABLE, nested_too_deep(EVENT), b"\x0a\x01\xff"])
async def test_bytes_that_are_no_event_are_dropped(channel: grpc.aio.Channel, data: bytes) -> None:
    assert (await ask(channel, f"{CALLBACK}OnTopicEvent", data)).status == DROP


async def test_what_is_dropped_is_logged_with_its_id_and_topic(channel: grpc.aio.Channel, log: Log) -> None:
    event = EVENT(id="event-1", topic="letters", pubsub_name="events")

    await ask(channel, f"{CALLBACK}OnTopicEvent", event.SerializeToString() + nested_too_deep(EVENT))

    assert "topic 'letters' of 'events' can't be read" in log.one(event_id="event-1", level="WARNING")["message"]


@pytest.mark.req("R13.2")
@pytest.mark.parametrize("path", [f"{CALLBACK}OnTopicEvent", f"{ALPHA}OnBulkTopicEventAlpha1"])
async def test_what_can_not_be_read_needs_the_token_too(channel: grpc.aio.Channel, path: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await ask(channel, path, nested_too_deep(METHODS[path][0]), token="another")

    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED


def test_a_batch_keeps_what_can_be_read_of_it() -> None:
    batch = BATCH(id="b", topic="letters", pubsub_name="events", path="rule")
    batch.entries.add(entry_id="one", bytes=b"x", metadata={"__key": "k"})

    read = _batch(nested_too_deep(BATCH) + batch.SerializeToString())

    assert read is not None
    assert (read.id, read.topic, read.pubsub_name, read.path) == ("b", "letters", "events", "rule")
    assert [(each.entry_id, each.WhichOneof("event")) for each in read.entries] == [
        ("deep-entry", None),
        ("one", "bytes"),
    ]
    assert read.entries[1] == batch.entries[0]


def test_text_that_is_none_is_told_as_far_as_it_is() -> None:
    assert texts_of(EVENT, b"\x0a\x02a\xff") == EVENT(id="a�")


@given(st.binary(max_size=300))
def test_any_bytes_are_read_as_something_or_nothing(data: bytes) -> None:
    texts_of(EVENT, data)
    batch = _batch(data)
    assert batch is None or batch.entries
