"""Dead letters: the event again, with what was wrong, and without what must not be shown."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import grpc
import pytest
from google.protobuf import any_pb2, struct_pb2
from google.protobuf.empty_pb2 import Empty

from apibase import Drop, Settings, SidecarError, SidecarUnavailable
from apibase.clients import Sidecar
from apibase.dead_letters import DeadLetters, Death
from apibase.delivery import TopicDelivery
from apibase.observability import call_context
from apibase.routes import Incoming, TopicRoute, contract_reader
from tests.unit.app_channels import topic_event
from tests.unit.chains import deliver
from tests.unit.conftest import Desk, Log
from tests.unit.fake_dapr import FakeDapr

TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
DEATH = Death("STALE", "the letter is a year old")

Bury = Callable[..., Awaitable[dict[str, Any]]]


async def handle(_request: Any, _event: Any) -> None:
    raise Drop(DEATH.reason, code=DEATH.code)


@pytest.fixture
async def dead_letters(dapr: FakeDapr, settings: Settings) -> AsyncIterator[DeadLetters]:
    sidecar = Sidecar(settings)
    yield DeadLetters(sidecar)
    await sidecar.close()


def route(request: Any = None, event_type: str = "post.v1.Letter") -> TopicRoute:
    return TopicRoute(
        "post.v1.PostEvents.OnLetter",
        handle,
        "",
        request,
        pubsub_name="events",
        topic="letters",
        event_type=event_type,
        dead_letter_topic="letters.dead",
    )


def incoming(data: bytes, content_type: str = "application/json", **fields: Any) -> Incoming:
    event = topic_event(**{"type": "post.v1.Letter", "topic": "letters", "content_type": content_type, **fields})
    return Incoming(event, data, Empty())


@pytest.fixture
def bury(post: Desk, dapr: FakeDapr, dead_letters: DeadLetters) -> Bury:
    """Return a function that buries an event of post.v1.Letter and returns the envelope that the broker gets."""

    async def publish(
        data: bytes, content_type: str = "application/json", *, on: TopicRoute | None = None, **fields: Any
    ) -> dict[str, Any]:
        await dead_letters.publish(on or route(post.pb2.Letter), incoming(data, content_type, **fields), DEATH)
        (request,) = dapr.published
        dapr.published.clear()

        def no_number(text: str) -> None:
            pytest.fail(f"{text} is no JSON")

        return json.loads(request.data, parse_constant=no_number)

    return publish


@pytest.mark.req("R3.6")
async def test_a_dead_letter_is_the_event_again_with_what_was_wrong(bury: Bury) -> None:
    envelope = await bury(b'{"text": "why", "weight": 7}', extensions={"shop": "east", "retries": 2})

    assert envelope == {
        "specversion": "1.0",
        "id": "event-1",
        "source": "shop",
        "type": "post.v1.Letter",
        "shop": "east",
        "retries": 2,
        "dlreason": "the letter is a year old",
        "dlcode": "STALE",
        "dlhandler": "post.v1.PostEvents.OnLetter",
        "dlpubsub": "events",
        "dltopic": "letters",
        "datacontenttype": "application/json",
        "data": {"text": "why", "weight": "7"},
    }


@pytest.mark.req("R3.6")
async def test_a_dead_letter_goes_to_the_dead_letter_topic_as_a_cloud_event(
    post: Desk, dapr: FakeDapr, dead_letters: DeadLetters
) -> None:
    await dead_letters.publish(route(post.pb2.Letter), incoming(b'{"text": "why"}'), DEATH)

    (request,) = dapr.published
    assert (request.pubsub_name, request.topic) == ("events", "letters.dead")
    assert request.data_content_type == "application/cloudevents+json"


@pytest.mark.req("R2.5")
async def test_a_dead_letter_stays_in_its_publishers_trace(bury: Bury, dapr: FakeDapr) -> None:
    with call_context({"traceparent": TRACEPARENT}):
        envelope = await bury(
            b'{"text": "why"}',
            extensions={
                "traceparent": TRACEPARENT,
                "tracestate": "vendor=1",
                "traceid": TRACEPARENT,
                "topic": "letters",
                "pubsubname": "events",
            },
        )

    assert (envelope["traceparent"], envelope["tracestate"]) == (TRACEPARENT, "vendor=1")
    assert not {"traceid", "topic", "pubsubname"} & set(envelope)
    assert TRACEPARENT.split("-")[1] in dapr.last("PublishEvent").metadata["traceparent"]


async def test_an_extension_can_not_pass_for_an_attribute_or_for_data(bury: Bury) -> None:
    forged = {"id": "x", "source": "x", "type": "x", "specversion": "9", "dlcode": "x", "dlreason": "x", "dltopic": "x"}

    told = await bury(b'{"text": "why"}', extensions={**forged, "data_base64": "eA==", "datacontenttype": "x"})
    unread = await bury(b"\xff", extensions={**forged, "data": "x", "datacontenttype": "x"})

    assert (told["id"], told["source"], told["type"], told["specversion"]) == (
        "event-1",
        "shop",
        "post.v1.Letter",
        "1.0",
    )
    assert (told["dlcode"], told["dlreason"], told["dltopic"]) == ("STALE", DEATH.reason, "letters")
    assert "data_base64" not in told
    assert told["datacontenttype"] == "application/json"
    assert not {"data", "data_base64"} & set(unread)


async def test_an_event_without_source_or_type_is_still_a_cloud_event(bury: Bury) -> None:
    envelope = await bury(b"{}", source="", type="")

    assert (envelope["source"], envelope["type"]) == ("unknown", "unknown")


async def test_a_long_reason_is_cut(post: Desk, dapr: FakeDapr, dead_letters: DeadLetters) -> None:
    await dead_letters.publish(route(post.pb2.Letter), incoming(b"{}"), Death("LONG", "é" * 5000))

    assert json.loads(dapr.published[0].data)["dlreason"] == "é" * 1000


def secretive(post: Desk) -> Any:
    """Return a letter with a secret wherever the contract says that one can be."""
    letter = post.pb2.Letter(text="why", card="hunter2", pin_code=12345, keys=["hunter2"], weight=7)
    for address in (letter.address, letter.copies.add(), letter.copies.add(), letter.by_name["ann"]):
        address.city = "Paris"
        address.door_code = "hunter2"
        address.previous.city = "Rome"
        address.previous.door_code = "hunter2"
    return letter


CLEAN = {"city": "Paris", "previous": {"city": "Rome"}}


@pytest.mark.parametrize("how", ["JSON", "protobuf", "raw JSON", "raw protobuf", "JSON of the contract's own names"])
async def test_fields_to_redact_are_empty_in_a_dead_letter_wherever_they_are(post: Desk, bury: Bury, how: str) -> None:
    from google.protobuf.json_format import MessageToJson  # noqa: PLC0415 - for the case only

    letter = secretive(post)
    names = how.endswith("names")
    data = (
        letter.SerializeToString()
        if "protobuf" in how
        else MessageToJson(letter, preserving_proto_field_name=names).encode()
    )
    on = route(post.pb2.Letter, "") if how.startswith("raw") else None

    envelope = await bury(data, "application/protobuf" if how == "protobuf" else "", on=on)

    assert envelope["data"] == {
        "text": "why",
        "weight": "7",
        "address": CLEAN,
        "copies": [CLEAN, CLEAN],
        "byName": {"ann": CLEAN},
    }
    assert "data_base64" not in envelope


@pytest.mark.parametrize("content_type", ["application/json", "application/protobuf"])
async def test_data_that_only_breaks_a_rule_is_redacted_like_any_other(
    post: Desk, bury: Bury, content_type: str
) -> None:
    letter = post.pb2.Letter(card="hunter2", weight=7)
    data = letter.SerializeToString() if "protobuf" in content_type else b'{"card": "hunter2", "weight": 7}'

    envelope = await bury(data, content_type)

    assert envelope["data"] == {"weight": "7"}
    assert "data_base64" not in envelope


async def test_json_that_is_not_the_message_is_redacted_by_name_at_every_depth(bury: Bury) -> None:
    data = {
        "text": 7,
        "card": "hunter2",
        "pinCode": 1,
        "pin_code": 1,
        "keys": ["hunter2"],
        "address": {"city": "Paris", "doorCode": "hunter2", "more": [[{"door_code": "hunter2", "left": True}]]},
        "unknown": {"card": {"number": "hunter2"}, "kept": None},
    }

    envelope = await bury(json.dumps(data).encode())

    assert envelope["data"] == {
        "text": 7,
        "address": {"city": "Paris", "more": [[{"left": True}]]},
        "unknown": {"kept": None},
    }
    assert envelope["datacontenttype"] == "application/json"


async def test_a_packed_message_is_redacted_within(post: Desk, bury: Bury) -> None:
    letter = post.pb2.Letter(text="why")
    letter.enclosed.Pack(post.pb2.Address(city="Paris", door_code="hunter2"))

    envelope = await bury(letter.SerializeToString(), "application/protobuf")

    assert envelope["data"]["enclosed"] == {"@type": "type.googleapis.com/post.v1.Address", "city": "Paris"}


UNREADABLE = [b"\xff\xfe\x00", b"{", b"{\x00}", "{é".encode("utf-16")]


@pytest.mark.parametrize("content_type", ["application/json", "text/plain", "application/protobuf", ""])
@pytest.mark.parametrize("data", UNREADABLE)
async def test_bytes_that_can_not_be_read_are_kept_as_they_are_where_nothing_is_to_redact(
    post: Desk, bury: Bury, data: bytes, content_type: str
) -> None:
    envelope = await bury(data, content_type, on=route(post.pb2.Note))

    assert base64.b64decode(envelope["data_base64"], validate=True) == data
    assert envelope["datacontenttype"] == (content_type or "application/octet-stream")
    assert "data" not in envelope
    assert "dlredacted" not in envelope


@pytest.mark.req("R13.4")
@pytest.mark.parametrize("content_type", ["application/json", "text/plain", "application/protobuf", ""])
@pytest.mark.parametrize(
    "data", [*UNREADABLE, b'{"card": "hunter2"', b"\x12\x07hunter2\xff", b'"{\\"card\\": \\"hunter2\\"}"']
)
async def test_data_that_can_not_be_read_and_may_have_fields_to_redact_is_left_out_and_said_so(
    bury: Bury, data: bytes, content_type: str
) -> None:
    envelope = await bury(data, content_type)

    assert not {"data", "data_base64"} & set(envelope)
    assert envelope["dlredacted"] == "*"
    assert "hunter2" not in json.dumps(envelope)


async def test_no_data_at_all_is_no_redacted_data(bury: Bury) -> None:
    envelope = await bury(b"")

    assert "dlredacted" not in envelope


@pytest.mark.req("R13.4")
async def test_a_dead_letter_names_the_fields_that_were_emptied(post: Desk, bury: Bury) -> None:
    told = await bury(secretive(post).SerializeToString(), "application/protobuf")
    packed = post.pb2.Letter(text="why")
    packed.enclosed.Pack(post.pb2.Address(city="Paris", door_code="hunter2"))
    within = await bury(packed.SerializeToString(), "application/protobuf")
    by_name = await bury(b'{"text": 7, "card": "hunter2", "more": [{"doorCode": 1}]}')
    none = await bury(b'{"text": "why"}')

    assert set(told["dlredacted"].split(",")) == {
        "card", "pin_code", "keys", "address.door_code", "address.previous.door_code", "copies.door_code",
        "copies.previous.door_code", "by_name.door_code", "by_name.previous.door_code",
    }  # fmt: skip
    assert within["dlredacted"] == "enclosed.door_code"
    assert by_name["dlredacted"] == "card,doorCode"
    assert "dlredacted" not in none


async def test_an_event_that_died_again_is_not_for_its_replay_any_more(bury: Bury) -> None:
    envelope = await bury(b'{"text": "why"}', extensions={"dlreplay": "x", "dlredacted": "x"})

    assert not {"dlreplay", "dlredacted"} & set(envelope)


@pytest.mark.parametrize(
    ("data", "kept"),
    [
        pytest.param(b'{"text": NaN}', {"text": "NaN"}, id="no number"),
        pytest.param(
            b'{"text": [-Infinity, 1e999, -1e999]}', {"text": ["-Infinity", "1e999", "-1e999"]}, id="too large"
        ),
        pytest.param(b'{"text": 7.5}', {"text": 7.5}, id="a number"),
        pytest.param(b'[{"card": 1}, "x"]', [{}, "x"], id="a list"),
        pytest.param(b"7", 7, id="a mere number"),
        pytest.param(b"null", None, id="null"),
        pytest.param(b'{"text": ["\\ud800"]}', {"text": ["?"]}, id="half of a character"),
    ],
)
async def test_json_that_is_no_message_is_kept_as_json_that_every_reader_takes(
    bury: Bury, data: bytes, kept: object
) -> None:
    envelope = await bury(data)

    assert envelope["data"] == kept


@pytest.mark.parametrize("depth", [200, 900, 1500, 3000, 100_000])
@pytest.mark.parametrize("opening", [b"[", b'{"a":'])
async def test_json_of_any_depth_can_be_buried(bury: Bury, opening: bytes, depth: int) -> None:
    closing = b"]" if opening == b"[" else b"}"
    envelope = await bury(opening * depth + b"1" + closing * depth)

    assert ("data" in envelope) != (envelope.get("dlredacted") == "*")


@pytest.mark.parametrize("data", [b'["\\ud800"]', b'"\\udc00"', b'{"\\ud800": 1}'])
async def test_a_handler_without_a_contract_has_half_characters_buried(bury: Bury, data: bytes) -> None:
    envelope = await bury(data, on=route(None))

    assert json.dumps(envelope["data"]) == data.decode().replace("\\ud800", "?").replace("\\udc00", "?")


async def test_a_message_that_json_can_not_say_is_kept_as_redacted_protobuf(post: Desk, bury: Bury) -> None:
    far_ahead = post.pb2.Letter(text="a", card="hunter2")
    far_ahead.posted_at.seconds = 2**60
    endless = post.pb2.Letter(text="b", card="hunter2")
    endless.extra.fields["number"].CopyFrom(struct_pb2.Value(number_value=float("inf")))
    foreign = post.pb2.Letter(text="c", card="hunter2")
    foreign.enclosed.CopyFrom(any_pb2.Any(type_url="type.googleapis.com/no.such.Message", value=b"\xff"))

    broken = post.pb2.Letter(text="d", card="hunter2")
    broken.enclosed.CopyFrom(any_pb2.Any(type_url="type.googleapis.com/post.v1.Note", value=b"\xff"))

    for letter in (far_ahead, endless, foreign, broken):
        envelope = await bury(letter.SerializeToString(), "application/protobuf")

        assert envelope["datacontenttype"] == "application/octet-stream"
        letter.ClearField("card")
        assert post.pb2.Letter.FromString(base64.b64decode(envelope["data_base64"])) == letter


async def test_a_time_far_ahead_in_a_message_is_kept(post: Desk, bury: Bury) -> None:
    letter = post.pb2.Letter(text="a")
    letter.posted_at.FromDatetime(datetime(9999, 12, 31, tzinfo=UTC))

    envelope = await bury(letter.SerializeToString(), "application/protobuf")

    assert envelope["data"]["postedAt"] == "9999-12-31T00:00:00Z"


async def test_a_handler_without_a_contract_has_its_data_buried_as_it_came(bury: Bury) -> None:
    told = await bury(b'{"card": 7}', on=route(None, ""))
    unread = await bury(b"\x00\xff", "image/png", on=route(None, ""))

    assert told["data"] == {"card": 7}
    assert (unread["datacontenttype"], unread["data_base64"]) == ("image/png", "AP8=")


async def test_a_dead_letter_that_the_broker_does_not_take_is_an_error_of_the_sidecar(
    post: Desk, dapr: FakeDapr, dead_letters: DeadLetters
) -> None:
    dapr.fail("PublishEvent", grpc.StatusCode.INTERNAL)

    with pytest.raises(SidecarError) as caught:
        await dead_letters.publish(route(post.pb2.Letter), incoming(b"{}"), DEATH)

    assert caught.value.component == "events"


@pytest.mark.req("R3.4")
async def test_an_event_is_done_with_only_when_the_broker_has_its_dead_letter(
    post: Desk, dapr: FakeDapr, dead_letters: DeadLetters, log: Log
) -> None:
    delivery = TopicDelivery(dead_letters)
    event = incoming(b'{"text": "why", "card": "hunter2"}')
    on = replace(route(post.pb2.Letter), read=contract_reader(post.pb2.Letter, raw=False))

    dapr.fail("PublishEvent", grpc.StatusCode.UNAVAILABLE)
    verdicts = [(await deliver(delivery, on, event)).outcome for _ in range(2)]
    await dapr.stop()
    verdicts.append((await deliver(delivery, on, event, 2.0)).outcome)

    assert verdicts == ["RETRY", "SUCCESS", "RETRY"]
    assert [json.loads(each.data)["id"] for each in dapr.published] == ["event-1"]
    assert "hunter2" not in log.text


async def test_a_sidecar_that_is_away_is_told_as_such(post: Desk, settings: Settings) -> None:
    sidecar = Sidecar(settings)

    with pytest.raises(SidecarUnavailable):
        await DeadLetters(sidecar).publish(route(post.pb2.Letter), incoming(b"{}"), DEATH)

    await sidecar.close()
