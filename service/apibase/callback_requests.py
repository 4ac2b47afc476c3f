"""Dapr's callbacks from the bytes of their requests on, so that no request ends outside the verdict table.

protobuf reads 100 levels and no more, and daprd sends what a publisher nested in a CloudEvent's extension, however deep. gRPC
would answer such a request with an error of its own, and daprd would bring the event again for ever, or, in a batch, all
of its neighbours with it. Here such an event is told by itself: the others of its batch are handled.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import grpc
from dapr.proto.runtime.v1 import appcallback_pb2
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import DecodeError, Message
from google.protobuf.unknown_fields import UnknownFieldSet

from apibase.contract import request_class, response_class

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor

    Context = grpc.aio.ServicerContext[Any, Any]
    Behavior = Callable[[Any, Context], Awaitable[Message]]

M = TypeVar("M", bound=Message)

UNREADABLE_EVENT = "OnUnreadableEvent"
"""The servicer's method for a topic event of which only attributes can be read."""

_LENGTH_DELIMITED = 2
_ENTRIES = appcallback_pb2.TopicEventBulkRequest.ENTRIES_FIELD_NUMBER
_Entry = appcallback_pb2.TopicEventBulkRequestEntry


def callback_handlers(service: ServiceDescriptor, servicer: object) -> grpc.GenericRpcHandler:
    """Return the gRPC handlers of a service that daprd calls.

    A request without fields is not read at all. A topic event that can't be read goes to `OnUnreadableEvent`, an entry of
    a batch comes without its event; any other request that can't be read ends INVALID_ARGUMENT.
    """
    return grpc.method_handlers_generic_handler(
        service.full_name, {method.name: _handler(method, servicer) for method in service.methods}
    )


def _handler(method: MethodDescriptor, servicer: object) -> grpc.RpcMethodHandler[Any, Any]:
    behavior: Behavior = getattr(servicer, method.name)
    kind = request_class(method)
    unreadable: Behavior = getattr(servicer, UNREADABLE_EVENT, _refuse)

    async def answer(data: bytes, context: Context) -> Message:
        if kind is Empty:
            return await behavior(Empty(), context)
        try:
            request = kind.FromString(data)
        except DecodeError:
            if kind is appcallback_pb2.TopicEventRequest:
                return await unreadable(texts_of(kind, data), context)
            batch = _batch(data) if kind is appcallback_pb2.TopicEventBulkRequest else None
            return await (behavior(batch, context) if batch else _refuse(kind(), context))
        return await behavior(request, context)

    return grpc.unary_unary_rpc_method_handler(
        answer,
        request_deserializer=None,
        response_serializer=response_class(method).SerializeToString,
    )


async def _refuse(request: Message, context: Context) -> Message:
    await context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"the request's bytes are no {request.DESCRIPTOR.full_name}")
    raise AssertionError  # unreachable: abort raises


def _batch(data: bytes) -> appcallback_pb2.TopicEventBulkRequest | None:
    """Return a batch in which entries that can't be read have their id and no event; None where there is no entry to tell."""
    batch = texts_of(appcallback_pb2.TopicEventBulkRequest, data)
    for number, value in fields_of(data):
        if number == _ENTRIES:
            try:
                entry = _Entry.FromString(value)
            except DecodeError:
                entry = texts_of(_Entry, value)
            batch.entries.append(entry)
    return batch if batch.entries else None


def texts_of(kind: type[M], data: bytes) -> M:
    """Return a message with the text fields that can be told from its bytes."""
    message = kind()
    for number, value in fields_of(data):
        field = kind.DESCRIPTOR.fields_by_number.get(number)
        if field is not None and field.type == field.TYPE_STRING:
            setattr(message, field.name, value.decode(errors="replace"))
    return message


def fields_of(data: bytes) -> list[tuple[int, bytes]]:
    """Return number and bytes of the fields that have a length, none of them looked into; none where this is no message."""
    try:
        # To a message without fields, all of them are unknown, and what is unknown is kept as it came.
        unknown = UnknownFieldSet(Empty.FromString(data))
    except DecodeError:
        return []
    fields = (unknown[index] for index in range(len(unknown)))
    return [(field.field_number, field.data) for field in fields if field.wire_type == _LENGTH_DELIMITED]
