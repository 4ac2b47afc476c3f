"""Publishing: what a subscriber gets of what was published, alone and in bulk."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import pytest
from pydantic import BaseModel

from apibase import Publication, PubSubPublisher, Sidecar, SidecarError
from apibase.clients._values import Value
from apibase.observability import call_context
from tests.contract.beside import Beside
from tests.contract.sides import Side

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
HEADERS = {"traceparent": f"00-{TRACE}-00f067aa0ba902b7-01", "tracestate": "vendor=1"}
TOPIC: dict[str, Any] = {"pubsub_name": "events", "topic": "contract.plain"}


class Parcel(BaseModel):
    name: str
    weight: float


@pytest.fixture
def publisher(side: Side) -> PubSubPublisher:
    return PubSubPublisher(side.sidecar)


@pytest.mark.req("R3.1")
async def test_an_event_of_a_contract_arrives_as_a_cloud_event(
    side: Side, publisher: PubSubPublisher, beside: Beside
) -> None:
    id_ = side.key("event")
    assert await publisher.publish(beside.desk.pb2.Asked(text="why"), id=id_) == id_

    event = await beside.event(lambda event: event.id() == id_)
    assert (event.pubsub_name(), event.topic(), event.type()) == ("events", "desk", "desk.v1.Asked")
    assert (event.source(), event.data_content_type()) == ("contract", "application/json")
    assert event.data() == {"text": "why", "number": 0}


@pytest.mark.req("R3.1")
@pytest.mark.parametrize(
    ("data", "content_type", "arrives"),
    [
        (Parcel(name="mug", weight=0.4), "application/json", {"name": "mug", "weight": 0.4}),
        ({"a": [1, None]}, "application/json", {"a": [1, None]}),
        ([1, 2], "application/json", [1, 2]),
        ("grüße", "text/plain", "grüße"),
        (b"\x00\xff", "application/octet-stream", b"\x00\xff"),
    ],
    ids=["model", "object", "list", "text", "bytes"],
)
@pytest.mark.parametrize("whole", [False, True], ids=["by metadata", "as a whole"])
async def test_any_value_arrives(
    side: Side, publisher: PubSubPublisher, beside: Beside, data: Value, content_type: str, arrives: object, whole: bool
) -> None:
    id_ = side.key("value")
    await publisher.publish(Publication(data, id=id_, extensions={"tenant": "acme"} if whole else {}, **TOPIC))

    event = await beside.event(lambda event: event.id() == id_)
    assert event.data_content_type() == content_type
    assert (event.raw_data() if isinstance(arrives, bytes) else event.data()) == arrives


@pytest.mark.req("R3.1")
async def test_the_attributes_that_are_given_arrive(side: Side, publisher: PubSubPublisher, beside: Beside) -> None:
    id_ = side.key("event")
    await publisher.publish(Publication({"a": 1}, id=id_, type="parcel.sent", source="/depot/7", **TOPIC))

    event = await beside.event(lambda event: event.id() == id_)
    assert (event.type(), event.source()) == ("parcel.sent", "/depot/7")


@pytest.mark.req("R3.1")
@pytest.mark.differs("Dapr 1.14 takes a subject in a whole CloudEvent only", side="1.14")
async def test_a_subject_arrives(side: Side, publisher: PubSubPublisher, beside: Beside, difference: str) -> None:
    id_ = side.key("event")
    await publisher.publish(Publication({"a": 1}, **TOPIC), id=id_, subject="parcel-7")

    event = await beside.event(lambda event: event.id() == id_)
    assert event.extensions().get("subject") == (None if difference else "parcel-7")


@pytest.mark.req("R3.1")
async def test_time_and_extensions_arrive_with_all_else(side: Side, publisher: PubSubPublisher, beside: Beside) -> None:
    id_ = side.key("event")
    time = datetime(2031, 2, 3, 4, 5, 6, 789000, tzinfo=UTC)
    asked = beside.desk.pb2.Asked(text="why", number=7)
    with call_context(HEADERS):
        await publisher.publish(
            Publication(
                asked, id=id_, subject="desk-7", time=time, extensions={"tenant": "acme", "tries": 3, "last": True}
            )
        )

    event = await beside.event(lambda event: event.id() == id_)
    extensions = event.extensions()
    assert (event.type(), event.source(), event.topic()) == ("desk.v1.Asked", "contract", "desk")
    assert event.data() == {"text": "why", "number": 7}
    assert (extensions["tenant"], extensions["tries"], extensions["last"]) == ("acme", 3, True)
    assert datetime.fromisoformat(extensions["time"]) == time
    assert extensions["subject"] == "desk-7"
    assert extensions["traceparent"] == extensions["traceid"] == HEADERS["traceparent"]
    assert extensions["tracestate"] == "vendor=1"


@pytest.mark.req("R2.5", "R3.1")
@pytest.mark.parametrize("bulk", [False, True], ids=["alone", "in bulk"])
async def test_an_event_carries_the_trace_of_the_call_that_published_it(
    side: Side, publisher: PubSubPublisher, beside: Beside, bulk: bool
) -> None:
    id_ = side.key("event")
    publication = Publication({"a": 1}, id=id_, **TOPIC)
    with call_context(HEADERS):
        if bulk:
            await publisher.publish_bulk([publication])
        else:
            await publisher.publish(publication)

    extensions = (await beside.event(lambda event: event.id() == id_)).extensions()
    assert (extensions["traceparent"], extensions["tracestate"]) == (HEADERS["traceparent"], "vendor=1")


@pytest.mark.parametrize("bulk", [False, True], ids=["alone", "in bulk"])
async def test_a_time_to_live_travels_with_the_event_where_the_broker_has_none(
    side: Side, publisher: PubSubPublisher, beside: Beside, bulk: bool
) -> None:
    id_ = side.key("event")
    publication = Publication({"a": 1}, id=id_, ttl=timedelta(seconds=59.1), **TOPIC)
    await (publisher.publish_bulk([publication]) if bulk else publisher.publish(publication))

    expiration = (await beside.event(lambda event: event.id() == id_)).extensions()["expiration"]
    assert 55 < (datetime.fromisoformat(expiration) - datetime.now(UTC)).total_seconds() < 65


@pytest.mark.parametrize("bulk", [False, True], ids=["alone", "in bulk"])
async def test_what_is_raw_is_published_without_a_cloud_event(
    side: Side, publisher: PubSubPublisher, beside: Beside, bulk: bool
) -> None:
    data = {"key": side.key("raw")}
    raw = Publication(data, raw=True, pubsub_name="events", topic="contract.raw")
    if bulk:
        assert (await publisher.publish_bulk([raw])).ids == ("",)
    else:
        assert await publisher.publish(raw) == ""

    wanted = data["key"].encode()
    event = await beside.event(lambda event: event.topic() == "contract.raw" and wanted in event.raw_data())
    assert event.raw_data() == b'{"key":"' + wanted + b'"}'
    assert event.type() == "com.dapr.event.sent"


@pytest.mark.req("R3.5")
async def test_many_are_published_at_once(side: Side, publisher: PubSubPublisher, beside: Beside) -> None:
    prefix = side.key("bulk")
    pb2 = beside.desk.pb2
    result = await publisher.publish_bulk(
        [Publication(pb2.Asked(text="why", number=number), id=f"{prefix}-{number}") for number in range(250)]
    )

    assert (result.ids, result.failed) == (tuple(f"{prefix}-{number}" for number in range(250)), ())
    result.raise_for_failed()
    events = await asyncio.gather(*(beside.event(lambda event, id_=id_: event.id() == id_) for id_ in result.ids))
    assert [event.data()["number"] for event in events] == list(range(250))
    assert {event.type() for event in events} == {"desk.v1.Asked"}


@pytest.mark.req("R3.5")
async def test_events_of_several_topics_and_kinds_are_published_at_once(
    side: Side, publisher: PubSubPublisher, beside: Beside
) -> None:
    first, second, third = (side.key("bulk") for _ in range(3))
    pb2 = beside.desk.pb2
    given = [
        Publication(pb2.Asked(text="why"), id=first),
        Publication("text", id=second, **TOPIC),
        Publication({"key": third}, raw=True, pubsub_name="events", topic="contract.raw"),
    ]
    result = await publisher.publish_bulk(given)

    assert result.ids == (first, second, "")
    assert (await beside.event(lambda event: event.id() == first)).topic() == "desk"
    assert (await beside.event(lambda event: event.id() == second)).topic() == "contract.plain"
    assert await beside.event(lambda event: third.encode() in event.raw_data())


@pytest.mark.req("R3.5")
async def test_more_than_a_message_holds_is_published_in_several(side: Side, beside: Beside) -> None:
    sidecar = Sidecar(side.settings.model_copy(update={"max_message_bytes": 20_000}))
    prefix = side.key("split")
    given = [
        Publication(f"{number:02}" + "x" * (50_000 if number == 5 else 3_000), id=f"{prefix}-{number}", **TOPIC)
        for number in range(20)
    ]
    result = await PubSubPublisher(sidecar).publish_bulk(given)
    await sidecar.close()

    (failed,) = result.failed
    assert (failed.index, failed.id, failed.event) == (5, f"{prefix}-5", given[5])
    assert (failed.error.code, failed.error.retryable) == (grpc.StatusCode.RESOURCE_EXHAUSTED, False)
    with pytest.raises(SidecarError, match="APIBASE_MAX_MESSAGE_BYTES"):
        result.raise_for_failed()
    for number in set(range(20)) - {5}:
        event = await beside.event(lambda event, id_=f"{prefix}-{number}": event.id() == id_)
        assert event.data() == f"{number:02}" + "x" * 3_000


@pytest.mark.req("R3.5")
async def test_a_batch_of_which_a_part_fails_tells_which(
    side: Side, publisher: PubSubPublisher, beside: Beside
) -> None:
    first, second = side.key("bulk"), side.key("bulk")
    good = Publication("text", id=first, **TOPIC)
    bad = Publication("text", id=second, pubsub_name="nothing", topic="contract.plain")
    result = await publisher.publish_bulk([bad, good])

    (failed,) = result.failed
    assert (failed.index, failed.id, failed.event) == (0, second, bad)
    assert (failed.error.code, failed.error.component) == (grpc.StatusCode.INVALID_ARGUMENT, "nothing")
    assert result.ids == (second, first)
    assert (await beside.event(lambda event: event.id() == first)).data() == "text"


@pytest.mark.parametrize("bulk", [False, True], ids=["alone", "in bulk"])
async def test_a_pubsub_that_is_not_loaded_is_an_error_that_names_it(publisher: PubSubPublisher, bulk: bool) -> None:
    publication = Publication("text", pubsub_name="nothing", topic="contract.plain")
    with pytest.raises(SidecarError, match="pubsub nothing is not found") as caught:
        await (publisher.publish_bulk([publication]) if bulk else publisher.publish(publication))
    assert (caught.value.code, caught.value.component) == (grpc.StatusCode.INVALID_ARGUMENT, "nothing")


async def test_nothing_is_published_for_no_events(publisher: PubSubPublisher) -> None:
    result = await publisher.publish_bulk([])
    assert (result.ids, result.failed) == ((), ())
