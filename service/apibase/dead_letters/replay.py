"""Dead letters published again: to the topic that they came from, for the handler that could not take them."""

from __future__ import annotations

import base64
import json
import math
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Never

from google.protobuf import json_format

from apibase.clients._transport import sidecar_call
from apibase.dead_letters import CLOUD_EVENT, EVERYTHING, REPLAY

if TYPE_CHECKING:
    from collections.abc import Sequence

    from apibase.clients import Sidecar
    from apibase.dead_letters.archive import DeadLetterArchive
    from dapr_contract.v1.dead_letters_pb2 import DeadLetter

# An event that had a time to live would be dropped on its way: it has passed, most likely.
_NOT_SENT = frozenset({"expiration"})


class NotReplayable(Exception):
    """A letter that is not published again as it is; the message says what it lacks."""


class LacksFields(NotReplayable):
    """A letter whose event had fields that must not be shown; it may be replayed without them."""


@dataclass(frozen=True, slots=True)
class DeadLetterReplay:
    """Publishes dead letters again through the sidecar of the app that archived them."""

    sidecar: Sidecar
    archive: DeadLetterArchive

    async def replay(self, letter: DeadLetter, *, topic: str = "", without_redacted_fields: bool = False) -> None:
        """Publish a letter's event to the topic that it came from, and note that in the archive.

        It has the event's id, source, type and extensions. Handlers on this chassis take it only if the letter names them;
        others can't tell and take it again. With `topic` it goes there instead, and whoever listens there takes it. Returning
        means that the broker has it, and that the archive says so. Raises `NotReplayable` before anything is sent,
        `SidecarError` otherwise: then it may have been sent.
        """
        target = check_replayable(letter, topic=topic, without_redacted_fields=without_redacted_fields)
        now = datetime.now(UTC)  # before it is sent: a letter that dies again at once is archived after that
        pubsub_name = letter.summary.pubsub_name
        handlers = [] if topic else letter.handlers
        client = self.sidecar.client
        call = (
            client.publish_event(pubsub_name, target, letter.data, publish_metadata={"rawPayload": "true"})
            if letter.raw_payload
            else client.publish_event(pubsub_name, target, _envelope(letter, handlers), data_content_type=CLOUD_EVENT)
        )
        await sidecar_call(call, component=pubsub_name)
        await self.archive.mark_replayed(letter, now)


def check_replayable(letter: DeadLetter, *, topic: str = "", without_redacted_fields: bool = False) -> str:
    """Return the topic that a letter would be published to; raise `NotReplayable` where it would not be."""
    if letter.data_missing:
        raise NotReplayable(f"its data is not in the archive: {letter.data_missing}")
    if letter.redacted_fields and not without_redacted_fields:
        fields = ", ".join(letter.redacted_fields)
        what = "fields" if fields == EVERYTHING else fields
        raise LacksFields(f"a replay would lack {what}, which must not be shown")
    target = topic or letter.summary.topic
    if not target:
        raise NotReplayable("the topic that it came from is not known; name one")
    return target


def _envelope(letter: DeadLetter, handlers: Sequence[str]) -> str:
    """Return the event's CloudEvent, for some handlers alone, if any are named."""
    extensions = {key: _whole(value) for key, value in json_format.MessageToDict(letter.extensions).items()}
    members: dict[str, object] = {
        **{key: value for key, value in extensions.items() if key not in _NOT_SENT},
        "specversion": "1.0",
        "id": letter.summary.event_id,
        "source": letter.source,
        "type": letter.summary.event_type,
        "datacontenttype": letter.content_type or "application/json",
    }
    if handlers:
        members[REPLAY] = ",".join(handlers)
    return json.dumps(members | _data(letter), ensure_ascii=False)


def _whole(value: object) -> object:
    """Return an extension's value with whole numbers as such: a `Struct` has them as 2.0."""
    match value:
        case float() if value.is_integer():
            return int(value)
        case list():
            return [_whole(each) for each in value]
        case dict():
            return {key: _whole(each) for key, each in value.items()}
        case _:
            return value


def _data(letter: DeadLetter) -> dict[str, object]:
    """Return the member that holds the data: JSON as JSON, text as text, anything else in base 64."""
    media_type = letter.content_type.partition(";")[0].strip().lower()
    try:
        text = letter.data.decode()
        if media_type == "application/json" or media_type.endswith("+json"):
            value = json.loads(text, parse_constant=_no_number, parse_float=_finite)
            json.dumps(value, ensure_ascii=False).encode()  # It may name halves of characters, which no encoding has.
            return {"data": value}
        if media_type.startswith("text/"):
            return {"data": text}
    except (ValueError, RecursionError):
        pass  # It is not what it says, which is why it died, or not what every reader of JSON takes: as it came, then.
    return {"data_base64": base64.b64encode(letter.data).decode()}


def _no_number(name: str) -> Never:
    raise ValueError(f"{name} is no JSON")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text} is larger than a number may be")
    return number
