"""Events on their way to the app: which listener gets one, how often, and where it ends when nobody takes it."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from apibase import Publication, PubSubPublisher
from tests.contract.beside import Beside
from tests.contract.listeners import Listeners
from tests.contract.sides import Side
from tests.sidecar.redis_streams import RedisStreams
from tests.sidecar.shop import eventually

TYPE = "delivery.v1.Parcel"
TRIES = 4
"""One, and the three of the retry policy."""


@pytest.fixture
def listeners(beside: Beside) -> Listeners:
    return beside.listeners


@pytest.fixture
def publisher(side: Side, listeners: Listeners) -> PubSubPublisher:
    return PubSubPublisher(side.sidecar)


def written(data: Any, topic: str = "delivery", **attributes: Any) -> Publication:
    """Return an event whose data no contract has written."""
    return Publication(data, pubsub_name="events", topic=topic, **{"type": TYPE, **attributes})


async def acknowledged(side: Side, topic: str) -> None:
    """Wait until the broker has nothing of a topic that the app has not settled."""

    async def all_of_it() -> bool:
        if side.server is not None:
            return not side.server.work.busy
        assert side.stack is not None
        redis = RedisStreams(side.stack.environment("contract")["REDIS_HOST"])
        return await redis.pending(topic, "contract") == 0

    await eventually(all_of_it, within=10, what=f"{topic} is acknowledged")


@pytest.mark.req("R3.2", "R3.3")
@pytest.mark.parametrize(
    ("fields", "handler"),
    [
        ({"weight": 100.5}, "OnHeavy"),
        ({"weight": 100}, "OnParcel"),
        ({"note": "fragile: glass"}, "OnFragile"),
        ({"note": "fragile, and a note that is too long for a rule"}, "OnParcel"),
        ({"weight": 101, "note": "fragile"}, "OnHeavy"),
    ],
    ids=["a number above", "a number at the limit", "a text", "two conditions", "by priority"],
)
async def test_a_rule_chooses_the_listener(
    side: Side, publisher: PubSubPublisher, listeners: Listeners, fields: dict[str, Any], handler: str
) -> None:
    mark = side.key()
    await publisher.publish(listeners.pb2.Parcel(mark=mark, **fields))

    assert [taken.handler for taken in await listeners.brought(mark)] == [handler]


@pytest.mark.parametrize("data", [{}, {"weight": None}], ids=["none of it", "null"])
async def test_an_event_without_the_fields_of_the_rules_goes_to_the_listener_of_its_type(
    side: Side, publisher: PubSubPublisher, listeners: Listeners, data: dict[str, Any]
) -> None:
    mark = side.key()
    if data:  # what compares nothing with a number is an error, and daprd's own dead letter
        event_id = await publisher.publish(written({"mark": mark, **data}))
        assert "dlreason" not in (await listeners.letter(event_id)).extensions()
        assert listeners.of(mark) == []
        return
    await publisher.publish(written({"mark": mark}))

    assert [taken.handler for taken in await listeners.brought(mark)] == ["OnParcel"]


async def test_a_rule_on_the_type_decides_though_the_data_lack_what_another_names(
    side: Side, publisher: PubSubPublisher, listeners: Listeners
) -> None:
    mark = side.key()
    await publisher.publish(written({"mark": mark}, type="delivery.v1.Glass"))

    assert [taken.handler for taken in await listeners.brought(mark)] == ["OnFragile"]


@pytest.mark.req("R3.6")
async def test_an_event_on_which_a_rule_fails_is_a_dead_letter_as_it_came(
    side: Side, publisher: PubSubPublisher, listeners: Listeners
) -> None:
    mark = side.key()
    event_id = await publisher.publish(written({"mark": mark, "weight": "heavy"}))

    letter = await listeners.letter(event_id)
    assert letter.data() == {"mark": mark, "weight": "heavy"}
    assert "dlreason" not in letter.extensions()
    assert listeners.of(mark) == []


@pytest.mark.req("R3.1", "R3.3")
async def test_a_listener_gets_the_attributes_of_the_event(
    side: Side, publisher: PubSubPublisher, listeners: Listeners
) -> None:
    mark = side.key()
    event = Publication(
        listeners.pb2.Parcel(mark=mark), id=mark, subject="parcels", extensions={"tenant": "acme", "level": 3}
    )
    await publisher.publish(event)

    [taken] = await listeners.brought(mark)
    context = taken.context
    assert (context.id, context.type, context.source) == (mark, TYPE, "contract")
    assert (context.pubsub_name, context.topic) == ("events", "delivery")
    assert (context.extensions["subject"], context.extensions["tenant"]) == ("parcels", "acme")
    assert context.extensions["level"] == 3
    assert context.extensions["pubsubname"] == "events"


@pytest.mark.req("R3.4")
@pytest.mark.parametrize("wish", ["retry", "break"])
async def test_an_event_comes_again_until_its_listener_takes_it(
    side: Side, publisher: PubSubPublisher, listeners: Listeners, wish: str
) -> None:
    mark = side.key()
    event_id = await publisher.publish(listeners.pb2.Parcel(mark=mark, wish=wish, times=2))

    taken = await listeners.brought(mark, 3)
    assert {each.context.id for each in taken} == {event_id}
    await acknowledged(side, "delivery")
    assert len(listeners.of(mark)) == 3


@pytest.mark.req("R3.4", "R3.6")
async def test_an_event_that_nobody_takes_is_a_dead_letter_when_the_tries_are_used_up(
    side: Side, publisher: PubSubPublisher, listeners: Listeners
) -> None:
    mark = side.key()
    event_id = await publisher.publish(listeners.pb2.Parcel(mark=mark, wish="retry"))

    letter = await listeners.letter(event_id)
    assert len(listeners.of(mark)) == TRIES
    assert (letter.type(), letter.data()["mark"]) == (TYPE, mark)
    assert "dlreason" not in letter.extensions()


@pytest.mark.req("R3.4", "R3.6")
async def test_an_event_that_is_dropped_is_a_dead_letter_with_the_reason(
    side: Side, publisher: PubSubPublisher, listeners: Listeners
) -> None:
    mark = side.key()
    event_id = await publisher.publish(listeners.pb2.Parcel(mark=mark, wish="drop"))

    letter = await listeners.letter(event_id)
    assert letter.extensions()["dlcode"] == "ASKED_FOR"
    assert len(listeners.of(mark)) == 1


@pytest.mark.req("R3.3", "R3.6")
@pytest.mark.parametrize(
    ("data", "content_type"),
    [(b"no JSON", "application/json"), (b'["a list"]', "application/json"), ("text", "text/plain")],
    ids=["no JSON", "a list", "text"],
)
async def test_data_that_are_no_message_are_a_dead_letter(
    side: Side, publisher: PubSubPublisher, listeners: Listeners, data: Any, content_type: str
) -> None:
    event_id = await publisher.publish(written(data, content_type=content_type))

    assert (await listeners.letter(event_id)).extensions()["dlcode"] == "UNDECODABLE"


@pytest.mark.differs("Dapr 1.14 leaves it to Redis, which brings it again", side="1.14")
async def test_an_event_that_nobody_takes_is_lost_where_there_is_no_dead_letter_topic(
    side: Side, publisher: PubSubPublisher, listeners: Listeners, difference: str
) -> None:
    mark = side.key()
    await publisher.publish(written({"mark": mark, "wish": "retry", "times": TRIES}, "delivery.lone"))
    await listeners.brought(mark, TRIES)
    if difference:
        assert side.stack is not None
        redis = RedisStreams(side.stack.environment("contract")["REDIS_HOST"])
        assert await redis.pending("delivery.lone", "contract") == 1
        return

    await acknowledged(side, "delivery.lone")
    assert len(listeners.of(mark)) == TRIES


@pytest.mark.req("R3.5")
async def test_a_topic_with_batches_brings_each_event_once(
    side: Side, publisher: PubSubPublisher, listeners: Listeners
) -> None:
    marks = [side.key() for _ in range(25)]
    await publisher.publish_bulk([written({"mark": mark}, "delivery.batch") for mark in marks])

    for mark in marks:
        assert [taken.handler for taken in await listeners.brought(mark)] == ["OnBatch"]
    await acknowledged(side, "delivery.batch")
    assert [len(listeners.of(mark)) for mark in marks] == [1] * 25


@pytest.mark.req("R3.4", "R3.6")
async def test_of_a_batch_only_what_was_not_taken_comes_again(
    side: Side, publisher: PubSubPublisher, listeners: Listeners
) -> None:
    good, late, bad, dropped = (side.key(name) for name in ("good", "late", "bad", "dropped"))
    wishes = {good: ("", 0), late: ("retry", 1), bad: ("retry", 0), dropped: ("drop", 0)}
    events = [
        written({"mark": mark, "wish": wish, "times": times}, "delivery.batch", id=mark)
        for mark, (wish, times) in wishes.items()
    ]
    await publisher.publish_bulk(events)

    assert (await listeners.letter(dropped)).extensions()["dlcode"] == "ASKED_FOR"
    assert "dlreason" not in (await listeners.letter(bad)).extensions()
    assert [len(listeners.of(mark)) for mark in (good, late, bad, dropped)] == [1, 2, TRIES, 1]


async def test_a_raw_record_comes_as_it_was_published(
    side: Side, publisher: PubSubPublisher, listeners: Listeners
) -> None:
    mark = side.key()
    data = json.dumps({"mark": mark, "note": "no CloudEvent"})
    await publisher.publish(Publication(data, pubsub_name="events", topic="delivery.raw", raw=True))

    [taken] = await listeners.brought(mark)
    assert (taken.handler, taken.parcel.note) == ("OnRaw", "no CloudEvent")
    assert (taken.context.pubsub_name, taken.context.topic) == ("events", "delivery.raw")


@pytest.mark.req("R6.1", "R6.3")
async def test_a_cron_binding_reaches_its_listener_again_and_again(side: Side, listeners: Listeners) -> None:
    before = len(listeners.of("tick"))

    taken = await listeners.brought("tick", before + 2)

    assert (taken[-1].context.kind, taken[-1].context.source) == ("binding", "tick")
    assert set(taken[-1].context.metadata) == {"timeZone", "readTimeUTC"}


async def test_events_that_are_slow_do_not_keep_others_waiting(
    side: Side, publisher: PubSubPublisher, listeners: Listeners
) -> None:
    late, prompt = side.key("late"), side.key("prompt")
    await publisher.publish(listeners.pb2.Parcel(mark=late, wish="retry", times=2))
    await asyncio.gather(*(publisher.publish(listeners.pb2.Parcel(mark=prompt)) for _ in range(5)))

    await listeners.brought(prompt, 5, within=3)
    await listeners.brought(late, 3)
