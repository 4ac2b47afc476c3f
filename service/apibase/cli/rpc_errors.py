"""A failed call, told to a person: the status code, the message, and what the details say."""

from __future__ import annotations

from typing import TYPE_CHECKING

from google.protobuf import json_format
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass
from google.rpc import error_details_pb2, status_pb2

if TYPE_CHECKING:
    from collections.abc import Iterator

    import grpc.aio
    from google.protobuf.any_pb2 import Any
    from google.protobuf.descriptor_pool import DescriptorPool

_DETAILS = "grpc-status-details-bin"
_KNOWN: tuple[type[Message], ...] = (
    error_details_pb2.ErrorInfo,
    error_details_pb2.BadRequest,
    error_details_pb2.RetryInfo,
    error_details_pb2.PreconditionFailure,
    error_details_pb2.ResourceInfo,
    error_details_pb2.QuotaFailure,
    error_details_pb2.RequestInfo,
    error_details_pb2.Help,
    error_details_pb2.LocalizedMessage,
    error_details_pb2.DebugInfo,
)


def describe(error: grpc.aio.AioRpcError, pool: DescriptorPool) -> list[str]:
    """The lines that tell a failed call; the first has code and message."""
    lines = [f"{error.code().name}: {error.details() or '(no message)'}"]
    for key, value in error.trailing_metadata() or ():
        if key == _DETAILS and isinstance(value, bytes):
            lines += [f"  {line}" for line in _details(value, pool)]
    return lines


def _details(data: bytes, pool: DescriptorPool) -> Iterator[str]:
    try:
        status = status_pb2.Status.FromString(data)
    except DecodeError:
        yield f"{_DETAILS}: {len(data)} bytes that can't be read"
        return
    for packed in status.details:
        yield from _detail(packed, pool)


def _detail(packed: Any, pool: DescriptorPool) -> Iterator[str]:
    message = _unpack(packed, pool)
    match message:
        case None:
            yield f"{packed.TypeName()}: {len(packed.value)} bytes, of a type that is not in the contracts"
        case error_details_pb2.ErrorInfo():
            yield f"reason: {message.reason}" + (f" ({message.domain})" if message.domain else "")
            yield from (f"  {key}: {value}" for key, value in sorted(message.metadata.items()))
        case error_details_pb2.BadRequest():
            yield from (f"field {violation.field}: {violation.description}" for violation in message.field_violations)
        case error_details_pb2.RetryInfo():
            yield f"retry after: {message.retry_delay.ToTimedelta().total_seconds():g} s"
        case _:
            text = json_format.MessageToJson(message, indent=None, preserving_proto_field_name=True, ensure_ascii=False)
            yield f"{message.DESCRIPTOR.full_name}: {text}"


def _unpack(packed: Any, pool: DescriptorPool) -> Message | None:
    name = packed.TypeName()
    for kind in _KNOWN:
        if name == kind.DESCRIPTOR.full_name:
            return kind.FromString(packed.value)
    try:
        return GetMessageClass(pool.FindMessageTypeByName(name)).FromString(packed.value)
    except (KeyError, DecodeError):
        return None
