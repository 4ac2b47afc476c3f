"""A handler, and what it is called for."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from apibase.contract.deduplication import Deduplication
    from apibase.events import EventContext
    from dapr_contract.v1 import annotations_pb2

Headers = tuple[tuple[str, str | bytes], ...]


@dataclass(frozen=True, slots=True)
class Incoming:
    """What daprd brought, before anything is decoded. `request` is daprd's own message."""

    event: EventContext
    data: bytes
    request: Message
    headers: Headers = ()
    """The headers of daprd's call as they came, binary and repeated ones too, but without the app's token."""
    too_large: bool = False
    """Whether its data is more than a handler takes: none is called."""
    unreadable: bool = False
    """Whether it is an event of which only attributes could be read: none is called."""


Reader = Callable[[Incoming], Any]
"""Returns what a handler takes: the contract's message, or whatever else it is registered for. Raises `Drop` where it is none."""

Handler = Callable[[Any, "EventContext"], Awaitable[object]]
"""Takes what its reader has read, and where that came from."""


def as_it_came(incoming: Incoming) -> Incoming:
    """Read nothing."""
    return incoming


@dataclass(frozen=True, slots=True)
class Route:
    """A handler, and what it is called for. `name` is the contract's method, or the function's name; `place` where it stands."""

    name: str
    handler: Handler
    place: str = ""
    request: type[Message] | None = None
    """The contract's message; None for a handler that takes what comes."""
    domain: str = "apibase"
    """The proto package that the reasons of the handler's errors belong to."""
    read: Reader = as_it_came


@dataclass(frozen=True, slots=True)
class TopicRoute(Route):
    """A handler of events on a topic."""

    pubsub_name: str = ""
    topic: str = ""
    event_type: str = ""
    """The CloudEvent type that it takes; empty for any."""
    match: str = ""
    priority: int = 0
    any_topic: bool = False
    """Whether `topic` is a pattern, so that events come with other topics than that."""
    dead_letter_topic: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)
    bulk: annotations_pb2.Bulk | None = None
    any_size: bool = False
    """Whether it takes events that are larger than the setting `max_message_bytes`."""
    deduplication: Deduplication | None = None
    """How an event that was handled before is recognised; None where it is handled again."""


@dataclass(frozen=True, slots=True)
class JobRoute(Route):
    """A handler of a job; `options` say how it is scheduled, or None where somebody else schedules it."""

    options: annotations_pb2.Job | None = None
