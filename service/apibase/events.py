"""What a listener is told beside the message itself."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class EventContext:
    """Where an event came from.

    For a topic event, the CloudEvent's attributes and extensions; for a binding event, the component's name as `source`
    and its metadata (Kafka's partition and offset, for instance). `headers` are the gRPC metadata of daprd's call.
    """

    kind: Literal["topic", "binding"]
    source: str
    id: str = ""
    type: str = ""
    pubsub_name: str = ""
    topic: str = ""
    content_type: str = ""
    extensions: Mapping[str, object] = field(default_factory=dict)
    metadata: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
