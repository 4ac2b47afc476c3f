"""What tells one event from another: a field of its message, or the CloudEvent's source and id."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from google.protobuf.descriptor import FieldDescriptor

from apibase.contract.reasons import chassis_reason
from dapr_contract.v1 import errors_pb2

if TYPE_CHECKING:
    from google.protobuf.descriptor import Descriptor
    from google.protobuf.duration_pb2 import Duration
    from google.protobuf.message import Message

    from apibase.events import EventContext

MISSING = chassis_reason(errors_pb2.ERROR_REASON_MISSING_DEDUPLICATION_KEY)
"""The code of the dead letter of an event that nothing tells from others."""

# A flag or one of a few names would make strangers one event; a number with a fraction is rounded on its way.
_KEY_TYPES = frozenset(
    {
        FieldDescriptor.CPPTYPE_STRING,  # bytes too
        FieldDescriptor.CPPTYPE_INT32,
        FieldDescriptor.CPPTYPE_INT64,
        FieldDescriptor.CPPTYPE_UINT32,
        FieldDescriptor.CPPTYPE_UINT64,
    }
)
_LONGEST = timedelta(days=3653)


@dataclass(frozen=True, slots=True)
class Deduplication:
    """What a contract says of repetitions: how long one is recognised, and by which field; by source and id without one."""

    remember_for: timedelta
    by: str = ""

    def identity(self, event: EventContext, message: Message | None) -> tuple[str | int, ...]:
        """Return what is the same for a repetition and for nothing else. Raises `Drop` where the event lacks it."""
        from apibase.errors import Drop  # noqa: PLC0415 - errors loads contracts, which load this

        if not self.by or message is None:
            # Without a type it is no CloudEvent, and its id is its number in a batch.
            if not event.id or not event.type:
                raise Drop("the event has no id that tells it from others", code=MISSING)
            return ("source and id", event.source, event.id)
        *path, last = self.by.split(".")
        within: Any = message
        for name in path:
            within = getattr(within, name)
        value = getattr(within, last)
        # A 0 counts where the contract can tell it from nothing.
        zero_counts = isinstance(value, int) and within.DESCRIPTOR.fields_by_name[last].has_presence
        if not (within.HasField(last) if zero_counts else value):
            raise Drop(f"the field {self.by} is empty, which tells the event from others", code=MISSING)
        return (self.by, value.hex() if isinstance(value, bytes) else value)


def remember_for(duration: Duration) -> timedelta:
    """Return how long repetitions are recognised. Raises `ValueError`, whose text says what it has to be."""
    try:
        length = duration.ToTimedelta()
    except (ValueError, OverflowError):
        length = timedelta.max
    if not timedelta() < length <= _LONGEST:
        raise ValueError("be longer than nothing and at most ten years")
    return length


def check_key(kind: Descriptor, path: str) -> None:
    """Check that a path leads to a field that can tell events apart. Raises `ValueError`, whose text says what is wrong."""
    within: Descriptor | None = kind
    field: FieldDescriptor | None = None
    for name in path.split("."):
        if within is None:
            raise ValueError(f"{field.name if field else path} has no fields within")
        field = within.fields_by_name.get(name)
        if field is None:
            raise ValueError(f"{within.full_name} has no field {name!r}")
        if field.GetOptions().debug_redact:
            raise ValueError(f"{field.full_name} is marked debug_redact, and a digest of it would lie in the store")
        if field.is_repeated:
            raise ValueError(f"{field.full_name} is repeated")
        within = field.message_type
    if field is None or within is not None:
        raise ValueError(f"{field.full_name if field else path} is a message")
    if field.cpp_type not in _KEY_TYPES:
        raise ValueError(f"{field.full_name} is neither text, bytes nor a whole number")
