"""The archive of dead letters, on a sidecar in this process: what is written in which order, and what a failure leaves."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import pytest
from dapr.proto.runtime.v1 import appcallback_pb2, appcallback_pb2_grpc

from apibase import App, ContractError, Settings, SidecarError, StateManager, SubscriptionMessage
from apibase.clients import Sidecar
from apibase.dead_letters.archive import DeadLetterArchive
from apibase.dead_letters.filter import DeadLetterFilter, is_replayed
from apibase.dead_letters.index import PAGE_SIZE
from apibase.dead_letters.replay import DeadLetterReplay, LacksFields, NotReplayable
from apibase.routes import RouteTable
from dapr_contract.v1.dead_letters_pb2 import DeadLetter, DeadLetterEntry, DeadLetterSummary
from tests.unit.app_channels import RETRY, SUCCESS, Listener, app_channel
from tests.unit.conftest import Desk, Log
from tests.unit.fake_dapr import FakeDapr, LostAnswer, Row


@pytest.fixture
async def sidecar(dapr: FakeDapr, settings: Settings) -> AsyncIterator[Sidecar]:
    opened = Sidecar(settings)
    yield opened
    await opened.close()


@pytest.fixture
def archive(sidecar: Sidecar) -> DeadLetterArchive:
    return DeadLetterArchive(StateManager(sidecar, "statestore"))


def letter(number: int = 0, **fields: Any) -> DeadLetter:
    made = DeadLetter(**{"id": f"l-{number}", "source": "shop", "data": b'{"text": "why"}', **fields})
    made.content_type = made.content_type or "application/json"
    summary = {"event_id": f"event-{number}", "event_type": "post.v1.Letter", "pubsub_name": "events"}
    given = {"topic": "letters", "handler": "post.v1.PostEvents.OnLetter", "code": "STALE"}
    made.summary.MergeFrom(DeadLetterSummary(**{**summary, **given}))
    return made


async def ids(archive: DeadLetterArchive, **wanted: Any) -> list[str]:
    return [entry.id for entry in await archive.find(DeadLetterFilter(**wanted))]


def saves(dapr: FakeDapr) -> list[str]:
    return [call.request.states[0].key for call in dapr.calls if call.method == "SaveState"]


async def test_a_letter_is_listed_before_it_is_written_and_both_expire(
    archive: DeadLetterArchive, dapr: FakeDapr
) -> None:
    await archive.add(letter())
    assert saves(dapr) == ["dead-letters/page/1", "dead-letters/letter/l-0"]
    ttls = [int(row.metadata["ttlInSeconds"]) for row in dapr.rows.values()]
    assert all(abs(each - 30 * 24 * 3600) < 60 for each in ttls)
    got = await archive.get("l-0")
    assert got is not None
    assert (got.data, got.page, got.summary.code) == (b'{"text": "why"}', 1, "STALE")


async def test_an_empty_archive_is_empty(archive: DeadLetterArchive) -> None:
    assert await archive.find() == []
    assert await archive.get("l-0") is None


async def test_letters_that_come_together_are_written_in_batches(archive: DeadLetterArchive, dapr: FakeDapr) -> None:
    await asyncio.gather(*(archive.add(letter(number)) for number in range(1000)))
    assert len(await ids(archive)) == 1000
    pages = [key for key in saves(dapr) if "/page/" in key]
    assert len(pages) <= 2 * 1000 / PAGE_SIZE
    assert len([key for key in saves(dapr) if "/letter/" in key]) == 1000


async def test_a_letter_that_comes_again_is_one_letter_listed_where_it_came_last(archive: DeadLetterArchive) -> None:
    for number in (1, 2, 1):
        await archive.add(letter(number))
    assert await ids(archive) == ["l-1", "l-2"]


async def test_an_entry_without_its_letter_does_no_harm(archive: DeadLetterArchive, dapr: FakeDapr) -> None:
    async def lost() -> None:
        dapr.fail("SaveState", grpc.StatusCode.UNAVAILABLE)

    dapr.after("SaveState", lost)
    with pytest.raises(SidecarError):
        await archive.add(letter(1))
    assert await ids(archive) == ["l-1"]
    assert await archive.get("l-1") is None
    await archive.add(letter(1))
    assert await ids(archive) == ["l-1"]
    assert await archive.get("l-1") is not None


async def test_a_store_that_is_away_fails_every_letter_and_the_next_ones_are_kept(
    archive: DeadLetterArchive, dapr: FakeDapr
) -> None:
    dapr.fail("GetState", grpc.StatusCode.INTERNAL, "fail to get from state store: connection refused")
    results = await asyncio.gather(*(archive.add(letter(number)) for number in range(5)), return_exceptions=True)
    assert sum(isinstance(each, SidecarError) for each in results) >= 1
    await asyncio.gather(*(archive.add(letter(number)) for number in range(5)))
    assert set(await ids(archive)) == {f"l-{number}" for number in range(5)}


async def test_a_lost_answer_leaves_no_second_letter(archive: DeadLetterArchive, dapr: FakeDapr) -> None:
    async def lose() -> None:
        raise LostAnswer

    dapr.after("SaveState", lose)
    with pytest.raises(SidecarError):
        await archive.add(letter(1))
    await archive.add(letter(1))
    assert await ids(archive) == ["l-1"]


async def test_another_writer_costs_another_try_and_no_letter(
    archive: DeadLetterArchive, sidecar: Sidecar, dapr: FakeDapr
) -> None:
    other = DeadLetterArchive(StateManager(sidecar, "statestore"))
    await asyncio.gather(
        *(archive.add(letter(number)) for number in range(150)),
        *(other.add(letter(number)) for number in range(150, 300)),
    )
    assert set(await ids(archive)) == {f"l-{number}" for number in range(300)}


async def test_a_page_that_can_not_be_read_stops_nobody(archive: DeadLetterArchive, dapr: FakeDapr, log: Log) -> None:
    await archive.add(letter(1))
    dapr.rows["dead-letters/page/1"] = Row(b"garbage", "7")
    dapr.rows["dead-letters/letter/l-2"] = Row(b"garbage", "8")
    await archive.add(letter(2))
    assert await ids(archive) == ["l-2"]
    assert await archive.get("l-2") is not None
    assert log.of(level="ERROR")


async def test_the_index_moves_past_pages_that_have_expired(archive: DeadLetterArchive, dapr: FakeDapr) -> None:
    for start in (0, 100, 200):
        await asyncio.gather(*(archive.add(letter(number)) for number in range(start, start + 100)))
    del dapr.rows["dead-letters/page/1"]
    await archive.add(letter(300))
    index = json.loads(dapr.rows["dead-letters/index"].data)
    assert (index["firstPage"], index["lastPage"]) == ("2", "4")
    assert len(await ids(archive)) == 201


async def test_what_has_expired_is_not_listed_though_its_page_is_there(sidecar: Sidecar) -> None:
    state = StateManager(sidecar, "statestore")
    await DeadLetterArchive(state, ttl=timedelta(milliseconds=1)).add(letter(1))
    await DeadLetterArchive(state).add(letter(2))
    assert await ids(DeadLetterArchive(state)) == ["l-2"]


async def test_a_letter_that_is_too_large_is_archived_without_its_data(sidecar: Sidecar) -> None:
    archive = DeadLetterArchive(StateManager(sidecar, "statestore"), max_message_bytes=100_000)
    large = letter(1, data=b"x" * 50_000)
    large.summary.reason = "é" * 1000
    await archive.add(large)
    got = await archive.get("l-1")
    assert got is not None
    assert got.data == b""
    assert "larger than a message" in got.data_missing
    (entry,) = await archive.find()
    assert len(entry.summary.reason) == 200


async def test_a_letter_that_only_the_store_finds_too_large_is_archived_without_its_data(
    archive: DeadLetterArchive, dapr: FakeDapr, log: Log
) -> None:
    limit = 10_000

    async def save(request: Any, context: Any) -> Any:
        if any(len(state.value) > limit for state in request.states):
            await context.abort(grpc.StatusCode.INTERNAL, "the item is too large")
        return await type(dapr).SaveState(dapr, request, context)

    dapr.SaveState = save  # type: ignore[method-assign]
    await dapr.stop()
    await dapr.start()
    await archive.add(letter(1, data=b"x" * 50_000))
    got = await archive.get("l-1")
    assert got is not None
    assert got.data == b""
    assert "the item is too large" in got.data_missing
    assert "without its data" in log.one(level="WARNING")["message"]


async def test_a_store_that_fails_once_costs_no_data(archive: DeadLetterArchive, dapr: FakeDapr) -> None:
    async def fail_the_next() -> None:
        dapr.fail("SaveState", grpc.StatusCode.INTERNAL)

    dapr.after("SaveState", fail_the_next)
    await archive.add(letter(1))
    got = await archive.get("l-1")
    assert got is not None
    assert (got.data, got.data_missing) == (b'{"text": "why"}', "")


async def test_closing_ends_what_waits(archive: DeadLetterArchive, dapr: FakeDapr) -> None:
    at_work, end = asyncio.Event(), asyncio.Event()

    async def wait() -> None:
        at_work.set()
        await end.wait()

    dapr.after("GetState", wait)
    adding = [asyncio.create_task(archive.add(letter(number))) for number in range(150)]
    await at_work.wait()
    await archive.close()
    end.set()
    results = await asyncio.gather(*adding, return_exceptions=True)
    assert all(isinstance(each, asyncio.CancelledError) for each in results)


async def test_a_call_that_is_over_leaves_the_others_of_its_batch_alone(archive: DeadLetterArchive) -> None:
    adding = [asyncio.create_task(archive.add(letter(number))) for number in range(3)]
    await asyncio.sleep(0)
    adding[0].cancel()
    results = await asyncio.gather(*adding, return_exceptions=True)
    assert results[1:] == [None, None]
    assert {"l-1", "l-2"} <= set(await ids(archive))


async def test_filters(archive: DeadLetterArchive) -> None:
    await archive.add(letter(1))
    assert await ids(archive, handler="OnLetter", code="STALE", topic="letters", type="post.v1.Letter") == ["l-1"]
    assert await ids(archive, since=datetime.now(UTC) - timedelta(minutes=1)) == ["l-1"]
    assert await ids(archive, handler="PostEvents.OnLetter", type="Letter") == ["l-1"]
    assert await ids(archive, handler="Letter") == []
    assert await ids(archive, type="etter") == []
    assert await ids(archive, since=datetime.now(UTC) + timedelta(minutes=1)) == []


async def test_deleting_takes_letter_and_entries_but_not_what_died_again(
    archive: DeadLetterArchive, dapr: FakeDapr
) -> None:
    for number in (1, 2, 1):
        await archive.add(letter(number))
    listed = await archive.find()
    await archive.add(letter(2))
    await archive.delete([*listed, DeadLetterEntry(id="l-3")])
    assert await ids(archive) == ["l-2"]
    assert "dead-letters/letter/l-1" not in dapr.rows
    assert await archive.get("l-2") is not None


async def test_a_letter_that_can_not_be_read_can_be_deleted(archive: DeadLetterArchive, dapr: FakeDapr) -> None:
    await archive.add(letter(1))
    dapr.rows["dead-letters/letter/l-1"] = Row(b"no JSON", "1")
    await archive.delete(await archive.find())
    assert await archive.find() == []
    assert "dead-letters/letter/l-1" not in dapr.rows


# Replay


@pytest.fixture
def replay(sidecar: Sidecar, archive: DeadLetterArchive) -> DeadLetterReplay:
    return DeadLetterReplay(sidecar, archive)


async def test_a_replay_is_the_event_again_for_its_handler(
    archive: DeadLetterArchive, replay: DeadLetterReplay, dapr: FakeDapr
) -> None:
    dead = letter(1, handlers=["post.v1.PostEvents.OnLetter"])
    dead.extensions.update({"shop": "east", "retries": 2, "expiration": "2020-01-01T00:00:00Z"})
    await archive.add(dead)
    await replay.replay(dead)
    (request,) = dapr.published
    assert (request.pubsub_name, request.topic) == ("events", "letters")
    assert request.data_content_type == "application/cloudevents+json"
    assert json.loads(request.data) == {
        "specversion": "1.0",
        "id": "event-1",
        "source": "shop",
        "type": "post.v1.Letter",
        "datacontenttype": "application/json",
        "data": {"text": "why"},
        "shop": "east",
        "retries": 2,
        "dlreplay": "post.v1.PostEvents.OnLetter",
    }
    assert b"2.0" not in request.data
    (entry,) = await archive.find()
    got = await archive.get("l-1")
    assert got is not None
    assert is_replayed(got.summary)
    assert is_replayed(entry.summary)
    assert await ids(archive, waiting=True) == []


async def test_a_letter_that_dies_again_keeps_when_it_was_replayed(
    archive: DeadLetterArchive, replay: DeadLetterReplay
) -> None:
    await archive.add(letter(1))
    await replay.replay(await read(archive))
    await archive.add(letter(1))
    got = await archive.get("l-1")
    (entry,) = await archive.find()
    assert got is not None
    for summary in (got.summary, entry.summary):
        assert summary.HasField("replayed_at")
        assert not is_replayed(summary)
    assert await ids(archive, waiting=True) == ["l-1"]


async def test_a_letter_that_dies_before_its_replay_is_noted_has_died_again(
    archive: DeadLetterArchive, replay: DeadLetterReplay, dapr: FakeDapr
) -> None:
    await archive.add(letter(1))

    async def die_at_once() -> None:
        await archive.add(letter(1))

    dead = await read(archive)
    dapr.after("PublishEvent", die_at_once)
    await replay.replay(dead)
    assert await ids(archive, waiting=True) == ["l-1"]


@pytest.mark.parametrize("ahead", [timedelta(days=1), timedelta(days=-1)], ids=["ahead", "behind"])
async def test_a_clock_that_is_wrong_where_letters_are_replayed_does_not_matter(
    archive: DeadLetterArchive, ahead: timedelta
) -> None:
    now = datetime.now(UTC) + ahead
    await archive.add(letter(1))
    first = await read(archive)
    await archive.mark_replayed(first, now)
    assert await ids(archive, waiting=True) == []
    await archive.add(letter(1))
    assert await ids(archive, waiting=True) == ["l-1"]
    await archive.mark_replayed(first, now)
    assert await ids(archive, waiting=True) == ["l-1"], "the second death is not undone by a late note"
    await archive.mark_replayed(await read(archive), now)
    assert await ids(archive, waiting=True) == []


async def read(archive: DeadLetterArchive) -> DeadLetter:
    got = await archive.get("l-1")
    assert got is not None
    return got


@pytest.mark.parametrize(
    ("content_type", "data", "member"),
    [
        ("application/octet-stream", b"\xff\x00", {"data_base64": "/wA="}),
        ("application/json", b"no JSON", {"data_base64": "bm8gSlNPTg=="}),
        ("text/plain", b"why", {"data": "why"}),
        ("application/vnd.shop+json", b"[1]", {"data": [1]}),
        ("application/json", b"[1e999]", {"data_base64": "WzFlOTk5XQ=="}),
        ("application/json", b"[NaN]", {"data_base64": "W05hTl0="}),
        ("application/json", b'"\\ud800"', {"data_base64": "Ilx1ZDgwMCI="}),
    ],
)
async def test_data_keeps_its_type(
    archive: DeadLetterArchive,
    replay: DeadLetterReplay,
    dapr: FakeDapr,
    content_type: str,
    data: bytes,
    member: dict[str, Any],
) -> None:
    dead = letter(1, content_type=content_type, data=data)
    await archive.add(dead)
    await replay.replay(dead)
    envelope = json.loads(dapr.published[0].data)
    assert envelope["datacontenttype"] == content_type
    assert {key: value for key, value in envelope.items() if key.startswith("data") and key in member} == member


async def test_a_replay_to_another_topic_is_for_everybody_there(
    archive: DeadLetterArchive, replay: DeadLetterReplay, dapr: FakeDapr
) -> None:
    """The handler that could not take it does not listen there, or has another name now: nobody would get it."""
    dead = letter(1, handlers=["post.v1.PostEvents.OnLetter"])
    await archive.add(dead)
    await replay.replay(dead, topic="letters.v2")
    (request,) = dapr.published
    assert request.topic == "letters.v2"
    assert "dlreplay" not in json.loads(request.data)


async def test_a_raw_record_is_published_as_it_came(
    archive: DeadLetterArchive, replay: DeadLetterReplay, dapr: FakeDapr
) -> None:
    dead = letter(1, raw_payload=True, data=b"\xff\x00")
    await archive.add(dead)
    await replay.replay(dead, topic="elsewhere")
    (request,) = dapr.published
    assert (request.data, request.topic, dict(request.metadata)) == (b"\xff\x00", "elsewhere", {"rawPayload": "true"})


@pytest.mark.req("R13.4")
async def test_what_a_letter_lacks_stops_its_replay(replay: DeadLetterReplay, dapr: FakeDapr) -> None:
    with pytest.raises(LacksFields, match=r"a replay would lack card, address\.door_code"):
        await replay.replay(letter(redacted_fields=["card", "address.door_code"]))
    with pytest.raises(NotReplayable, match="not in the archive: too large"):
        await replay.replay(letter(data_missing="too large"), without_redacted_fields=True)
    nowhere = letter()
    nowhere.summary.topic = ""
    with pytest.raises(NotReplayable, match="topic"):
        await replay.replay(nowhere)
    assert dapr.published == []


async def test_a_replay_that_the_broker_does_not_take_is_not_noted(
    archive: DeadLetterArchive, replay: DeadLetterReplay, dapr: FakeDapr
) -> None:
    await archive.add(letter(1))
    dapr.fail("PublishEvent", grpc.StatusCode.UNAVAILABLE)
    with pytest.raises(SidecarError):
        await replay.replay(letter(1))
    assert await ids(archive, waiting=True) == ["l-1"]


# The app


@pytest.fixture
def grpc_add_to_server() -> Any:
    return appcallback_pb2_grpc.add_AppCallbackServicer_to_server


@pytest.fixture
def grpc_stub_cls() -> Any:
    return appcallback_pb2_grpc.AppCallbackStub


@pytest.mark.parametrize(
    ("extensions", "data", "handler"),
    [
        ({}, b'{"text": "why"}', "OnLetter"),
        ({"dlreplay": "post.v1.PostEvents.OnLetter"}, b'{"text": "why"}', "OnLetter"),
        ({"dlreplay": "post.v1.PostEvents.OnHeavy"}, b'{"text": "why"}', "OnHeavy"),
        ({"dlreplay": "a.B,post.v1.PostEvents.OnExpress"}, b'{"text": "why"}', "OnExpress"),
        ({"dlreplay": "elsewhere.v1.Events.OnLetter"}, b'{"text": "why"}', None),
        ({"dlreplay": "post.v1.PostEvents.OnNote"}, b'{"text": "why"}', None),
    ],
)
@pytest.mark.req("R3.6")
async def test_a_replay_is_for_the_handler_that_it_names(
    post: Desk, grpc_aio_stub: Any, extensions: dict[str, str], data: bytes, handler: str | None
) -> None:
    listener = Listener()
    routes = RouteTable()
    routes.add(listener.implement(post, "PostEvents"))
    request = appcallback_pb2.TopicEventRequest(
        id="e", source="s", type="post.v1.Letter", data_content_type="application/json", topic="letters"
    )
    request.pubsub_name, request.data = "events", data
    request.extensions.update(extensions)
    async with grpc_aio_stub(servicer=app_channel(routes)) as stub:
        response = await stub.OnTopicEvent(request)
    assert response.status == SUCCESS
    assert [name for name, _, _ in listener.got] == ([handler] if handler else [])


async def started(post: Desk, settings: Settings, **changes: Any) -> App:
    app = App(settings.model_copy(update={"dead_letter_store": "statestore", **changes}))
    app.add_servicer(Listener().implement(post, "PostEvents"))
    await app.start()
    return app


@pytest.mark.req("R3.6")
async def test_an_app_archives_what_comes_on_its_dead_letter_topics(
    post: Desk, dapr: FakeDapr, settings: Settings
) -> None:
    dapr.components |= {"mail": "bindings.smtp"}
    app = await started(post, settings)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{app.port}") as channel:
        stub = appcallback_pb2_grpc.AppCallbackStub(channel)
        told = await stub.ListTopicSubscriptions(appcallback_pb2.ListTopicSubscriptionsResponse())
        topics = {each.topic: dict(each.metadata) for each in told.subscriptions}
        assert topics["letters.dead"] == topics["records.dead"] == {"rawPayload": "true"}

        def record(**envelope: str) -> appcallback_pb2.TopicEventRequest:
            members = {"specversion": "1.0", "id": "event-1", "source": "s", "type": "post.v1.Letter", **envelope}
            request = appcallback_pb2.TopicEventRequest(id="random", pubsub_name="events", topic="letters.dead")
            request.data = json.dumps(members).encode()
            return request

        taken = await stub.OnTopicEvent(record(dlhandler="post.v1.PostEvents.OnLetter"))
        foreign = await stub.OnTopicEvent(record(dlhandler="elsewhere.v1.Events.OnLetter"))
        dapr.fail("SaveState", grpc.StatusCode.UNAVAILABLE)
        unlucky = await stub.OnTopicEvent(record(id="event-2", dlhandler="post.v1.PostEvents.OnLetter"))
        large = await stub.OnTopicEvent(
            record(id="event-3", dlhandler="post.v1.PostEvents.OnLetter", data="x" * settings.max_message_bytes)
        )
    assert [taken.status, foreign.status, unlucky.status, large.status] == [SUCCESS, SUCCESS, RETRY, SUCCESS]
    found = await DeadLetterArchive(app.state("statestore")).find()
    assert [entry.summary.event_id for entry in found] == ["event-3", "event-1"]
    await app.stop()


async def test_a_listener_of_a_dead_letter_topic_keeps_it(post: Desk, dapr: FakeDapr, settings: Settings) -> None:
    app = App(settings.model_copy(update={"dead_letter_store": "statestore"}))
    app.add_servicer(Listener().implement(post, "PostEvents"))

    @app.subscribe("events", "letters.dead")
    async def bury(event: SubscriptionMessage) -> None: ...

    await app.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{app.port}") as channel:
        stub = appcallback_pb2_grpc.AppCallbackStub(channel)
        told = await stub.ListTopicSubscriptions(appcallback_pb2.ListTopicSubscriptionsResponse())
    assert {each.topic: dict(each.metadata) for each in told.subscriptions}["letters.dead"] == {}
    await app.stop()


async def test_a_store_that_the_sidecar_has_not_loaded_stops_start_up_and_is_named(
    post: Desk, dapr: FakeDapr, settings: Settings
) -> None:
    app = App(settings.model_copy(update={"dead_letter_store": "graveyard"}))
    app.add_servicer(Listener().implement(post, "PostEvents"))
    with pytest.raises(
        ContractError, match=r"APIBASE_DEAD_LETTER_STORE names state store 'graveyard'.*it has statestore"
    ):
        await app.start()
    await app.stop()
