"""Events that should not be: each ends in a verdict, none blocks its topic, and the next good one is handled."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from dapr.proto.runtime.v1 import appcallback_pb2, appcallback_pb2_grpc

from apibase import Settings
from apibase.app_channel import AppChannelServicer
from apibase.app_token import AppToken
from apibase.clients import Sidecar
from apibase.dead_letters import DeadLetters
from apibase.delivery import TopicDelivery
from apibase.invocation import Invocations
from apibase.routes import RouteTable
from tests.unit.app_channels import DROP, SUCCESS, Listener, served
from tests.unit.conftest import Desk, Log
from tests.unit.fake_dapr import FakeDapr


@pytest.fixture
def listener() -> Listener:
    return Listener()


@pytest.fixture
async def stub(
    post: Desk, dapr: FakeDapr, settings: Settings, listener: Listener, socket_folder: Path, log: Log
) -> AsyncIterator[Any]:
    """Return the app as daprd sees it; its dead letters reach a broker."""
    routes = RouteTable()
    routes.add(listener.implement(post, "PostEvents"))
    routes.add(listener.implement(post, "Loose"))
    sidecar = Sidecar(settings)
    servicer = AppChannelServicer(
        routes, TopicDelivery(DeadLetters(sidecar)), Invocations(routes.methods), AppToken(None)
    )
    async with served(servicer, socket_folder) as channel:
        yield appcallback_pb2_grpc.AppCallbackStub(channel)
    await sidecar.close()


def event(data: bytes = b'{"text": "why"}', **fields: Any) -> appcallback_pb2.TopicEventRequest:
    known = {
        "id": "event-1",
        "source": "shop",
        "type": "post.v1.Letter",
        "spec_version": "1.0",
        "data_content_type": "application/json",
        "topic": "letters",
        "pubsub_name": "events",
    }
    return appcallback_pb2.TopicEventRequest(**{**known, "data": data, **fields})


@pytest.mark.req("R3.3")
@pytest.mark.parametrize(
    ("number", "text"), [(float("nan"), "nan"), (float("inf"), "inf"), (float("-inf"), "inf")], ids=str
)
async def test_an_extension_that_json_can_not_say_is_told_as_text(
    stub: Any, listener: Listener, dapr: FakeDapr, number: float, text: str
) -> None:
    bad = event()
    bad.extensions.fields["load"].number_value = number
    bad.extensions.fields["loads"].list_value.values.add().number_value = number
    bad.extensions.fields["nothing"].SetInParent()
    bad.extensions.update({"shop": "east", "level": 3})

    assert (await stub.OnTopicEvent(bad)).status == SUCCESS

    ((_, _, context),) = listener.got
    assert text in str(context.extensions["load"])
    assert text in str(context.extensions["loads"])
    assert context.extensions["nothing"] is None
    assert (context.extensions["shop"], context.extensions["level"]) == ("east", 3)

    bad.data = b"no JSON"
    assert (await stub.OnTopicEvent(bad)).status == SUCCESS
    assert text in json.loads(dapr.published[0].data)["load"]


@pytest.mark.req("R3.4")
@pytest.mark.parametrize("topic", ["loose", "nobody's"])
async def test_an_event_without_a_type_that_no_handler_can_be_told_for_is_left_to_daprds_dead_letters(
    stub: Any, listener: Listener, log: Log, topic: str
) -> None:
    assert (await stub.OnTopicEvent(event(type="", topic=topic))).status == DROP

    assert listener.got == []
    assert "has no type, so no handler can be told; dropped" in log.one(event_id="event-1")["message"]


async def test_a_batch_of_raw_records_reaches_the_handler_of_raw_records(
    post: Desk, stub: Any, listener: Listener, dapr: FakeDapr
) -> None:
    batch = appcallback_pb2.TopicEventBulkRequest(id="batch", topic="records", pubsub_name="events")
    batch.entries.add(entry_id="json", bytes=b'{"text": "why"}', metadata={"__key": "k"})
    batch.entries.add(entry_id="protobuf", bytes=post.pb2.Letter(text="because").SerializeToString())
    batch.entries.add(entry_id="neither", bytes=b"\xff", content_type="image/png")
    batch.entries.add(entry_id="empty")

    answer = await stub.OnBulkTopicEvent(batch)

    assert [(each.entry_id, each.status) for each in answer.statuses] == [
        ("json", SUCCESS),
        ("protobuf", SUCCESS),
        ("neither", SUCCESS),
        ("empty", SUCCESS),
    ]
    assert {message.text: context.metadata for _, message, context in listener.got} == {
        "why": {"__key": "k"},
        "because": {},
    }
    buried = {letter["id"]: letter for letter in (json.loads(each.data) for each in dapr.published)}
    assert {name: letter["dlcode"] for name, letter in buried.items()} == {
        "neither": "UNDECODABLE",
        "empty": "INVALID_REQUEST",
    }
    assert (buried["neither"]["datacontenttype"], buried["neither"]["data_base64"]) == ("image/png", "/w==")


@pytest.mark.req("R3.6")
@pytest.mark.parametrize(("path", "handler"), [("post.v1.PostEvents.OnHeavy", "OnHeavy"), ("", "OnLetter")])
async def test_the_rule_that_daprd_found_leads_to_its_handler(
    stub: Any, listener: Listener, path: str, handler: str
) -> None:
    assert (await stub.OnTopicEvent(event(path=path))).status == SUCCESS

    assert [name for name, _, _ in listener.got] == [handler]


POISON = {
    "no JSON": event(b"no JSON"),
    "another type": event(b"{}", type="shop.v9.Nothing"),
    "breaks a rule": event(b'{"text": ""}'),
    "unknown fields": event(b'{"text": "why", "of_next_year": {"a": [1]}}'),
    "no id": event(b"no JSON", id=""),
    "a time far ahead": event(b'{"text": "why", "postedAt": "99999-01-01T00:00:00Z"}'),
    "large and undecodable": event(b"\xff" * 2_500_000),
    "large text": event(json.dumps({"text": "時" * 600_000, "weight": "x"}, ensure_ascii=False).encode()),
    "no content type": event(b"\x00", data_content_type=""),
    "long attributes": event(b"no JSON", id="x" * 100_000, source="時" * 100_000, data_content_type="y" * 100_000),
    "deep": event(b'{"a":' * 50_000),
}


@pytest.mark.req("R3.4")
@pytest.mark.parametrize("name", POISON)
async def test_a_poison_event_is_done_with_and_the_next_good_one_is_handled(
    stub: Any, listener: Listener, name: str
) -> None:
    headers = (("traceparent", "x" * 300), ("tracestate", "=" * 300), ("x-correlation-id", "{}%s"))

    assert (await stub.OnTopicEvent(POISON[name], metadata=headers, timeout=20)).status == SUCCESS
    assert (await stub.OnTopicEvent(event(b'{"text": "good"}'), timeout=20)).status == SUCCESS

    assert listener.got[-1][1].text == "good"


async def test_a_deaf_broker_holds_up_only_what_is_to_be_buried(stub: Any, listener: Listener, dapr: FakeDapr) -> None:
    dapr.fail("PublishEvent", grpc.StatusCode.DEADLINE_EXCEEDED)

    verdicts = [(await stub.OnTopicEvent(event(data))).status for data in (b"no JSON", b'{"text": "good"}', b"no JSON")]

    assert verdicts == [appcallback_pb2.TopicEventResponse.RETRY, SUCCESS, SUCCESS]
    assert [message.text for _, message, _ in listener.got] == ["good"]
