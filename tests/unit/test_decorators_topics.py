"""Topic handlers without a contract: what they get, what their answers mean, and which of them an event reaches."""

from __future__ import annotations

import sys
import warnings
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from cloudevents.sdk.event.v1 import Event
from dapr.proto.runtime.v1 import appcallback_pb2
from google.protobuf.empty_pb2 import Empty
from google.protobuf.struct_pb2 import Struct

from apibase import App, ContractError, Drop, Retry, Rule, ServiceError, SubscriptionMessage, TopicEventResponse
from tests.unit.decorated import Daprd, started

if TYPE_CHECKING:
    from apibase import Settings
    from tests.unit.conftest import Desk, Log
    from tests.unit.fake_dapr import FakeDapr

SUCCESS, RETRY, DROP = range(3)
HEADERS = (("colour", "red"), ("dapr-api-token", "hunter2"))

pytestmark = pytest.mark.usefixtures("dapr", "log")


@pytest.fixture
def app(settings: Settings) -> App:
    return App(settings)


def event(**changes: Any) -> appcallback_pb2.TopicEventRequest:
    fields: dict[str, Any] = {
        "id": "1",
        "source": "shop",
        "type": "desk.asked",
        "spec_version": "1.0",
        "data_content_type": "application/json",
        "data": b'{"a": 1}',
        "topic": "desk",
        "pubsub_name": "events",
        "extensions": {"shade": "dark"},
    }
    return appcallback_pb2.TopicEventRequest(**{**fields, **changes})


async def deliver(daprd: Daprd, **changes: Any) -> int:
    status: int = (await daprd.app.OnTopicEvent(event(**changes), metadata=HEADERS)).status
    return status


class Seen(list[Any]):
    """Which handlers were called."""

    def handler(self, name: str) -> Any:
        async def handle(event: SubscriptionMessage) -> None:
            self.append(name)

        handle.__name__ = name
        return handle


@pytest.fixture
def seen() -> Seen:
    return Seen()


@pytest.mark.req("R3.3")
async def test_a_handler_gets_the_message_that_it_is_annotated_with(app: App) -> None:
    got: list[SubscriptionMessage] = []

    class Own(SubscriptionMessage):
        """A message of somebody's own."""

    with warnings.catch_warnings():
        warnings.simplefilter("error")

        @app.subscribe("events", "desk")
        async def handler(event: SubscriptionMessage) -> None:
            got.append(event)

        class Desk:
            def plain(self, event: SubscriptionMessage) -> None:
                got.append(event)

            async def __call__(self, event: SubscriptionMessage) -> None:
                got.append(event)

        app.subscribe("events", "plain")(Desk().plain)
        app.subscribe("events", "object")(Desk())

    async with started(app) as daprd:
        for topic in ("desk", "plain", "object"):
            assert await deliver(daprd, topic=topic) == SUCCESS

    assert [message.topic() for message in got] == ["desk", "plain", "object"]
    message = got[0]
    assert (message.id(), message.type(), message.source(), message.spec_version()) == (
        "1",
        "desk.asked",
        "shop",
        "1.0",
    )
    assert (message.data(), message.raw_data(), message.extensions()) == ({"a": 1}, b'{"a": 1}', {"shade": "dark"})
    assert message.metadata()["colour"] == "red"
    assert "dapr-api-token" not in message.metadata()


def named_in_vain(event: Unknown) -> None:  # type: ignore[name-defined]  # noqa: F821 - what can't be resolved
    ...


@pytest.mark.parametrize(
    "function",
    [lambda event: None, named_in_vain, lambda: None, sys.stdout.write],
    ids=["no annotation", "one that can't be resolved", "no parameter", "a builtin"],
)
def test_a_handler_without_the_annotation_is_warned_of_the_deprecated_event(app: App, function: Any) -> None:
    with pytest.warns(DeprecationWarning, match=r"apibase\.SubscriptionMessage") as told:
        app.subscribe("events", "desk")(function)

    assert [warning.filename for warning in told] == [__file__]


async def test_the_deprecated_event_is_the_sdks(app: App) -> None:
    got: list[Event] = []
    with pytest.warns(DeprecationWarning, match="annotate"):

        @app.subscribe("events", "desk")
        def handler(event: Any) -> None:
            got.append(event)

    extensions = Struct()
    extensions.update({"shade": "dark", "size": 1.0, "fine": True})
    async with started(app) as daprd:
        await deliver(daprd, extensions=extensions)

    (made,) = got
    assert isinstance(made, Event)
    assert (made.EventID(), made.EventType(), made.Source(), made.Subject()) == ("1", "desk.asked", "shop", "desk")
    assert (made.Data(), made.ContentType()) == (b'{"a": 1}', "application/json")
    known = made.Extensions()
    assert {key: known[key] for key in ("shade", "size", "fine")} == {"shade": "dark", "size": 1.0, "fine": True}
    assert known["_metadata_colour"] == "red"
    assert "_metadata_dapr-api-token" not in known


