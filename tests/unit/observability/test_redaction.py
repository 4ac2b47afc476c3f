"""Redaction: marked fields are cleared at every depth, in a copy."""

from __future__ import annotations

from google.protobuf.any_pb2 import Any as AnyMessage

from apibase.observability.redaction import marked_names, redacted, redacted_json
from tests.unit.conftest import Desk


def test_a_redacted_message_is_a_copy(post: Desk) -> None:
    letter = post.pb2.Letter(text="why", card="hunter2")

    clean = redacted(letter)

    assert clean == post.pb2.Letter(text="why")
    assert letter.card == "hunter2"


def test_a_message_without_marks_is_left_as_it_is(desk: Desk) -> None:
    question = desk.pb2.Question(text="why", items=[desk.pb2.Item(quantity=1)], marks={"a": 1})

    assert redacted(question) == question
    assert marked_names(desk.pb2.Question.DESCRIPTOR) == frozenset()
    assert redacted_json({"text": "why"}, desk.pb2.Question) == {"text": "why"}


def test_marked_fields_are_known_by_both_of_their_names_and_through_messages_that_hold_themselves(post: Desk) -> None:
    assert marked_names(post.pb2.Letter.DESCRIPTOR) == {
        "card",
        "pin_code",
        "pinCode",
        "keys",
        "door_code",
        "doorCode",
    }


def test_packed_messages_are_redacted_in_each_other(post: Desk) -> None:
    inner = post.pb2.Letter(text="b")
    inner.enclosed.Pack(post.pb2.Address(city="Paris", door_code="hunter2"))
    outer = post.pb2.Letter(text="a")
    outer.enclosed.Pack(inner)

    clean = redacted(outer)

    assert b"hunter2" in outer.SerializeToString()
    assert b"hunter2" not in clean.SerializeToString()
    assert b"Paris" in clean.SerializeToString()


def test_what_is_packed_and_unknown_or_broken_is_left_as_it_is(post: Desk) -> None:
    for enclosed in (
        AnyMessage(type_url="type.googleapis.com/no.such.Message", value=b"x"),
        AnyMessage(type_url="type.googleapis.com/post.v1.Address", value=b"\xff"),
        AnyMessage(type_url="", value=b"x"),
    ):
        letter = post.pb2.Letter(enclosed=enclosed)

        assert redacted(letter) == letter
