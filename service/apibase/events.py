"""What a listener is told beside the message itself."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class KafkaCoordinates:
    """A record's place in Kafka. `timestamp` is the record's own, in UTC; `key` is None where the record has none."""

    topic: str
    partition: int
    offset: int
    timestamp: datetime | None = None
    key: str | None = None

    @classmethod
    def read(cls, metadata: Mapping[str, str]) -> KafkaCoordinates | None:
        """Read daprd's `__topic`, `__partition`, `__offset`, `__timestamp` (ms) and `__key`; None where they aren't."""
        try:
            partition, offset = int(metadata["__partition"]), int(metadata["__offset"])
        except (KeyError, ValueError):
            return None
        return cls(
            metadata.get("__topic", ""),
            partition,
            offset,
            _time(metadata.get("__timestamp", "")),
            metadata.get("__key"),
        )


def _time(milliseconds: str) -> datetime | None:
    try:
        return datetime.fromtimestamp(int(milliseconds) / 1000, UTC)
    except (ValueError, OverflowError, OSError):  # no number, or a year that no calendar has
        return None


@dataclass(frozen=True, slots=True)
class EventContext:
    """Where an event came from.

    For a topic event, the CloudEvent's attributes and extensions; for a binding event, the component's name as `source`
    and its metadata; for a job, its name as `source`. `headers` are the gRPC metadata of daprd's call. Kafka's coordinates
    come in `metadata` (binding) or `headers` (topic): `kafka` reads either.
    """

    kind: Literal["topic", "binding", "job", "method"]
    source: str
    id: str = ""
    type: str = ""
    pubsub_name: str = ""
    topic: str = ""
    content_type: str = ""
    extensions: Mapping[str, object] = field(default_factory=dict)
    metadata: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def kafka(self) -> KafkaCoordinates | None:
        """Where in Kafka the record stands; None for an event that Kafka did not bring."""
        return KafkaCoordinates.read(self.metadata) or KafkaCoordinates.read(self.headers)