@pytest.mark.parametrize("stable", [True, False], ids=["the stable method", "the one that Dapr 1.14 calls"])
async def test_the_entries_of_a_batch_come_one_by_one_with_their_metadata(app: App, stable: bool) -> None:
    got: list[Any] = []

    @app.subscribe("events", "desk")
    async def handler(event: SubscriptionMessage) -> TopicEventResponse:
        got.append(event)
        return TopicEventResponse("success" if event.type() else "retry")

    with pytest.warns(DeprecationWarning, match="annotate"):

        @app.subscribe("events", "old")
        async def old(event: Event) -> None:
            got.append(event)

    entries = [
        appcallback_pb2.TopicEventBulkRequestEntry(
            entry_id="e1",
            cloud_event=appcallback_pb2.TopicEventCERequest(
                id="1", source="shop", type="t", spec_version="1.0", data=b"[1]", data_content_type="application/json"
            ),
            metadata={"key": "k"},
        ),
        appcallback_pb2.TopicEventBulkRequestEntry(entry_id="e2", bytes=b"raw", content_type="text/plain"),
    ]
    entries[0].cloud_event.extensions.update({"shade": "dark"})
    async with started(app) as daprd:
        send = daprd.app.OnBulkTopicEvent if stable else daprd.alpha.OnBulkTopicEventAlpha1
        for topic, statuses in (("desk", [SUCCESS, RETRY]), ("old", [SUCCESS, SUCCESS])):
            request = appcallback_pb2.TopicEventBulkRequest(topic=topic, pubsub_name="events", entries=entries)
            told = (await send(request, metadata=HEADERS)).statuses
            assert [(each.entry_id, each.status) for each in told] == list(zip(["e1", "e2"], statuses, strict=True))

    first, raw, old_first, old_raw = got
    assert (first.id(), first.source(), first.type(), first.spec_version()) == ("1", "shop", "t", "1.0")
    assert (first.data(), first.topic(), first.pubsub_name()) == ([1], "desk", "events")
    assert first.extensions() == {"shade": "dark"}
    assert {key: first.metadata()[key] for key in ("key", "colour")} == {"key": "k", "colour": "red"}
    assert (raw.id(), raw.data(), raw.source(), raw.type()) == ("e2", "raw", "", "")
    known = old_first.Extensions()
    assert (known["shade"], known["key"], known["_metadata_colour"]) == ("dark", "k", "red")
    assert (old_raw.EventID(), old_raw.Data(), old_raw.ContentType()) == ("e2", b"raw", "text/plain")


@pytest.mark.req("R3.4")
@pytest.mark.parametrize(
    ("outcome", "status", "reason"),
    [
        (None, SUCCESS, None),
        ("drop", SUCCESS, None),
        (TopicEventResponse("success"), SUCCESS, None),
        (TopicEventResponse("retry"), RETRY, "the handler returned retry"),
        (TopicEventResponse("drop"), DROP, "DROPPED: the handler returned drop"),
        (Retry("later"), RETRY, "later"),
        (Drop("never"), DROP, "DROPPED: never"),
        (ServiceError(grpc.StatusCode.UNAVAILABLE, "CLOSED", "shut"), RETRY, "UNAVAILABLE CLOSED: shut"),
        (RuntimeError("hunter2"), RETRY, "internal error"),
        (NotImplementedError(), RETRY, "internal error"),
    ],
)
@pytest.mark.parametrize("plain", [False, True], ids=["async def", "def"])
async def test_an_outcome_has_one_verdict(
    app: App, log: Log, outcome: object, status: int, reason: str | None, plain: bool
) -> None:
    def act(event: SubscriptionMessage) -> object:
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    async def act_on_loop(event: SubscriptionMessage) -> object:
        return act(event)

    app.subscribe("events", "desk")(act if plain else act_on_loop)
    async with started(app) as daprd:
        assert await deliver(daprd) == status

    assert log.one(logger="apibase.event").get("reason", "").startswith(reason or "")
    assert bool(log.of(level="ERROR")) == (status == DROP or "internal" in (reason or ""))


@pytest.mark.req("R3.6")
async def test_what_is_dropped_goes_to_the_dead_letter_topic_with_a_reason(app: App, dapr: FakeDapr) -> None:
    @app.subscribe("events", "desk", dead_letter_topic="desk.dead")
    def handler(event: SubscriptionMessage) -> TopicEventResponse:
        return TopicEventResponse("drop")

    async with started(app) as daprd:
        assert await deliver(daprd) == SUCCESS

    (letter,) = dapr.published
    assert letter.topic == "desk.dead"
    assert b'"dlreason": "the handler returned drop"' in letter.data
    assert b'"dlhandler": "handler"' in letter.data


async def subscriptions(daprd: Daprd) -> list[appcallback_pb2.TopicSubscription]:
    return list((await daprd.app.ListTopicSubscriptions(Empty())).subscriptions)


