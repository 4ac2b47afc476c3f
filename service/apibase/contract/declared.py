"""What a contract declares, read from the generated descriptors: services, listeners, events."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from google.protobuf import message_factory

from apibase.contract.deduplication import Deduplication, check_key, remember_for
from apibase.contract.positions import line_of
from dapr_contract.v1 import annotations_pb2

if TYPE_CHECKING:
    from google.protobuf.descriptor import FileDescriptor, MethodDescriptor, ServiceDescriptor
    from google.protobuf.message import Message


# The options that make a method a listener.
LISTENER_OPTIONS = (annotations_pb2.topic, annotations_pb2.binding, annotations_pb2.job)


_NOTHING = "google.protobuf.Empty"


class ContractError(RuntimeError, ValueError):
    """The contract contradicts itself or the code; the message names the contract's file, line, element and remedy.

    A `ValueError` too, which is what the SDK raises where two handlers claim one name.
    """


@dataclass(frozen=True, slots=True)
class TopicListener:
    """A method that handles one type of event on a topic."""

    method: MethodDescriptor
    options: annotations_pb2.Topic

    @property
    def pubsub_name(self) -> str:
        """Name of the pub/sub component."""
        return self.options.pubsub_name

    @property
    def topic(self) -> str:
        """Name of the topic."""
        return self.options.name

    @property
    def event_type(self) -> str:
        """The CloudEvent type of the events that it takes."""
        return self.method.input_type.full_name

    @property
    def deduplication(self) -> Deduplication | None:
        """How repetitions are recognised; None where they are not."""
        if not self.options.HasField("deduplicate_for"):
            return None
        return Deduplication(remember_for(self.options.deduplicate_for), self.options.deduplicate_by)


@dataclass(frozen=True, slots=True)
class BindingListener:
    """A method that handles the events of an input binding."""

    method: MethodDescriptor
    name: str


@dataclass(frozen=True, slots=True)
class JobListener:
    """A method that runs as a job of Dapr's scheduler. `name` is the job's."""

    method: MethodDescriptor
    name: str
    options: annotations_pb2.Job


Listener = TopicListener | BindingListener | JobListener


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

    Raises `ContractError` where a service has both, a listener says what Dapr can't do, or callers are named where they
    mean nothing.
    """
    found = [listener for method in service.methods if (listener := _listener(method)) is not None]
    if found and len(found) != len(service.methods):
        named = {listener.method.name for listener in found}
        rpcs = ", ".join(method.name for method in service.methods if method.name not in named)
        message = (
            f"{where(service)} mixes listeners with rpcs ({rpcs}); "
            "a service with listeners is never served, so move the rpcs to a service of their own"
        )
        raise ContractError(message)
    for method in service.methods:
        if allowed_callers(method) is not None and found:
            of_method = method.GetOptions().HasExtension(annotations_pb2.method_callers)
            raise ContractError(
                f"{where(method if of_method else service)} names callers of listeners; only the sidecar calls a listener, so "
                f"take {'method_callers' if of_method else 'callers'} away"
            )
    return found


def allowed_callers(method: MethodDescriptor) -> frozenset[str] | None:
    """Return the ids of the apps that may call an rpc: those that it names itself, else those of its service; None for all.

    Raises `ContractError` where an id is empty or named twice.
    """
    service = method.containing_service
    of_method, of_service = method.GetOptions(), service.GetOptions()
    if of_method.HasExtension(annotations_pb2.method_callers):
        return _app_ids(method, "method_callers", of_method.Extensions[annotations_pb2.method_callers])
    if of_service.HasExtension(annotations_pb2.callers):
        return _app_ids(service, "callers", of_service.Extensions[annotations_pb2.callers])
    return None


def _app_ids(element: object, option: str, callers: annotations_pb2.Callers) -> frozenset[str]:
    app_ids = list(callers.app_ids)
    if "" in app_ids:
        raise ContractError(f"{where(element)}: option (dapr_contract.v1.{option}) has an empty app id; name the app")
    twice = sorted({app_id for app_id in app_ids if app_ids.count(app_id) > 1})
    if twice:
        raise ContractError(
            f"{where(element)}: option (dapr_contract.v1.{option}) names {', '.join(twice)} more than once; once will do"
        )
    return frozenset(app_ids)


