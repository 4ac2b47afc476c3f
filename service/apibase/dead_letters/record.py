"""A dead letter as it lies on its topic, read into what the archive keeps.

There are three sorts: the chassis' own, which say why (see `dead_letters`); daprd's, the event's envelope as it was
published, which say nothing and are redacted here; and records of a topic that carries no CloudEvents, buried by daprd.
"""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from google.protobuf import json_format
from google.protobuf.message import DecodeError

from apibase.dead_letters import CODE, EVERYTHING, EXTENSIONS, HANDLER, PUBSUB, REASON, REDACTED, TOPIC, finite
from apibase.decoding import PROTOBUF_TYPES, read
from apibase.errors import Drop
from apibase.observability.redaction import marked_fields, marked_members, marked_names, redacted, redacted_json
from dapr_contract.v1 import dead_letters_pb2

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from google.protobuf.message import Message

    from apibase.routes import Incoming, TopicRoute

_ID_LENGTH = 16
_DEEPEST = 10
# Attributes that the archive has fields for, and those that daprd sets on whatever is published.
_ATTRIBUTES = frozenset(
    {"specversion", "id", "source", "type", "datacontenttype", "data", "data_base64", "topic", "pubsubname", "traceid"}
)


def read_dead_letter(incoming: Incoming, routes: Sequence[TopicRoute]) -> dead_letters_pb2.DeadLetter | None:
    """Return the letter that a record of a dead-letter topic holds, without times and page; None for another app's.

    `routes` are those of the app. Never fails: what is no CloudEvent is a letter whose data is the record.
    """
    event = incoming.event
    burying = [
        route for route in routes if (route.pubsub_name, route.dead_letter_topic) == (event.pubsub_name, event.topic)
    ]
    envelope = _envelope(incoming.data)
    if envelope is not None and _is_of_the_chassis(envelope, burying):
        return _of_the_chassis(incoming, envelope, routes)
    if envelope is None or (burying and all(map(_is_raw, burying))):
        return _of_the_sidecar(incoming, {}, burying)
    return _of_the_sidecar(incoming, envelope, burying)


def _is_of_the_chassis(envelope: Mapping[str, Any], burying: Sequence[TopicRoute]) -> bool:
    """Whether the chassis wrote a letter.

    daprd writes into an event which topic it is published to. With a listener's, it was not the dead-letter topic: it is an event
    that somebody published with a letter's extensions, and that daprd buried as it was, in clear.
    """
    published_to = _text(envelope, "topic")
    return isinstance(envelope.get(HANDLER), str) and all(route.topic != published_to for route in burying)


def _of_the_chassis(
    incoming: Incoming, envelope: Mapping[str, Any], routes: Sequence[TopicRoute]
) -> dead_letters_pb2.DeadLetter | None:
    handler = _text(envelope, HANDLER)
    own = next((route for route in routes if route.name == handler), None)
    if own is None:
        return None
    letter = _letter(envelope, raw=_is_raw(own))
    data = _data(envelope)
    letter.data = data or b""
    letter.redacted_fields.extend(name for name in _text(envelope, REDACTED).split(",") if name)
    if data is None and EVERYTHING in letter.redacted_fields:
        letter.data_missing = "it could not be read, and may have had fields that must not be shown"
    letter.handlers.append(handler)
    summary = letter.summary
    summary.pubsub_name = _text(envelope, PUBSUB) or incoming.event.pubsub_name
    summary.topic = _text(envelope, TOPIC)
    summary.handler, summary.code, summary.reason = handler, _text(envelope, CODE), _text(envelope, REASON)
    # What was emptied may be all that tells two records apart.
    record = b"" if letter.redacted_fields else letter.data
    return _identified(letter, incoming, handler, record)


def _of_the_sidecar(
    incoming: Incoming, envelope: Mapping[str, Any], burying: Sequence[TopicRoute]
) -> dead_letters_pb2.DeadLetter:
    """Return daprd's letter; without an envelope, a record as it came."""
    letter = _letter(envelope, raw=not envelope)
    summary = letter.summary
    candidates = _candidates(burying, _text(envelope, "topic"), summary.event_type) if envelope else list(burying)
    topics = {route.topic for route in candidates}
    names = sorted({route.name for route in candidates})
    summary.pubsub_name = incoming.event.pubsub_name
    summary.topic = _text(envelope, "topic") or (topics.pop() if len(topics) == 1 else "")
    summary.handler = names[0] if len(names) == 1 else ""
    letter.handlers.extend(names)
    data = (_data(envelope) or b"") if envelope else incoming.data
    event = replace(incoming.event, type=summary.event_type, content_type=letter.content_type)
    kinds = {route.request for route in candidates if route.request is not None}
    letter.data, fields = _redacted(replace(incoming, event=event, data=data), kinds, raw=letter.raw_payload)
    letter.redacted_fields.extend(fields)
    if EVERYTHING in fields:
        letter.data_missing = "it could not be read, and may have had fields that must not be shown"
    return _identified(letter, incoming, "", incoming.data)


