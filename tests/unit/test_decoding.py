"""From bytes to a message: JSON, protobuf, and raw records that say of themselves neither."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from google.protobuf.empty_pb2 import Empty

from apibase import Drop
from apibase.decoding import read
from apibase.events import EventContext
from apibase.routes import Incoming

if TYPE_CHECKING:
    from tests.unit.conftest import Desk


def incoming(data: bytes, content_type: str = "") -> Incoming:
    return Incoming(EventContext(kind="topic", source="shop", content_type=content_type), data, Empty())


@pytest.mark.req("R1.3")
@pytest.mark.parametrize("content_type", ["", "application/octet-stream", "application/json", "application/protobuf"])
def test_a_raw_record_is_json_or_protobuf_whatever_its_content_type(desk: Desk, content_type: str) -> None:
    asked = desk.pb2.Asked(text="why", number=7)

    for data in (b'{"text": "why", "number": 7}', b' \r\n\t{"text": "why", "number": 7}', asked.SerializeToString()):
        assert read(desk.pb2.Asked, incoming(data, content_type), raw=True) == asked


@pytest.mark.parametrize("text", ["{" * 123, "{" + "x" * 122, "\n{" + "y" * 121], ids=["braces", "one brace", "a line"])
def test_raw_protobuf_that_begins_like_json_is_read_as_protobuf(desk: Desk, text: str) -> None:
    data = desk.pb2.Asked(text=text).SerializeToString()
    assert data.lstrip().startswith(b"{")

    assert read(desk.pb2.Asked, incoming(data), raw=True).text == text


@pytest.mark.parametrize("data", [b"{", b'{"text": 7}', b"\xff\xff", b"[]", b"{}}"])
def test_a_raw_record_that_is_neither_is_dropped(desk: Desk, data: bytes) -> None:
    with pytest.raises(Drop, match=r"the data \(raw\) is no desk\.v1\.Asked: ") as caught:
        read(desk.pb2.Asked, incoming(data), raw=True)

    assert caught.value.code == "UNDECODABLE"


def test_what_is_wrong_with_json_is_told_in_jsons_words(desk: Desk) -> None:
    with pytest.raises(Drop, match="text"):
        read(desk.pb2.Asked, incoming(b'{"text": 7}'), raw=True)


@pytest.mark.parametrize("raw", [True, False])
def test_what_breaks_a_rule_of_its_contract_is_read_nevertheless(desk: Desk, raw: bool) -> None:
    assert read(desk.pb2.Asked, incoming(b'{"number": 7}'), raw=raw) == desk.pb2.Asked(number=7)


@pytest.mark.parametrize("data", [b"", b"\xff", b"{"])
@pytest.mark.parametrize("raw", [True, False])
def test_a_handler_of_empty_takes_anything(data: bytes, raw: bool) -> None:
    assert read(Empty, incoming(data), raw=raw) == Empty()


@pytest.mark.parametrize(
    ("content_type", "named"),
    [
        ("", "no content type"),
        ("Text/Plain; charset=utf-8", "text/plain"),
        ("application/protobuf", "application/protobuf"),
    ],
)
def test_what_can_not_be_read_is_told_with_its_content_type(desk: Desk, content_type: str, named: str) -> None:
    with pytest.raises(Drop) as caught:
        read(desk.pb2.Asked, incoming(b"\xff\xff", content_type))

    assert caught.value.reason.startswith(f"the data ({named}) is no desk.v1.Asked: ")


@pytest.mark.parametrize(
    "data",
    [
        {"text": "why", "pin_code": "hunter2"},
        {"text": "why", "card": {"number": "hunter2"}},
        {"text": "why", "address": {"city": "hunter2", "door_code": 7}, "posted_at": "hunter2"},
    ],
)
def test_a_reason_does_not_quote_data_that_has_fields_to_redact(post: Desk, data: object) -> None:
    with pytest.raises(Drop) as caught:
        read(post.pb2.Letter, incoming(json.dumps(data).encode()))

    assert caught.value.reason == "the data (no content type) is no post.v1.Letter"
