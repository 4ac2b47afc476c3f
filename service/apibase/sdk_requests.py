"""The types of `dapr.ext.grpc`: the SDK's own, built from what daprd brought, and turned into what daprd is answered."""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, get_type_hints

import grpc
from dapr.clients._constants import DEFAULT_JSON_CONTENT_TYPE
from dapr.clients.grpc._jobs import ConstantFailurePolicy, DropFailurePolicy, FailurePolicy, Job
from dapr.clients.grpc._request import BindingRequest, InvokeMethodRequest, JobEvent
from dapr.clients.grpc._response import InvokeMethodResponse, TopicEventResponse, TopicEventResponseStatus
from dapr.common.pubsub.subscription import SubscriptionMessage
from dapr.proto.common.v1 import common_pb2
from dapr.proto.runtime.v1 import appcallback_pb2
from google.protobuf.message import Message

from apibase.contract.reasons import chassis_reason
from apibase.errors import Drop, Retry, ServiceError
from apibase.invocation import Answer
from dapr_contract.v1 import errors_pb2

if TYPE_CHECKING:
    from collections.abc import Callable

    from cloudevents.sdk.event.v1 import Event

    from apibase.routes import Headers, Incoming

__all__ = [
    "BindingRequest",
    "ConstantFailurePolicy",
    "DropFailurePolicy",
    "FailurePolicy",
    "InvokeMethodRequest",
    "InvokeMethodResponse",
    "Job",
    "JobEvent",
    "Rule",
    "SubscriptionMessage",
    "TopicEventResponse",
]

_CALL_PREFIX = "_metadata_"
_HEADER_NAME = re.compile(r"[0-9a-z_.-]+")


@dataclass(frozen=True)
class Rule:
    """Which events of a topic a handler takes: a CEL expression. daprd tries the lowest priority first."""

    match: str
    priority: int


def invoke_method_request(incoming: Incoming) -> InvokeMethodRequest:
    """Return the argument of a method's handler. Its `metadata` are the headers of the call."""
    call = incoming.request
    assert isinstance(call, common_pb2.InvokeRequest)  # noqa: S101 - for the type checker
    request = InvokeMethodRequest(call.data, call.content_type)
    request.metadata = incoming.headers
    return request


def binding_request(incoming: Incoming) -> BindingRequest:
    """Return the argument of a binding's handler: the component's metadata is its `binding_metadata`, `metadata` the headers."""
    request = BindingRequest(incoming.data, dict(incoming.event.metadata))
    request.metadata = incoming.headers
    return request


def job_event(incoming: Incoming) -> JobEvent:
    """Return the argument of a job's handler."""
    return JobEvent(name=incoming.event.source, data=incoming.data)


def subscription_message(incoming: Incoming) -> SubscriptionMessage:
    """Return an event; its `metadata` are the headers and, over them, what came with the entry of a batch."""
    event, request = incoming.event, incoming.request
    metadata: dict[str, Any] = {**dict(incoming.headers), **event.metadata}
    if isinstance(request, appcallback_pb2.TopicEventRequest):
        return SubscriptionMessage(request, metadata)
    alone = appcallback_pb2.TopicEventRequest(
        id=event.id,
        data_content_type=event.content_type,
        data=incoming.data,
        topic=event.topic,
        pubsub_name=event.pubsub_name,
    )
    if isinstance(request, appcallback_pb2.TopicEventCERequest):
        alone.source, alone.type, alone.spec_version = request.source, request.type, request.spec_version
        alone.extensions.CopyFrom(request.extensions)
    return SubscriptionMessage(alone, metadata)


def cloud_event(incoming: Incoming) -> Event:
    """Return an event as the class that the SDK gives to handlers without an annotation, and has deprecated."""
    from cloudevents.sdk.event.v1 import Event  # noqa: PLC0415 - few need it

    request = incoming.request
    extensions: dict[str, object] = {}
    made = Event()  # type: ignore[no-untyped-call]
    made.SetEventID(incoming.event.id)
    made.SetData(incoming.data)
    made.SetContentType(incoming.event.content_type)
    made.SetSubject(incoming.event.topic)
    if isinstance(request, (appcallback_pb2.TopicEventRequest, appcallback_pb2.TopicEventCERequest)):
        made.SetEventType(request.type)
        made.SetSource(request.source)
        extensions.update(request.extensions.items())
    extensions.update(incoming.event.metadata)
    extensions.update((_CALL_PREFIX + key, value) for key, value in incoming.headers)
    made.SetExtensions(extensions)
    return made


def wants_subscription_message(function: Callable[..., object]) -> bool:
    """Whether a handler's first parameter is annotated with `SubscriptionMessage`; not where that can't be found out."""
    try:
        parameters = list(inspect.signature(function).parameters)
        hints = get_type_hints(function if hasattr(function, "__name__") else type(function).__call__)
    except (TypeError, ValueError, NameError, AttributeError):
        return False
    annotation = hints.get(parameters[0]) if parameters else None
    return isinstance(annotation, type) and issubclass(annotation, SubscriptionMessage)


def answer_of(returned: object) -> Answer:
    """Return what a method answers by what its handler returned: text, bytes, a message, a response, or nothing."""
    if not returned:
        return Answer(common_pb2.InvokeResponse())
    if isinstance(returned, InvokeMethodResponse):
        response = returned
    elif isinstance(returned, (str, bytes)):
        response = InvokeMethodResponse(returned, DEFAULT_JSON_CONTENT_TYPE)
    elif isinstance(returned, Message):
        response = InvokeMethodResponse(returned, DEFAULT_JSON_CONTENT_TYPE)  # what the SDK says of a message, too
    else:
        raise ServiceError(
            grpc.StatusCode.OUT_OF_RANGE,
            chassis_reason(errors_pb2.ERROR_REASON_INVALID_RETURN_TYPE),
            f"the method returned {type(returned).__name__}, which is neither text, bytes, a protobuf message nor a response",
        )
    return Answer(
        common_pb2.InvokeResponse(data=response.proto, content_type=response.content_type or ""),
        _headers(response.get_headers()),
    )


def settle(returned: object) -> None:
    """Raise what a `TopicEventResponse` asks for; anything else that a handler returns means success."""
    if isinstance(returned, TopicEventResponse):
        if returned.status is TopicEventResponseStatus.retry:
            raise Retry("the handler returned retry")
        if returned.status is TopicEventResponseStatus.drop:
            raise Drop("the handler returned drop")


def _headers(given: object) -> Headers:
    """Return a response's headers as gRPC takes them: pairs, or one pair. Raises what gRPC itself would choke on."""
    pairs = given if isinstance(given, (tuple, list)) else tuple(dict(given).items())  # type: ignore[call-overload]
    if len(pairs) == 2 and isinstance(pairs[0], str):  # noqa: PLR2004 - a pair
        pairs = (pairs,)
    return tuple(_header(*pair) for pair in pairs)


def _header(name: str, value: str | bytes) -> tuple[str, str | bytes]:
    key = name.lower()
    if not _HEADER_NAME.fullmatch(key):
        raise ValueError(f"{name!r} is no name of a header")
    binary = key.endswith("-bin")
    if binary is not isinstance(value, bytes) or (
        isinstance(value, str) and not (value.isascii() and value.isprintable())
    ):
        raise ValueError(f"header {name!r} needs {'bytes' if binary else 'printable ASCII text'}")
    return key, value
