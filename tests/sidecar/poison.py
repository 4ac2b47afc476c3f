"""Records that no publisher should write, as they stand on a broker, each with where it has to end."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

HANDLED = "its handler takes it"
OURS = "dead letter of the chassis, with its reason: "
THEIRS = "daprd's own dead letter, as it came"

LIMIT = 4 * 1024 * 1024


@dataclass(frozen=True)
class Poison:
    """`record` makes the record's bytes from a mark that is found again, and the CloudEvent's type."""

    record: Callable[[str, str], bytes]
    end: str


def envelope(mark: str, type_: str, **attributes: Any) -> dict[str, Any]:
    """A good event, but for these attributes; one that is None is left out."""
    event = {
        "specversion": "1.0",
        "id": mark,
        "source": "elsewhere",
        "type": type_,
        "datacontenttype": "application/json",
        "data": {"id": mark},
        **attributes,
    }
    return {name: value for name, value in event.items() if value is not None}


def end_of(name: str, *, batches: bool) -> str:
    """Where a poison has to end on a topic that has several handlers, or one and events in batches."""
    if not batches:
        return POISON[name].end
    if name in {"no type", "an empty type", "the type that daprd gives"}:
        return HANDLED
    return THEIRS if name in {"no data", "broken protobuf"} else POISON[name].end


SAID = {
    "one byte too large": "TOO_LARGE",
    "five times too large": "TOO_LARGE",
    "a content type that is a number": "UNDECODABLE",
    "a content type that daprd does not carry": "UNDECODABLE",
    "an extension nested deeper than protobuf reads": "can't be read",
    "no type": "has no type, so no handler can be told",
    "an empty type": "has no type, so no handler can be told",
    "the type that daprd gives": "has no type, so no handler can be told",
}
"""What the app's log says of a poison that it leaves to daprd's dead letters, where it comes alone on a topic of several handlers."""


def good(mark: str, type_: str) -> bytes:
    return json.dumps(envelope(mark, type_)).encode()


def _event(end: str, **attributes: Any) -> Poison:
    return Poison(lambda mark, type_: json.dumps(envelope(mark, type_, **attributes)).encode(), end)


def _data(end: str, **members: Any) -> Poison:
    return Poison(lambda mark, type_: json.dumps(envelope(mark, type_, data={"id": mark, **members})).encode(), end)


def _text(end: str, old: str, new: str) -> Poison:
    """A good event in whose JSON one text is replaced: `MARK` stands for its mark."""

    def record(mark: str, type_: str) -> bytes:
        text = json.dumps(envelope(mark, type_))
        told, with_ = old.replace("MARK", mark), new.replace("MARK", mark)
        assert told in text, told
        return text.replace(told, with_).encode()

    return Poison(record, end)


def _sized(end: str, size: int) -> Poison:
    """An event whose data has that many bytes when it comes to the app: daprd writes JSON without spaces."""

    def record(mark: str, type_: str) -> bytes:
        data = {"id": mark, "more": ""}
        data["more"] = "x" * (size - len(json.dumps(data, separators=(",", ":"))))
        return json.dumps(envelope(mark, type_, data=data)).encode()

    return Poison(record, end)


def _nested(levels: int) -> str:
    return "[" * levels + "]" * levels


POISON = {
    # No CloudEvent.
    "no JSON": Poison(lambda mark, _: f"not JSON {mark}".encode(), THEIRS),
    "bytes": Poison(lambda mark, _: b"\xff\xfe\x00" + mark.encode(), THEIRS),
    "a list": Poison(lambda mark, _: json.dumps([mark]).encode(), THEIRS),
    "nothing but null": Poison(lambda _mark, _type: b"null", THEIRS),
    "NaN": _text(THEIRS, '"data": {', '"data": {"load": NaN, '),
    "a NUL byte": _text(THEIRS, '"MARK"', '"MARK\x00"'),
    "cut off": Poison(lambda mark, type_: good(mark, type_)[:-5], THEIRS),
    "nested deeper than daprd reads": _text(THEIRS, '"data": {', f'"data": {{"deep": {_nested(10_001)}, '),
    # A CloudEvent whose data is no message of the contract.
    "text": _event(f"{OURS}UNDECODABLE", datacontenttype="text/plain", data="not JSON"),
    "no data": _event(f"{OURS}UNDECODABLE", data=None),
    "a wrong type": _event(f"{OURS}UNDECODABLE", data={"id": 7}),
    "nested deep": _text(f"{OURS}UNDECODABLE", '"data": {', f'"data": {{"deep": {_nested(5_000)}, '),
    "broken protobuf": _event(
        f"{OURS}UNDECODABLE", data=None, data_base64="Cv//", datacontenttype="application/octet-stream"
    ),
    "breaks a rule": _event(f"{OURS}INVALID_REQUEST", data={"id": ""}),
    # A size.
    "as large as may be": _sized(HANDLED, LIMIT),
    "one byte too large": _sized(THEIRS, LIMIT + 1),
    "five times too large": _sized(THEIRS, 5 * LIMIT),
    # A CloudEvent that daprd does not deliver, or that can't be read.
    "data that is no base64": _event(THEIRS, data=None, data_base64="!!!"),
    "a content type that is a number": _event(THEIRS, datacontenttype=7),
    "a content type that daprd does not carry": _event(THEIRS, datacontenttype="application/protobuf", data="Cgd3aHk="),
    "expired": _event(THEIRS, expiration="2020-01-01T00:00:00Z"),
    "an extension nested deeper than protobuf reads": _text(
        THEIRS, '"specversion"', f'"deep": {_nested(60)}, "specversion"'
    ),
    # Of several handlers of a topic, none can be told; a topic's only one takes it.
    "no type": _event(THEIRS, type=None),
    "an empty type": _event(THEIRS, type=""),
    "the type that daprd gives": _event(THEIRS, type="com.dapr.event.sent"),
    # What is odd, and no reason not to handle it.
    "unknown fields": _data(HANDLED, of_next_year={"a": [1, {}]}),
    "duplicate keys": _text(HANDLED, '"data": {', '"data": {"id": "another", '),
    "a lone surrogate": _text(HANDLED, '"data": {', '"data": {"wish": "\\ud800", '),
    "NUL as JSON has it": _data(HANDLED, wish="\x00"),
    "no id": _event(HANDLED, id=None),
    "an id that is a number": _event(HANDLED, id=7),
    "a long id": _event(HANDLED, id="x" * 500_000),
    "a time far ahead": _event(HANDLED, time="99999-12-31T23:59:60Z"),
    "an expiration that is no time": _event(HANDLED, expiration="soon"),
    "no trace": _event(HANDLED, traceparent="00-zz-\x00\r\n", tracestate="=" * 5000, traceid="\xff"),
    "a trace that is no text": _event(HANDLED, traceparent=7, traceid={"a": 1}),
    "extensions of odd names": _event(
        HANDLED, **{"": 1, "größe (cm)\x00\n": "\x7f", "grpc-timeout": "1n", ":path": "/"}
    ),
    "huge extensions": _event(HANDLED, huge="x" * 1_000_000, **{f"x{number}": "y" for number in range(2000)}),
    "a number that no float holds": _text(HANDLED, '"specversion"', f'"load": {"9" * 300}, "specversion"'),
    "another pub/sub and topic": _event(HANDLED, pubsubname="other", topic="other", pubsub_name="other", path="other"),
    "a forged dead letter": _event(
        HANDLED, dlreason="x" * 2000, dlcode="FORGED", dlhandler="x", dlpubsub="x", dltopic="x", dlredacted="*"
    ),
}
