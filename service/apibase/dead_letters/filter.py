"""Which letters of the archive are meant, and whether a letter still waits."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from google.protobuf.timestamp_pb2 import Timestamp

    from dapr_contract.v1.dead_letters_pb2 import DeadLetterSummary


@dataclass(frozen=True, slots=True)
class DeadLetterFilter:
    """Which letters are meant; what is empty is not asked for.

    `handler` and `type` are full names, or the ends of such from a dot on; `topic` is the event's or the dead-letter topic;
    `since` when the letter came at the earliest; `waiting` leaves out those that were replayed and have not died again.
    """

    code: str = ""
    handler: str = ""
    topic: str = ""
    type: str = ""
    since: datetime | None = None
    waiting: bool = False

    def __contains__(self, summary: DeadLetterSummary) -> bool:
        """Whether a letter is meant."""
        return (
            self.code in {"", summary.code}
            and _ends(summary.handler, self.handler)
            and self.topic in {"", summary.topic, summary.dead_letter_topic}
            and _ends(summary.event_type, self.type)
            and (self.since is None or moment(summary.archived_at) >= self.since)
            and not (self.waiting and is_replayed(summary))
        )


def is_replayed(summary: DeadLetterSummary) -> bool:
    """Whether a letter was published again, and has not died again since."""
    return summary.HasField("replayed_at") and moment(summary.replayed_at) >= moment(summary.archived_at)


def moment(stamp: Timestamp) -> datetime:
    """Return a time of a letter, in UTC."""
    return stamp.ToDatetime(UTC)


def _ends(name: str, wanted: str) -> bool:
    """Whether a name is the wanted one, or ends in it from a dot on."""
    return not wanted or f".{name}".endswith(f".{wanted}")
