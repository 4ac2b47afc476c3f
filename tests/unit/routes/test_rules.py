"""Rules, batches, raw records and jobs in the route table: what daprd is told, who gets an event, what clashes."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest
from google.protobuf.duration_pb2 import Duration

from apibase import ContractError
from apibase.contract.match_guard import guarded
from apibase.routes import DEFAULT_PATH, GENERIC_EVENT_TYPE, Incoming, JobRoute, Route, RouteTable, TopicRoute
from tests.unit.app_channels import Listener, topic_event

if TYPE_CHECKING:
    from tests.unit.conftest import Desk

POST = "post.v1.PostEvents"


@pytest.fixture
def routes(post: Desk) -> RouteTable:
    table = RouteTable()
    assert table.add(Listener().implement(post, "PostEvents")) == 8
    return table


def letter(**fields: Any) -> Any:
    return topic_event(**{"type": "post.v1.Letter", "topic": "letters", **fields})


async def nothing(_incoming: Incoming) -> None: ...


def decorated(name: str, **fields: Any) -> TopicRoute:
    return TopicRoute(name, nothing, **{"pubsub_name": "events", "topic": "letters", **fields})


@pytest.mark.req("R3.6")
def test_daprd_is_told_the_rules_in_the_order_of_their_priorities(routes: RouteTable) -> None:
    (letters,) = [each for each in routes.subscriptions if each.topic == "letters"]

    assert [(rule.match, rule.path) for rule in letters.routes.rules] == [
        (guarded("event.data.express == true"), f"{POST}.OnExpress"),
        (guarded("event.data.weight > 100"), f"{POST}.OnHeavy"),
    ]
    assert letters.routes.default == DEFAULT_PATH
    assert letters.dead_letter_topic == "letters.dead"
    assert not letters.bulk_subscribe.enabled


def test_daprd_is_told_of_raw_payloads_and_the_subscriptions_metadata(routes: RouteTable) -> None:
    (records,) = [each for each in routes.subscriptions if each.topic == "records"]

    assert dict(records.metadata) == {"rawPayload": "true", "consumerGroup": "post"}
    assert list(records.routes.rules) == []
    assert records.routes.default == ""


def test_daprd_is_told_the_limits_of_batches(routes: RouteTable) -> None:
    (notes,) = [each for each in routes.subscriptions if each.topic == "notes"]

    assert notes.bulk_subscribe.enabled
    assert (notes.bulk_subscribe.max_messages_count, notes.bulk_subscribe.max_await_duration_ms) == (10, 50)
    assert notes.dead_letter_topic == ""


@pytest.mark.parametrize(
    ("path", "handler"),
    [
        (f"{POST}.OnExpress", "OnExpress"),
        (f"{POST}.OnHeavy", "OnHeavy"),
        (DEFAULT_PATH, "OnLetter"),
        ("", "OnLetter"),
        ("/nobody", "OnLetter"),
        (f"{POST}.OnLetter", "OnLetter"),
    ],
)
def test_the_rule_that_daprd_found_decides_and_the_default_path_is_for_the_rest(
    routes: RouteTable, path: str, handler: str
) -> None:
    route = routes.topic(letter(), path)

    assert route is not None
    assert route.name == f"{POST}.{handler}"


def test_a_rule_takes_events_of_any_type(routes: RouteTable) -> None:
    route = routes.topic(letter(type="another"), f"{POST}.OnHeavy")

    assert route is not None
    assert route.name == f"{POST}.OnHeavy"


def test_a_path_of_another_topic_leads_nowhere_else(routes: RouteTable) -> None:
    note = routes.topic(letter(topic="notes", type="post.v1.Note"), DEFAULT_PATH)

    assert note is not None
    assert note.name == f"{POST}.OnNote"


@pytest.mark.parametrize("nameless", [GENERIC_EVENT_TYPE, ""], ids=["the one that Dapr gives", "none"])
def test_an_event_of_no_type_of_its_own_goes_to_the_only_handler(routes: RouteTable, nameless: str) -> None:
    route = routes.topic(letter(type=nameless), DEFAULT_PATH)

    assert route is not None
    assert route.name == f"{POST}.OnLetter"


@pytest.mark.parametrize("nameless", [GENERIC_EVENT_TYPE, ""])
def test_an_event_of_no_type_of_its_own_goes_to_neither_of_two_handlers(post: Desk, nameless: str) -> None:
    routes = RouteTable()
    routes.add(Listener().implement(post, "Loose"))

    assert routes.topic(letter(topic="loose", type=nameless), "") is None


@pytest.mark.parametrize("kind", [GENERIC_EVENT_TYPE, "", "whatever"])
def test_a_raw_record_goes_to_its_handler_whatever_type_it_came_with(routes: RouteTable, kind: str) -> None:
    route = routes.topic(letter(topic="records", type=kind), "")

    assert route is not None
    assert route.name == f"{POST}.OnRecord"


def test_an_event_that_matches_no_rule_has_no_handler_where_all_have_rules() -> None:
    routes = RouteTable()
    routes.add_topic(decorated("first", match="a", priority=1))

    assert routes.topic(letter(), DEFAULT_PATH) is None
    assert routes.topic(letter(type=GENERIC_EVENT_TYPE), "") is None


def test_a_handler_of_any_type_takes_what_no_typed_one_does(routes: RouteTable) -> None:
    routes.add_topic(decorated("on_any", dead_letter_topic="letters.dead"))

    typed, other, generic = (
        routes.topic(letter(type=kind), "") for kind in ("post.v1.Letter", "x", GENERIC_EVENT_TYPE)
    )

    assert [route and route.name for route in (typed, other, generic)] == [f"{POST}.OnLetter", "on_any", "on_any"]


@pytest.mark.parametrize(
    ("service", "says"),
    [
        pytest.param(
            "SamePriority", "SamePriority.OnLight and {heavy} both have priority 2 on {topic}; give them an order"
        ),
        pytest.param(
            "SameMatch",
            "SameMatch.OnNote and {heavy} both listen to events that match 'event.data.weight > 100' on {topic}; take one away",
        ),
        pytest.param("OtherMetadata", "OtherMetadata.OnNote and {heavy} name different metadata settings for {topic}"),
        pytest.param("OtherBulk", "OtherBulk.OnNote and {heavy} name different bulk settings for {topic}"),
        pytest.param("AlsoRaw", "AlsoRaw.OnRecord and {heavy} name different metadata settings for {topic}"),
        pytest.param("SameJob", "SameJob.RemindAgain and {remind} both listen to job 'remind'; take one away"),
    ],
)
def test_two_handlers_that_contradict_each_other_stop_start_up_with_both_places(
    post: Desk, routes: RouteTable, service: str, says: str
) -> None:
    with pytest.raises(ContractError) as caught:
        routes.add(Listener().implement(post, service))

    said = str(caught.value)
    assert len(re.findall(r"post/v1/post\.proto:\d+: ", said)) == 2
    plain = re.sub(r"post/v1/post\.proto:\d+: post\.v1\.", "", said)
    expected = says.format(heavy="PostEvents.OnHeavy", remind="PostEvents.Remind", topic="topic 'letters' of 'events'")
    assert plain.startswith(expected)


def test_two_raw_records_of_one_topic_clash() -> None:
    routes = RouteTable()
    routes.add_topic(decorated("first", metadata={"rawPayload": "true"}))

    with pytest.raises(ContractError, match=r"second and first both listen to every event on topic 'letters'"):
        routes.add_topic(decorated("second", metadata={"rawPayload": "true"}))


def test_a_job_has_its_name_and_what_the_contract_says_of_its_times(routes: RouteTable) -> None:
    assert list(routes.jobs) == [f"{POST}.Sweep", "remind"]
    sweep, remind = routes.jobs.values()
    assert sweep.options is not None
    assert remind.options is not None
    assert (sweep.options.schedule, remind.options.due_time) == ("@every 1m", "30s")
    assert not remind.options.HasField("retry_interval")
    assert remind.options.retry_interval == Duration()


@pytest.mark.parametrize("what", ["binding", "job", "method"])
def test_nothing_is_handled_twice(what: str) -> None:
    routes = RouteTable()
    add: Any = getattr(routes, f"add_{what}")
    kind = JobRoute if what == "job" else Route
    add("x", kind("first", nothing, "here.py:1"))

    with pytest.raises(ContractError, match=rf"second and here.py:1 both listen to {what} 'x'; take one away"):
        add("x", kind("second", nothing))


def test_a_route_says_whose_reasons_its_errors_have(routes: RouteTable) -> None:
    assert {route.domain for route in (*routes.topics, *routes.bindings.values(), *routes.jobs.values())} == {"post.v1"}
    assert decorated("on_any").domain == "apibase"


@pytest.mark.parametrize(
    ("dead_letter_topics", "way"),
    [
        ({"letters": "letters"}, "letters to letters"),
        ({"letters": "notes", "notes": "letters"}, "notes to letters to notes"),
        ({"records": "letters", "notes": "letters", "letters": "notes"}, "letters to notes to letters"),
    ],
    ids=["one topic", "two topics", "two topics and one that leads there"],
)
def test_dead_letters_that_would_go_round_for_ever_stop_start_up(dead_letter_topics: dict[str, str], way: str) -> None:
    routes = RouteTable()
    *first, last = (decorated(topic, topic=topic, dead_letter_topic=dead) for topic, dead in dead_letter_topics.items())
    for route in first:
        routes.add_topic(route)

    with pytest.raises(ContractError, match=f"the dead letters of 'events' go round for ever, {way}; name another"):
        routes.add_topic(last)


def test_a_listener_to_dead_letters_may_have_dead_letters_of_its_own() -> None:
    routes = RouteTable()
    for topic in ("letters", "letters.dead", "letters.dead.dead"):
        routes.add_topic(decorated(topic, topic=topic, dead_letter_topic=f"{topic}.dead"))

    assert len(routes.subscriptions) == 3
