"""From what daprd brought to a valid message of the contract."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import DecodeError, Message

from apibase.errors import Drop
from apibase.message_json import from_json
from apibase.validation import validate

if TYPE_CHECKING:
    from apibase.routes import Incoming

M = TypeVar("M", bound=Message)

_PROTOBUF_TYPES = frozenset({"application/protobuf", "application/x-protobuf", "application/vnd.google.protobuf"})


def decode(kind: type[M], incoming: Incoming, *, raw: bool = False) -> M:
    """Return the event's message, valid by its contract.

    The content type says whether it is protobuf or JSON; a raw record has none, and is JSON where it looks like it. Raises
    `Drop` where it is neither, `InvalidRequest` where it breaks a rule.
    """
    if kind is Empty:
        return kind()
    media_type = incoming.event.content_type.partition(";")[0].strip().lower()
    binary = not incoming.data.lstrip().startswith(b"{") if raw else media_type in _PROTOBUF_TYPES
    try:
        message = kind.FromString(incoming.data) if binary else from_json(incoming.data, kind)
    except (DecodeError, ValueError) as error:
        named = "raw" if raw else media_type or "no content type"
        raise Drop(f"the data ({named}) is no {kind.DESCRIPTOR.full_name}: {error}", code="UNDECODABLE") from error
    validate(message)
    return message
