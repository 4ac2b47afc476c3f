"""A dead letter as it lies on its topic, read: whose it is, what it was, and without what must not be shown."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from google.protobuf import json_format
from google.protobuf.empty_pb2 import Empty
from hypothesis import given
from hypothesis import strategies as st

from apibase.dead_letters.record import read_dead_letter
from apibase.events import EventContext
from apibase.routes import Incoming, RouteTable
from dapr_contract.v1.dead_letters_pb2 import DeadLetter
from tests.unit.app_channels import Listener
from tests.unit.conftest import Desk

ON_LETTER, ON_RECORD = "post.v1.PostEvents.OnLetter", "post.v1.PostEvents.OnRecord"
OF_THE_CHASSIS = {
    "specversion": "1.0",
    "id": "event-1",
    "source": "shop",
    "type": "post.v1.Letter",
    "datacontenttype": "application/json",
    "dlreason": "the letter is a year old",
    "dlcode": "STALE",
    "dlhandler": ON_LETTER,
    "dlpubsub": "events",
    "dltopic": "letters",
    "topic": "letters.dead",
    "pubsubname": "events",
    "traceid": "00-0",
    "traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
    "shop": "east",
    "data": {"text": "why"},
}
OF_THE_SIDECAR = {key: value for key, value in OF_THE_CHASSIS.items() if not key.startswith("dl")} | {
    "topic": "letters"
}


@pytest.fixture
def routes(post: Desk) -> RouteTable:
    table = RouteTable()
    table.add(Listener().implement(post, "PostEvents"))
    return table


def record(data: bytes, topic: str = "letters.dead") -> Incoming:
    event = EventContext(kind="topic", source="Dapr", id="random", pubsub_name="events", topic=topic)
    return Incoming(event, data, Empty())


def read(routes: RouteTable, envelope: Any, topic: str = "letters.dead") -> DeadLetter:
    data = envelope if isinstance(envelope, bytes) else json.dumps(envelope).encode()
    letter = read_dead_letter(record(data, topic), routes.topics)
    assert letter is not None
    return letter


@pytest.mark.req("R3.6")
def test_a_letter_of_the_chassis_tells_all_that_it_knows(routes: RouteTable) -> None:
    letter = read(routes, OF_THE_CHASSIS | {"dlredacted": "card,address.door_code"})
    summary = letter.summary
    assert (summary.event_id, summary.event_type, letter.source) == ("event-1", "post.v1.Letter", "shop")
    assert (summary.code, summary.reason, summary.handler) == ("STALE", "the letter is a year old", ON_LETTER)
    assert (summary.pubsub_name, summary.topic, summary.dead_letter_topic) == ("events", "letters", "letters.dead")
    assert json.loads(letter.data) == {"text": "why"}
    assert list(letter.handlers) == [ON_LETTER]
    assert list(letter.redacted_fields) == ["card", "address.door_code"]
    assert json_format.MessageToDict(letter.extensions) == {
        "traceparent": OF_THE_CHASSIS["traceparent"],
        "shop": "east",
    }
    assert not letter.data_missing


def test_a_letter_of_another_apps_method_is_not_ours(routes: RouteTable) -> None:
    data = json.dumps(OF_THE_CHASSIS | {"dlhandler": "elsewhere.v1.Events.OnLetter"}).encode()
    assert read_dead_letter(record(data), routes.topics) is None


def test_a_letter_has_one_id_however_often_it_comes_and_no_other_has_it(routes: RouteTable) -> None:
    ids = {
        read(routes, OF_THE_CHASSIS).id,
        read(routes, OF_THE_CHASSIS | {"dlreason": "another", "dlcode": "OTHER", "traceid": "x"}).id,
    }
    others = [
        read(routes, OF_THE_CHASSIS | {"id": "event-2"}).id,
        read(routes, OF_THE_CHASSIS | {"source": "elsewhere"}).id,
        read(routes, OF_THE_CHASSIS | {"dlhandler": "post.v1.PostEvents.OnHeavy"}).id,
        read(routes, OF_THE_SIDECAR).id,
        read(routes, OF_THE_CHASSIS, "records.dead").id,
    ]
    assert len(ids) == 1
    assert len({*ids, *others}) == 6


def test_a_record_that_daprd_gives_another_event_id_each_time_has_one_id(routes: RouteTable) -> None:
    raw = OF_THE_CHASSIS | {"dlhandler": ON_RECORD, "dltopic": "records"}
    first, second = (read(routes, raw | {"id": each}, "records.dead") for each in ("random-1", "random-2"))
    assert first.id == second.id
    assert first.raw_payload


def test_two_records_of_which_nothing_is_shown_are_two_letters(routes: RouteTable) -> None:
    sidecars = {read(routes, data, "records.dead").id for data in (b"\xff\x00", b"\xff\x01")}
    raw = {key: value for key, value in OF_THE_CHASSIS.items() if key != "data"} | {"dlhandler": ON_RECORD}
    chassis = {read(routes, raw | {"id": each, "dlredacted": "*"}, "records.dead").id for each in ("a", "b")}
    assert len(sidecars | chassis) == 4


def test_a_letter_of_the_sidecars_names_topic_and_possible_handlers(routes: RouteTable) -> None:
    letter = read(routes, OF_THE_SIDECAR)
    assert (letter.summary.code, letter.summary.reason, letter.summary.handler) == ("", "", "")
    assert (letter.summary.topic, letter.summary.event_id) == ("letters", "event-1")
    # Rules decide between them, and what they said is not known.
    assert list(letter.handlers) == [f"post.v1.PostEvents.{name}" for name in ("OnExpress", "OnHeavy", "OnLetter")]
    assert json.loads(letter.data) == {"text": "why"}


@pytest.mark.req("R13.4")
@pytest.mark.parametrize("type_", ["post.v1.Letter", "who.knows"])
def test_a_letter_of_the_sidecars_is_redacted(routes: RouteTable, type_: str) -> None:
    data = {"text": "why", "card": "hunter2", "address": {"city": "Paris", "doorCode": "hunter2"}}
    letter = read(routes, OF_THE_SIDECAR | {"data": data, "type": type_})
    assert b"hunter2" not in letter.SerializeToString()
    assert json.loads(letter.data)["address"]["city"] == "Paris"
    assert set(letter.redacted_fields) == {"card", "address.door_code"}


@pytest.mark.req("R13.4")
@pytest.mark.parametrize("handler", [ON_LETTER, "elsewhere.v1.Events.OnLetter"])
def test_an_event_that_only_looks_like_a_letter_of_the_chassis_is_redacted_and_kept(
    routes: RouteTable, handler: str
) -> None:
    """Somebody published a dead letter again by hand, with its extensions, and the sidecar buried it as it was."""
    again = OF_THE_CHASSIS | {"topic": "letters", "dlhandler": handler, "data": {"text": "a", "card": "hunter2"}}
    letter = read(routes, again)
    assert b"hunter2" not in letter.data
    assert list(letter.redacted_fields) == ["card"]
    assert letter.summary.code == ""


def test_a_letter_of_the_chassis_that_was_moved_to_another_topic_is_still_one(routes: RouteTable) -> None:
    assert read(routes, OF_THE_CHASSIS | {"topic": "somewhere"}).summary.code == "STALE"


def test_protobuf_stays_protobuf_and_is_redacted(post: Desk, routes: RouteTable) -> None:
    sent = post.pb2.Letter(text="why", card="hunter2")
    envelope = {key: value for key, value in OF_THE_SIDECAR.items() if key != "data"}
    envelope |= {
        "datacontenttype": "application/octet-stream",
        "data_base64": base64.b64encode(sent.SerializeToString()).decode(),
    }
    letter = read(routes, envelope)
    assert post.pb2.Letter.FromString(letter.data) == post.pb2.Letter(text="why")
    assert list(letter.redacted_fields) == ["card"]


@pytest.mark.req("R13.4")
@pytest.mark.parametrize(
    "members",
    [
        {"data": "hunter2"},
        {"data": '{"card": "hunter2"}'},
        {"data": "hunter2", "datacontenttype": "text/plain"},
        {"data_base64": base64.b64encode(b"\x12\x07hunter2\xff").decode(), "datacontenttype": "application/x"},
        {"data_base64": "hunter2!"},
    ],
)
def test_data_that_can_not_be_read_is_left_out_and_said_so(routes: RouteTable, members: dict[str, str]) -> None:
    envelope = {key: value for key, value in OF_THE_SIDECAR.items() if key != "data"}
    letter = read(routes, envelope | members)
    assert b"hunter2" not in letter.SerializeToString()
    assert list(letter.redacted_fields) == ["*"]
    assert "could not be read" in letter.data_missing


def test_the_chassis_letter_without_data_says_so(routes: RouteTable) -> None:
    envelope = {key: value for key, value in OF_THE_CHASSIS.items() if key != "data"}
    assert read(routes, envelope | {"dlredacted": "*"}).data_missing


def test_a_record_that_is_no_cloud_event_is_a_letter_of_its_own(routes: RouteTable) -> None:
    letter = read(routes, b'{"text": "why"}', "records.dead")
    assert letter.raw_payload
    assert letter.summary.topic == "records"
    assert letter.summary.handler == ON_RECORD
    assert json.loads(letter.data)["text"] == "why"


def test_a_cloud_event_on_a_raw_topic_is_a_record(routes: RouteTable) -> None:
    letter = read(routes, OF_THE_SIDECAR | {"text": "why"}, "records.dead")
    assert letter.raw_payload
    assert letter.summary.event_id == ""


def test_what_no_store_takes_is_made_into_what_it_takes(routes: RouteTable) -> None:
    nested: dict[str, Any] = {"deep": 1, "deeper": 1, "deepest": 1}
    for name, depth in (("deep", 8), ("deeper", 95), ("deepest", 300)):
        for _ in range(depth):
            nested[name] = [nested[name]]
    numbers = {"large": 10**400, "larger": [{"n": 10**400}]}
    odd = {"id": "a\0b", "half": "\ud800", "type": "\ud800", "nul": "a\0b", "inner": ["a\0b"]}
    letter = read(routes, OF_THE_CHASSIS | odd | numbers | nested)
    assert json_format.Parse(json_format.MessageToJson(letter), DeadLetter()) == letter
    assert {"deep", "shop"} <= set(letter.extensions.fields)
    assert not {"deeper", "deepest", "large", "larger"} & set(letter.extensions.fields)
    assert "\\u0000" not in json_format.MessageToJson(letter)
    assert letter.summary.event_id == "a\N{REPLACEMENT CHARACTER}b"


values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
names = st.sampled_from([*OF_THE_CHASSIS, "dlredacted", "dlreplay", "data_base64", "time", "x"])


@given(data=st.binary(max_size=60) | st.dictionaries(names, values).map(lambda each: json.dumps(each).encode()))
@pytest.mark.parametrize("topic", ["letters.dead", "records.dead", "nobodys.dead"])
def test_whatever_lies_there_can_be_read_and_written(post: Desk, topic: str, data: bytes) -> None:
    table = RouteTable()
    table.add(Listener().implement(post, "PostEvents"))
    letter = read_dead_letter(record(data, topic), table.topics)
    if letter is not None:
        assert json_format.Parse(json_format.MessageToJson(letter), DeadLetter()).id == letter.id