def _listener(method: MethodDescriptor) -> Listener | None:
    options = method.GetOptions()
    given = [option for option in LISTENER_OPTIONS if options.HasExtension(option)]
    if not given:
        return None
    if len(given) > 1:
        names = " and ".join(option.name for option in given)
        raise ContractError(f"{where(method)} has the options {names}; make it a method for each")
    if method.client_streaming or method.server_streaming:
        raise ContractError(
            f"{where(method)} is a listener and streams; Dapr delivers one event a call, so take `stream` away"
        )
    if method.output_type.full_name != _NOTHING:
        raise ContractError(
            f"{where(method)} is a listener and returns {method.output_type.full_name}; let it return {_NOTHING}"
        )
    if options.HasExtension(annotations_pb2.binding):
        binding = options.Extensions[annotations_pb2.binding]
        _require(method, "binding", name=binding.name)
        return BindingListener(method, binding.name)
    if options.HasExtension(annotations_pb2.job):
        return _job(method, options.Extensions[annotations_pb2.job])
    return _topic(method, options.Extensions[annotations_pb2.topic])


def _topic(method: MethodDescriptor, topic: annotations_pb2.Topic) -> TopicListener:
    _require(method, "topic", pubsub_name=topic.pubsub_name, name=topic.name)
    if topic.dead_letter_topic == topic.name:
        raise ContractError(
            f"{where(method)}: the topic {topic.name!r} is its own dead-letter topic, so a bad event would come back "
            "for ever; name another"
        )
    if topic.priority and not topic.match:
        raise ContractError(f"{where(method)} has a priority and no match; only matches are tried in order")
    if topic.raw_payload and topic.match:
        raise ContractError(f"{where(method)} has raw_payload and a match; a raw record has no attributes to match on")
    if not topic.raw_payload and topic.metadata.get("rawPayload", "false").lower() != "false":
        raise ContractError(
            f"{where(method)} has the metadata rawPayload; say raw_payload instead, by which it is decoded"
        )
    _check_deduplication(method, topic)
    return TopicListener(method, topic)


def _check_deduplication(method: MethodDescriptor, topic: annotations_pb2.Topic) -> None:
    if not topic.HasField("deduplicate_for"):
        if topic.deduplicate_by:
            raise ContractError(
                f"{where(method)} has deduplicate_by and no deduplicate_for; say for how long a repetition is recognised"
            )
        return
    try:
        remember_for(topic.deduplicate_for)
    except ValueError as error:
        raise ContractError(f"{where(method)}: deduplicate_for must {error}; give it such a length") from error
    if topic.deduplicate_by:
        try:
            check_key(method.input_type, topic.deduplicate_by)
        except ValueError as error:
            raise ContractError(
                f"{where(method)}: deduplicate_by {topic.deduplicate_by!r} can't tell events apart: {error}; "
                "name a field that can, or none for the CloudEvent's source and id"
            ) from error
    elif topic.raw_payload:
        raise ContractError(
            f"{where(method)} has a raw payload and deduplicate_for without deduplicate_by; daprd gives a raw record "
            "a new id at each delivery, so name the field that tells records apart"
        )


def _job(method: MethodDescriptor, job: annotations_pb2.Job) -> JobListener:
    if not job.schedule and not job.due_time:
        raise ContractError(
            f"{where(method)}: option (dapr_contract.v1.job) has neither schedule nor due_time; give it one"
        )
    if method.input_type.full_name != _NOTHING:
        raise ContractError(f"{where(method)} is a job and takes {method.input_type.full_name}; let it take {_NOTHING}")
    return JobListener(method, job.name or method.full_name, job)


def where(element: Any) -> str:  # noqa: ANN401 - generated and native descriptors share no type
    """Return where an element is declared, as people and editors read it: `shop/v1/events.proto:12: shop.v1.Events.OnPaid`."""
    file: FileDescriptor = getattr(element, "containing_service", element).file
    line = line_of(file, element.full_name)
    return f"{file.name}{f':{line}' if line else ''}: {element.full_name}"


def _require(element: object, option: str, **fields: str) -> None:
    for field, value in fields.items():
        if not value:
            raise ContractError(f"{where(element)}: option (dapr_contract.v1.{option}) has no {field}; give it one")


def event_options(message: Message | type[Message]) -> annotations_pb2.Event:
    """Return where a message of this type is published; `ContractError` if it is no event."""
    descriptor = message.DESCRIPTOR
    options = descriptor.GetOptions()
    if not options.HasExtension(annotations_pb2.event):
        raise ContractError(
            f"{where(descriptor)} is not an event; "
            "give the message an option (dapr_contract.v1.event) with pubsub_name and topic"
        )
    event = options.Extensions[annotations_pb2.event]
    _require(descriptor, "event", pubsub_name=event.pubsub_name, topic=event.topic)
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