async def test_rules_of_a_topic_make_one_subscription_in_order_of_their_priority(app: App, seen: Seen) -> None:
    subscribe = app.subscribe
    subscribe("events", "desk", {"a": "b"}, "dead")(seen.handler("rest"))
    subscribe("events", "desk", rule=Rule('event.type == "late"', 2))(seen.handler("default"))
    subscribe("events", "desk", rule=Rule('event.type == "early"', 1))(seen.handler("early"))
    subscribe("events", "desk", rule=Rule('event.type == "too"', 2))(seen.handler("too"))
    async with started(app) as daprd:
        (subscription,) = await subscriptions(daprd)
        fallback = subscription.routes.default
        for path in ("early", "default", "too", fallback, "", "unknown"):
            assert await deliver(daprd, path=path) == SUCCESS

    assert [(rule.path, rule.match) for rule in subscription.routes.rules] == [
        ("early", 'event.type == "early"'),
        ("default", 'event.type == "late"'),
        ("too", 'event.type == "too"'),
    ]
    assert (dict(subscription.metadata), subscription.dead_letter_topic) == ({"a": "b"}, "dead")
    assert seen == ["early", "default", "too", "rest", "rest", "rest"]


async def test_an_event_that_no_rule_matches_and_nobody_else_takes_is_acknowledged(app: App, seen: Seen) -> None:
    app.subscribe("events", "desk", rule=Rule("event.size > 1", 1))(seen.handler("big"))
    async with started(app) as daprd:
        assert await deliver(daprd, path="") == SUCCESS

    assert seen == []


async def test_an_event_of_a_pattern_reaches_its_handler_whatever_its_topic(
    app: App, dapr: FakeDapr, seen: Seen
) -> None:
    dapr.components["other"] = "pubsub.mqtt3"
    app.subscribe("events", "desk/1")(seen.handler("exact"))
    app.subscribe("events", "desk/#", disable_topic_validation=True)(seen.handler("pattern"))
    app.subscribe("events", "desk/#", rule=Rule("event.size > 1", 1))(seen.handler("big"))
    app.subscribe("other", "#", None, None, None, True)(seen.handler("other"))
    async with started(app) as daprd:
        told = {each.topic: each.routes.default for each in await subscriptions(daprd)}
        for topic, path in (
            ("desk/1", ""),
            ("desk/1", "desk/#"),
            ("desk/2", "desk/#"),
            ("desk/2", "big"),
            ("desk/2", ""),
        ):
            assert await deliver(daprd, topic=topic, path=path) == SUCCESS
        await deliver(daprd, pubsub_name="other", topic="x", path="")

    assert told == {"desk/1": "", "desk/#": "desk/#", "#": "#"}
    assert seen == ["exact", "pattern", "pattern", "big", "pattern", "other"]


async def test_without_a_path_the_only_pattern_of_a_pubsub_takes_it_and_of_two_none(app: App, seen: Seen) -> None:
    app.subscribe("events", "desk/#", disable_topic_validation=True)(seen.handler("desk"))
    app.subscribe("events", "shop/#", disable_topic_validation=True)(seen.handler("shop"))
    app.subscribe("events", "plain")(seen.handler("plain"))
    async with started(app) as daprd:
        for path in ("", "shop/#", "plain"):
            assert await deliver(daprd, topic="shop/1", path=path) == SUCCESS

    assert seen == ["shop"]


async def test_a_contract_and_decorators_share_a_topic(app: App, desk: Desk, seen: Seen) -> None:
    class Events(desk.grpc.DeskEventsServicer):
        async def OnAsked(self, request: Any, context: Any) -> None:
            seen.append("contract")

        OnAnswered = OnMail = OnTick = OnAsked

    app.subscribe("events", "desk", rule=Rule("event.size > 1", 1))(seen.handler("big"))
    app.add_servicer(Events())
    app.subscribe("events", "desk")(seen.handler("rest"))
    async with started(app) as daprd:
        (subscription,) = await subscriptions(daprd)
        data = {"data": b'{"text": "why"}'}
        for kind, path in (("desk.v1.Asked", ""), ("desk.asked", ""), ("desk.v1.Asked", "big")):
            assert await deliver(daprd, type=kind, path=path, **data) == SUCCESS

    assert subscription.dead_letter_topic == "desk.dead", "which only the contract names"
    assert seen == ["contract", "rest", "big"]


@pytest.mark.parametrize(
    ("first", "second", "says"),
    [
        ({}, {}, r"both listen to every event on topic 'desk' of 'events'; take one away"),
        ({"rule": Rule("a", 1)}, {"rule": Rule("a", 2)}, r"both listen to events that match 'a'"),
        ({"rule": Rule("a", 1)}, {"rule": Rule("b", 2)}, r"have one name, by which daprd tells rules apart"),
        (
            {"dead_letter_topic": "x"},
            {"rule": Rule("b", 2), "dead_letter_topic": "y"},
            r"name different dead-letter topic settings",
        ),
        ({"metadata": {"a": "1"}}, {"rule": Rule("b", 2), "metadata": {"a": "2"}}, r"different metadata settings"),
    ],
)
def test_what_contradicts_itself_is_refused(
    app: App, seen: Seen, first: dict[str, Any], second: dict[str, Any], says: str
) -> None:
    app.subscribe("events", "desk", **first)(seen.handler("handler"))
    with pytest.raises(ValueError, match=says) as told:
        app.subscribe("events", "desk", **second)(seen.handler("handler"))

    assert isinstance(told.value, ContractError)