def _letter(envelope: Mapping[str, Any], *, raw: bool) -> dead_letters_pb2.DeadLetter:
    """Return what every letter has of its event's envelope."""
    letter = dead_letters_pb2.DeadLetter(
        source=_text(envelope, "source"), content_type=_text(envelope, "datacontenttype"), raw_payload=raw
    )
    letter.summary.event_id = _text(envelope, "id")
    letter.summary.event_type = _text(envelope, "type")
    for key, value in envelope.items():
        if key not in _ATTRIBUTES | EXTENSIONS and _is_shallow(value, _DEEPEST):
            clean: Any = _cleaned(value)
            try:
                json_format.ParseDict(clean, letter.extensions.fields[_clean(key)])
            except (json_format.Error, ValueError, OverflowError):  # a whole number beyond those of `float`
                del letter.extensions.fields[_clean(key)]
    return letter


def _is_shallow(value: object, levels: int) -> bool:
    """Whether a value is nested no deeper than that: protobuf reads no JSON that is nested deeper than 100."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return levels > 0 and all(_is_shallow(each, levels - 1) for each in inner)


def _identified(
    letter: dead_letters_pb2.DeadLetter, incoming: Incoming, handler: str, record: bytes
) -> dead_letters_pb2.DeadLetter:
    """Give a letter the id that it has each time it comes.

    daprd gives a raw record another event id each time, so the `record` itself tells it from others, if it is known.
    """
    event = incoming.event
    letter.summary.dead_letter_topic = event.topic
    by_record = letter.raw_payload and record
    named = ("", _digest(record)) if by_record else (letter.source, letter.summary.event_id)
    letter.id = _digest("\0".join((event.pubsub_name, event.topic, *named, handler)).encode())[:_ID_LENGTH]
    return letter


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _candidates(burying: Sequence[TopicRoute], topic: str, event_type: str) -> list[TopicRoute]:
    """Return the routes of which one was the event's, as far as topic and type tell."""
    on_topic = [route for route in burying if route.topic == topic] or list(burying)
    of_type = [route for route in on_topic if route.event_type == event_type]
    of_any = [route for route in on_topic if not route.event_type]
    return of_type or of_any or on_topic


def _is_raw(route: TopicRoute) -> bool:
    return route.metadata.get("rawPayload") == "true"


def _redacted(incoming: Incoming, kinds: Collection[type[Message]], *, raw: bool) -> tuple[bytes, list[str]]:
    """Return the data without fields that must not be shown, and the names of those that had a value.

    Of a message that has such fields only what the contract knows is kept, as in the chassis' own letters.
    """
    secretive = [kind for kind in kinds if marked_names(kind.DESCRIPTOR)]
    if not secretive or not incoming.data:
        return incoming.data, []
    if len(kinds) == 1:
        try:
            message = read(secretive[0], incoming, raw=raw)
            return _written(redacted(message), incoming), marked_fields(message)
        except (Drop, json_format.Error, DecodeError, TypeError, ValueError, RecursionError):
            pass  # By name, then.
    try:
        value = json.loads(incoming.data.decode(), parse_constant=str, parse_float=finite)
        fields = {name for kind in secretive for name in marked_members(value, kind)}
        for kind in secretive:
            value = redacted_json(value, kind)
        text = json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        return b"", [EVERYTHING]
    # A whole message can stand in a string, with all of its fields.
    return (b"", [EVERYTHING]) if isinstance(value, str) else (text, sorted(fields))


def _written(message: Message, incoming: Incoming) -> bytes:
    """Return a message's data in the form that it came in."""
    media_type = incoming.event.content_type.partition(";")[0].strip().lower()
    if media_type in PROTOBUF_TYPES or (not media_type and not incoming.data.lstrip().startswith(b"{")):
        message.DiscardUnknownFields()
        return message.SerializeToString()
    return json_format.MessageToJson(message, indent=None).encode()


def _envelope(data: bytes) -> dict[str, Any] | None:
    """Return the members of a CloudEvent in JSON; None where the record is none."""
    try:
        value = json.loads(data.decode(), parse_constant=str, parse_float=finite)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) and "specversion" in value and isinstance(value.get("id"), str) else None


def _data(envelope: Mapping[str, Any]) -> bytes | None:
    """Return an envelope's data as a handler gets it; None where there is none."""
    encoded = envelope.get("data_base64")
    if isinstance(encoded, str):
        try:
            return base64.b64decode(encoded, validate=True)
        except ValueError:
            return encoded.encode(errors="replace")
    if "data" not in envelope:
        return None
    value = envelope["data"]
    if isinstance(value, str) and not _is_json(_text(envelope, "datacontenttype")):
        return value.encode(errors="replace")
    try:
        return json.dumps(value, ensure_ascii=False).encode(errors="replace")
    except (ValueError, RecursionError):  # nested as deep as can be read, so too deep to write
        return b""


def _is_json(content_type: str) -> bool:
    media_type = content_type.partition(";")[0].strip().lower()
    return media_type == "application/json" or media_type.endswith("+json")


def _text(envelope: Mapping[str, Any], key: str) -> str:
    value = envelope.get(key, "")
    return _clean(value) if isinstance(value, str) else ""


def _cleaned(value: object) -> object:
    """Return a value of JSON, which is not nested deep, with clean texts."""
    match value:
        case str():
            return _clean(value)
        case list():
            return [_cleaned(each) for each in value]
        case dict():
            return {_clean(key): _cleaned(each) for key, each in value.items()}
        case _:
            return value


def _clean(text: str) -> str:
    """Return text that protobuf and every store take: without halves of characters, and without NUL."""
    return text.encode(errors="replace").decode().replace("\0", "\N{REPLACEMENT CHARACTER}")
