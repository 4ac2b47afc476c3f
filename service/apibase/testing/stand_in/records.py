"""What is on a topic, and what becomes of it."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from apibase.clients._values import decode
from apibase.testing.stand_in.cloud_events import CLOUD_EVENT, CloudEvent, data_of, text_of

if TYPE_CHECKING:
    import builtins
    from collections.abc import Mapping

V = TypeVar("V")


@dataclass(frozen=True)
class Record:
    """A record of a topic: `data` are the bytes that a broker would have, mostly a CloudEvent's JSON.

    `publisher` is `app`, `test`, or `sidecar`, which writes dead letters.
    """

    pubsub_name: str
    topic: str
    data: bytes
    metadata: Mapping[str, str]
    publisher: str

    @property
    def event(self) -> CloudEvent:
        """The CloudEvent; empty where the record was published raw."""
        try:
            event = json.loads(self.data)
        except ValueError:
            return {}
        return event if isinstance(event, dict) and "specversion" in event else {}

    @property
    def id(self) -> str:
        """The event's id."""
        return text_of(self.event, "id")

    @property
    def type(self) -> str:
        """The event's type: for a message of a contract its full name."""
        return text_of(self.event, "type")

    def value(self, kind: builtins.type[V]) -> V:
        """Return the data as a message of a contract, a pydantic model, text, bytes, or what JSON has. Raises `ValueError`."""
        event = self.event
        return decode(data_of(event, in_batch=False) if event else self.data, kind)


@dataclass
class Delivery:
    """What becomes of a record that the app listens to."""

    record: Record
    verdicts: list[str] = field(default_factory=list)
    """What the app answered, try by try: SUCCESS, RETRY, DROP, or the status that its call ended with."""
    dead_letter_topic: str = ""
    """Where it has gone as a dead letter that the sidecar wrote."""
    ended: bool = False
    """Whether nothing more comes of it: it was acknowledged, is a dead letter, or is lost."""
    heard: bool = True
    """Whether anybody listens to it."""
    problem: str = ""
    """Why it was not brought to the app, or not again."""

    @property
    def verdict(self) -> str:
        """The last answer; empty while there is none."""
        return self.verdicts[-1] if self.verdicts else ""

    def __str__(self) -> str:
        told = ", ".join(self.verdicts) or self.problem or ("no answer yet" if self.heard else "nobody listens")
        return f"{self.record.topic}: {told}"


def content_type_of(metadata: Mapping[str, Any]) -> str:
    """Return the content type of a record; that of a CloudEvent where nothing else is said."""
    return next((str(value) for key, value in metadata.items() if key.lower() == "contenttype"), CLOUD_EVENT)
