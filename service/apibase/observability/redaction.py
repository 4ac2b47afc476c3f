"""What must not leave in the clear: fields that a contract marks `debug_redact`."""

from __future__ import annotations

from functools import cache
from typing import Any, TypeVar

from google.protobuf import descriptor_pool, message_factory
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import DecodeError, Message

M = TypeVar("M", bound=Message)


def redacted(message: M) -> M:
    """Return a copy of `message` whose marked fields are empty, in messages within it too."""
    copy = type(message)()
    copy.CopyFrom(message)
    _clear(copy)
    return copy


def redacted_json(value: object, kind: type[Message]) -> object:
    """Return JSON without the members that a message of `kind`, or one within it, marks.

    For data that could not be read as such a message: members count by name, wherever they stand.
    """
    names = marked_names(kind.DESCRIPTOR)
    match value:
        case dict():
            return {key: redacted_json(member, kind) for key, member in value.items() if key not in names}
        case list():
            return [redacted_json(member, kind) for member in value]
        case _:
            return value


def marked_fields(message: Message) -> list[str]:
    """Return the paths of the marked fields that have a value, without indexes and keys: `card`, `address.door_code`."""
    found: dict[str, None] = {}
    _find(message, "", found)
    return list(found)


def marked_members(value: object, kind: type[Message]) -> list[str]:
    """Return the names of the JSON members that `redacted_json` takes away."""
    names = marked_names(kind.DESCRIPTOR)
    found: dict[str, None] = {}
    left = [value]
    while left:
        match left.pop():
            case dict() as members:
                found.update(dict.fromkeys(key for key in members if key in names))
                left += [member for key, member in members.items() if key not in names]
            case list() as items:
                left += items
    return sorted(found)


def _find(message: Message, path: str, found: dict[str, None]) -> None:
    if isinstance(message, AnyMessage):
        packed = _unpacked(message)
        if packed is not None:
            _find(packed, path, found)
        return
    for field, value in message.ListFields():
        if field.GetOptions().debug_redact:
            found[f"{path}{field.name}"] = None
        elif field.message_type is not None:
            for within in _messages(value):
                _find(within, f"{path}{field.name}.", found)


def _clear(message: Message) -> None:
    if isinstance(message, AnyMessage):
        _clear_within(message)
        return
    for field, value in message.ListFields():
        if field.GetOptions().debug_redact:
            message.ClearField(field.name)
        elif field.message_type is not None:
            for within in _messages(value):
                _clear(within)


def _clear_within(packed: AnyMessage) -> None:
    """Redact what is packed; what no loaded contract knows stays as it is."""
    message = _unpacked(packed)
    if message is not None:
        packed.value = redacted(message).SerializeToString()


def _unpacked(packed: AnyMessage) -> Message | None:
    try:
        kind = message_factory.GetMessageClass(descriptor_pool.Default().FindMessageTypeByName(packed.TypeName()))
        return kind.FromString(packed.value)
    except (KeyError, DecodeError):
        return None


def _messages(value: Any) -> list[Message]:  # noqa: ANN401 - a field's value has many types
    if isinstance(value, Message):
        return [value]
    members = value.values() if hasattr(value, "values") else value
    return [member for member in members if isinstance(member, Message)]


@cache
def marked_names(kind: Any) -> frozenset[str]:  # noqa: ANN401 - generated and native descriptors share no type
    """Return the names of all marked fields of a message and of those within it, as the contract and as JSON writes them."""
    names: set[str] = set()
    seen: set[str] = set()
    left = [kind]
    while left:
        current = left.pop()
        if current.full_name in seen:
            continue
        seen.add(current.full_name)
        for field in current.fields:
            if field.GetOptions().debug_redact:
                names |= {field.name, field.json_name}
            if field.message_type is not None:
                left.append(field.message_type)
    return frozenset(names)
