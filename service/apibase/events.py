"""What a listener is told beside the message itself."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

_COORDINATES = frozenset({"__topic", "__partition", "__offset", "__timestamp", "__key"})


@dataclass(frozen=True, slots=True)
class KafkaCoordinates:
    """A record's place in Kafka. `timestamp` is the record's own, in UTC; `key` is None where the record has none.

    `headers` are the record's own. They are told for a binding and for an entry of a batch; an event that comes alone has them
    among the headers of daprd's call, where nothing tells them apart, and None here.
    """

    topic: str
    partition: int
    offset: int
    timestamp: datetime | None = None
    key: str | None = None
    headers: Mapping[str, str] | None = field(default=None, compare=False)

    @classmethod
    def read(cls, metadata: Mapping[str, str], *, mixed: bool = False) -> KafkaCoordinates | None:
        """Read daprd's `__topic`, `__partition`, `__offset`, `__timestamp` (ms) and `__key`; None where they aren't.

        What stands beside them is the record's headers, unless it is `mixed` with others.
        """
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
            None if mixed else {name: value for name, value in metadata.items() if name not in _COORDINATES},
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
        return KafkaCoordinates.read(self.metadata) or KafkaCoordinates.read(self.headers, mixed=True)
