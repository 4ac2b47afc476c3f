"""From what daprd brought to a message of the contract."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from dapr.proto.runtime.v1 import appcallback_pb2
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import DecodeError, Message

from apibase.contract.reasons import chassis_reason
from apibase.errors import Drop, LeftToSidecar
from apibase.message_json import from_json
from apibase.observability.redaction import marked_names
from dapr_contract.v1 import errors_pb2

if TYPE_CHECKING:
    from apibase.routes import Incoming

M = TypeVar("M", bound=Message)

_UNDECODABLE = chassis_reason(errors_pb2.ERROR_REASON_UNDECODABLE)

_OCTETS = "application/octet-stream"
# daprd carries binary data under `application/octet-stream` only, so that is what protobuf is published as through it.
PROTOBUF_TYPES = frozenset(
    {_OCTETS, "application/protobuf", "application/x-protobuf", "application/vnd.google.protobuf"}
)


def read(kind: type[M], incoming: Incoming, *, raw: bool = False) -> M:
    """Return the event's message, whatever the contract's rules say of it. Raises `Drop` where it is none.

    The content type says whether it is protobuf or JSON. A raw record has none: it is JSON where it reads as JSON. Data that
    daprd loses on its way to the app is `LeftToSidecar`: the record that daprd has is whole.
    """
    if kind is Empty:
        return kind()
    media_type = incoming.event.content_type.partition(";")[0].strip().lower()
    if not raw and not incoming.data and _loses_data(media_type, incoming):
        named = media_type or "no content type"
        raise LeftToSidecar(
            f"the event brings no data ({named}); daprd carries none but JSON and text, and binary data as {_OCTETS} "
            "where events come one by one",
            code=_UNDECODABLE,
        )
    try:
        if raw:
            return _raw(kind, incoming.data)
        return kind.FromString(incoming.data) if media_type in PROTOBUF_TYPES else from_json(incoming.data, kind)
    except (DecodeError, ValueError) as error:
        named = "raw" if raw else media_type or "no content type"
        # A parser quotes what it can't read, which may be a field that must not be shown, in a traceback neither.
        secretive = marked_names(kind.DESCRIPTOR)
        text = f"the data ({named}) is no {kind.DESCRIPTOR.full_name}{'' if secretive else f': {error}'}"
        raise Drop(text, code=_UNDECODABLE) from (None if secretive else error)


def _loses_data(media_type: str, incoming: Incoming) -> bool:
    """Whether daprd brings an event of that type without its data. In a batch that is said of all that come without."""
    if incoming.event.kind != "topic":
        return False
    if isinstance(incoming.request, appcallback_pb2.TopicEventCERequest):
        return True
    return not (media_type == _OCTETS or media_type.startswith("text/") or media_type.endswith(("/json", "+json")))


def _raw(kind: type[M], data: bytes) -> M:
    if not data.lstrip().startswith(b"{"):
        return kind.FromString(data)
    try:
        return from_json(data, kind)
    except ValueError:
        # Protobuf can begin so too: a first field of 123 bytes is "\n{".
        try:
            return kind.FromString(data)
        except DecodeError:
            pass
        raise
