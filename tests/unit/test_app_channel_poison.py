"""Events that should not be: each ends in a verdict, none blocks its topic, and the next good one is handled."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from dapr.proto import common_v1
from dapr.proto.runtime.v1 import appcallback_pb2, appcallback_pb2_grpc

from apibase import Settings
from apibase.app_channel import AppChannelServicer
from apibase.clients import Sidecar
from apibase.dead_letters import DeadLetters
from apibase.routes import RouteTable
from tests.unit.app_channels import DROP, SUCCESS, Listener, served
from tests.unit.chains import chain
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
    servicer = AppChannelServicer(routes, chain(graveyard=DeadLetters(sidecar)))
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
    batch.entries.add(entry_id="empty", bytes=b"")
    batch.entries.add(entry_id="none")

    answer = await stub.OnBulkTopicEvent(batch)

    assert [(each.entry_id, each.status) for each in answer.statuses] == [
        ("json", SUCCESS),
        ("protobuf", SUCCESS),
        ("neither", SUCCESS),
        ("empty", SUCCESS),
        ("none", DROP),
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
    assert (buried["neither"]["datacontenttype"], buried["neither"]["dlredacted"]) == ("image/png", "*")


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


LIMIT = 4 * 1024 * 1024
AS_LARGE = json.dumps({"text": "why", "more": "x" * (LIMIT - 27)}).encode()


@pytest.mark.req("R3.4")
async def test_data_of_as_many_bytes_as_are_taken_is_handled_though_its_event_has_more(
    stub: Any, listener: Listener
) -> None:
    assert len(AS_LARGE) == LIMIT

    assert (await stub.OnTopicEvent(event(AS_LARGE), timeout=20)).status == SUCCESS

    assert [name for name, _, _ in listener.got] == ["OnLetter"]


@pytest.mark.req("R3.4")
async def test_data_of_one_byte_more_is_left_to_daprds_dead_letters(
    stub: Any, listener: Listener, dapr: FakeDapr, log: Log
) -> None:
    assert (await stub.OnTopicEvent(event(AS_LARGE + b" "), timeout=20)).status == DROP

    assert (listener.got, dapr.published) == ([], [])
    assert log.one(verdict="DROP")["reason"] == (
        f"TOO_LARGE: the data has {LIMIT + 1} bytes, more than APIBASE_MAX_MESSAGE_BYTES allows; "
        "left to the sidecar's dead letters"
    )


@pytest.mark.req("R3.4")
@pytest.mark.parametrize("content_type", ["application/protobuf", "image/png", ""])
async def test_an_event_that_daprd_brings_without_its_data_is_left_to_daprds_dead_letters(
    stub: Any, listener: Listener, dapr: FakeDapr, log: Log, content_type: str
) -> None:
    assert (await stub.OnTopicEvent(event(b"", data_content_type=content_type))).status == DROP

    assert (listener.got, dapr.published) == ([], [])
    assert log.one(verdict="DROP")["reason"].startswith("UNDECODABLE: the event brings no data (")


@pytest.mark.req("R3.4", "R3.5")
async def test_binary_data_that_a_batch_comes_without_is_left_to_daprds_dead_letters(
    stub: Any, listener: Listener, dapr: FakeDapr
) -> None:
    batch = appcallback_pb2.TopicEventBulkRequest(id="batch", topic="letters", pubsub_name="events")
    binary = {"type": "post.v1.Letter", "data_content_type": "application/octet-stream"}
    batch.entries.add(entry_id="one").cloud_event.MergeFrom(appcallback_pb2.TopicEventCERequest(id="one", **binary))

    answer = await stub.OnBulkTopicEvent(batch)

    assert [each.status for each in answer.statuses] == [DROP]
    assert (listener.got, dapr.published) == ([], [])


async def test_of_a_batch_only_what_is_too_large_is_not_handled(stub: Any, listener: Listener) -> None:
    batch = appcallback_pb2.TopicEventBulkRequest(id="batch", topic="records", pubsub_name="events")
    for name, data in {"large": AS_LARGE, "larger": AS_LARGE + b" ", "small": b'{"text": "why"}'}.items():
        batch.entries.add(entry_id=name, bytes=data)

    answer = await stub.OnBulkTopicEvent(batch, timeout=20)

    assert [each.status for each in answer.statuses] == [SUCCESS, DROP, SUCCESS]
    assert [name for name, _, _ in listener.got] == ["OnRecord"] * 2


@pytest.mark.req("R6.1")
async def test_a_binding_event_or_a_job_that_is_too_large_is_done_with(stub: Any, listener: Listener, log: Log) -> None:
    await stub.OnBindingEvent(appcallback_pb2.BindingEventRequest(name="mail", data=AS_LARGE + b" "), timeout=20)
    job = appcallback_pb2.JobEventRequest(name="remind")
    job.data.value = AS_LARGE + b" "
    await stub.OnJobEvent(job, timeout=20)

    assert listener.got == []
    told = [line["message"] for line in log.of(level="WARNING")]
    assert len(told) == 2
    assert all(f"the data has {LIMIT + 1} bytes" in line for line in told)


async def test_a_method_is_not_called_with_more_than_is_taken(stub: Any) -> None:
    request = common_v1.InvokeRequest(method="ask")
    request.data.value = AS_LARGE + b" "

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.OnInvoke(request, timeout=20)

    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


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
