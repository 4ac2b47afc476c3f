"""Events that can't be handled, published to their dead-letter topic by the chassis itself: daprd's own dead letter has no reason.

A dead letter is the event again, with the same id, and with these CloudEvent extensions: `dlreason` (what was wrong),
`dlcode` (a constant), `dlhandler` (the method), `dlpubsub` and `dltopic` (where it came from). Fields that the contract
marks `debug_redact` are empty in it, and `dlredacted` names those that had a value. Data that can't be read, of a message that
has such fields, is left out whole, and `dlredacted` is `*`.
"""

from __future__ import annotations

import base64
import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from google.protobuf import json_format
from google.protobuf.message import DecodeError

from apibase.clients._transport import sidecar_call
from apibase.decoding import read
from apibase.errors import Drop
from apibase.observability.log_secrets import without_secrets
from apibase.observability.redaction import marked_fields, marked_members, marked_names, redacted, redacted_json

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from google.protobuf.message import Message

    from apibase.clients import Sidecar
    from apibase.routes import Incoming, TopicRoute

REASON, CODE, HANDLER, PUBSUB, TOPIC = "dlreason", "dlcode", "dlhandler", "dlpubsub", "dltopic"
REDACTED = "dlredacted"
"""The fields that were emptied, with commas between them."""
EVERYTHING = "*"
"""What `dlredacted` says of data that was left out whole."""
REPLAY = "dlreplay"
"""The handlers that an event is published again for, with commas between them: others acknowledge it and do nothing."""
EXTENSIONS = frozenset({REASON, CODE, HANDLER, PUBSUB, TOPIC, REDACTED, REPLAY})
_REASON_LENGTH = 1000
_REDACTED_LENGTH = 2000
CLOUD_EVENT = "application/cloudevents+json"
# Attributes that daprd sets anew on what is published, and those that only the data itself may set.
_NOT_KEPT = frozenset({"topic", "pubsubname", "traceid", "data", "data_base64"}) | EXTENSIONS


@dataclass(frozen=True, slots=True)
class Death:
    """Why an event can't be handled."""

    code: str
    reason: str


class DeadLetters:
    """Publishes dead letters through the sidecar."""

    def __init__(self, sidecar: Sidecar) -> None:
        self._sidecar = sidecar

    async def publish(self, route: TopicRoute, incoming: Incoming, death: Death) -> None:
        """Publish the dead letter of an event; returning means that the broker has it. Raises `SidecarError`."""
        event = incoming.event
        envelope = {
            **{key: value for key, value in event.extensions.items() if key not in _NOT_KEPT},
            "specversion": "1.0",
            "id": event.id,
            "source": event.source or "unknown",
            "type": event.type or "unknown",
            REASON: without_secrets(death.reason)[:_REASON_LENGTH],
            CODE: death.code,
            HANDLER: route.name,
            PUBSUB: event.pubsub_name,
            TOPIC: event.topic,
            **_data(route, incoming),
        }
        await sidecar_call(
            self._sidecar.client.publish_event(
                event.pubsub_name,
                route.dead_letter_topic,
                _text(envelope),
                data_content_type=CLOUD_EVENT,
            ),
            component=event.pubsub_name,
        )


def _text(envelope: Mapping[str, object]) -> str:
    """Return the envelope as JSON; JSON can name halves of characters, which no encoding has."""
    return json.dumps(envelope, ensure_ascii=False).encode(errors="replace").decode()


def _data(route: TopicRoute, incoming: Incoming) -> dict[str, object]:
    """Return the members of the envelope that hold the event's data, redacted, and say what was emptied."""
    kind = incoming.event.content_type or "application/octet-stream"
    if route.request is not None:
        try:
            message = read(route.request, incoming, raw=not route.event_type)
        except Drop:
            pass  # It can't be read as what it should be; what its bytes look like decides.
        else:
            return _message(redacted(message)) | _emptied(marked_fields(message))
    secretive = route.request if route.request and incoming.data and marked_names(route.request.DESCRIPTOR) else None
    try:
        value = json.loads(incoming.data.decode(), parse_constant=str, parse_float=finite)
        members = {"data": value if secretive is None else redacted_json(value, secretive)}
        json.dumps(members)  # What is nested as deep as can be read may be too deep to write.
    except (ValueError, RecursionError):
        return {"datacontenttype": kind, **(_emptied([EVERYTHING]) if secretive else _base64(incoming.data))}
    if secretive is None:
        return {"datacontenttype": "application/json", **members}
    if isinstance(value, str):  # A whole message can stand in a string, with all of its fields.
        return {"datacontenttype": kind, **_emptied([EVERYTHING])}
    return {"datacontenttype": "application/json", **members, **_emptied(marked_members(value, secretive))}


def _emptied(fields: Sequence[str]) -> dict[str, object]:
    """Return the extension that names emptied fields; what is too long to name is everything."""
    text = ",".join(fields)
    return {REDACTED: text if len(text) <= _REDACTED_LENGTH else EVERYTHING} if fields else {}


def _message(message: Message) -> dict[str, object]:
    try:
        return {"datacontenttype": "application/json", "data": json_format.MessageToDict(message)}
    except (json_format.Error, DecodeError, TypeError, ValueError):
        # JSON can't say it: a time beyond the year 9999, an infinite number, an unknown Any.
        return {"datacontenttype": "application/octet-stream", **_base64(message.SerializeToString())}


def _base64(data: bytes) -> dict[str, object]:
    return {"data_base64": base64.b64encode(data).decode()}


def finite(text: str) -> float | str:
    """Return a JSON number that can be written as one again; 1e999 can't."""
    number = float(text)
    return number if math.isfinite(number) else text
