"""What a contract declares, read from the generated descriptors: services, listeners, events."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from google.protobuf import message_factory

from dapr_contract.v1 import annotations_pb2

if TYPE_CHECKING:
    from google.protobuf.descriptor import FileDescriptor, MethodDescriptor, ServiceDescriptor
    from google.protobuf.message import Message


# The options that make a method a listener.
LISTENER_OPTIONS = (annotations_pb2.topic, annotations_pb2.binding)


class ContractError(RuntimeError):
    """The contract contradicts itself or the code; the message names the contract's file, element and remedy."""


@dataclass(frozen=True, slots=True)
class TopicListener:
    """A method that handles one type of event on a topic."""

    method: MethodDescriptor
    pubsub_name: str
    topic: str
    dead_letter_topic: str


@dataclass(frozen=True, slots=True)
class BindingListener:
    """A method that handles the events of an input binding."""

    method: MethodDescriptor
    name: str


Listener = TopicListener | BindingListener


def servicer_contract(servicer: object) -> ServiceDescriptor:
    """Return the service that `servicer` implements: the one of the generated `…Servicer` class among its bases."""
    found: list[ServiceDescriptor] = []
    for base in type(servicer).__mro__:
        if base.__module__.endswith("_pb2_grpc") and base.__name__.endswith("Servicer"):
            messages = importlib.import_module(base.__module__.removesuffix("_grpc"))
            file: FileDescriptor = messages.DESCRIPTOR
            found.append(file.services_by_name[base.__name__.removesuffix("Servicer")])
    if len(found) != 1:
        name = type(servicer).__qualname__
        message = (
            f"{name} implements no generated servicer; derive it from the …Servicer class in the contract's _pb2_grpc module"
            if not found
            else f"{name} implements {' and '.join(service.full_name for service in found)}; make it one class for each"
        )
        raise ContractError(message)
    return found[0]


def listeners(service: ServiceDescriptor) -> list[Listener]:
    """Return the listeners of a service: one for each method, or none when it is served as rpcs.

    Raises `ContractError` where a service has both, or a listener lacks what Dapr needs.
    """
    found = [listener for method in service.methods if (listener := _listener(method)) is not None]
    if found and len(found) != len(service.methods):
        named = {listener.method.name for listener in found}
        rpcs = ", ".join(method.name for method in service.methods if method.name not in named)
        message = (
            f"{service.file.name}: {service.full_name} mixes listeners with rpcs ({rpcs}); "
            "a service with listeners is never served, so move the rpcs to a service of their own"
        )
        raise ContractError(message)
    return found


def _listener(method: MethodDescriptor) -> Listener | None:
    options = method.GetOptions()
    where = f"{method.containing_service.file.name}: {method.full_name}"
    is_topic, is_binding = (options.HasExtension(option) for option in LISTENER_OPTIONS)
    if not is_topic and not is_binding:
        return None
    if is_topic and is_binding:
        message = f"{where} is both a topic and a binding listener; make it two methods"
        raise ContractError(message)
    if method.client_streaming or method.server_streaming:
        message = f"{where} is a listener and streams; Dapr delivers one event a call, so take `stream` away"
        raise ContractError(message)
    if is_binding:
        binding = options.Extensions[annotations_pb2.binding]
        _require(where, "binding", name=binding.name)
        return BindingListener(method, binding.name)
    topic = options.Extensions[annotations_pb2.topic]
    _require(where, "topic", pubsub_name=topic.pubsub_name, name=topic.name)
    if topic.dead_letter_topic == topic.name:
        message = f"{where}: the topic {topic.name!r} is its own dead-letter topic, so a bad event would come back for ever; name another"
        raise ContractError(message)
    return TopicListener(method, topic.pubsub_name, topic.name, topic.dead_letter_topic)


def _require(where: str, option: str, **fields: str) -> None:
    for field, value in fields.items():
        if not value:
            message = f"{where}: option (dapr_contract.v1.{option}) has no {field}; give it one"
            raise ContractError(message)


def event_options(message: Message | type[Message]) -> annotations_pb2.Event:
    """Return where a message of this type is published; `ContractError` if it is no event."""
    descriptor = message.DESCRIPTOR
    options = descriptor.GetOptions()
    if not options.HasExtension(annotations_pb2.event):
        error = (
            f"{descriptor.file.name}: {descriptor.full_name} is not an event; "
            "give the message an option (dapr_contract.v1.event) with pubsub_name and topic"
        )
        raise ContractError(error)
    event = options.Extensions[annotations_pb2.event]
    _require(
        f"{descriptor.file.name}: {descriptor.full_name}", "event", pubsub_name=event.pubsub_name, topic=event.topic
    )
    return event


def is_implemented(servicer: object, method: MethodDescriptor) -> bool:
    """Whether `servicer` has a method of its own where the generated class has one that says "not implemented"."""
    behavior = getattr(servicer, method.name)
    module: str = getattr(behavior, "__module__", None) or ""
    return not module.endswith("_pb2_grpc")


def request_class(method: MethodDescriptor) -> type[Message]:
    """Return the generated class of a method's request."""
    return message_factory.GetMessageClass(method.input_type)


def response_class(method: MethodDescriptor) -> type[Message]:
    """Return the generated class of a method's response."""
    return message_factory.GetMessageClass(method.output_type)
