"""Everything that can reach a project's services and everything that they send out, a row each, read from their contracts."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from google.protobuf import json_format
from google.protobuf.descriptor_pb2 import MethodOptions
from google.protobuf.message_factory import GetMessageClass

from apibase.contract import (
    BindingListener,
    ContractError,
    JobListener,
    TopicListener,
    allowed_callers,
    event_options,
    where,
)
from apibase.contract.positions import lines_taken_from
from apibase.routes import RouteTable
from dapr_contract.v1 import annotations_pb2

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Sequence

    from google.protobuf.descriptor import Descriptor, MethodDescriptor, ServiceDescriptor
    from google.protobuf.duration_pb2 import Duration
    from google.protobuf.message import Message

    from apibase.cli.contracts import Contracts
    from apibase.contract import Listener

KINDS = ("rpc", "topic", "binding", "job", "publishes")
_LEVELS = {MethodOptions.NO_SIDE_EFFECTS: "no side effects", MethodOptions.IDEMPOTENT: "idempotent"}
_STREAMS = {
    (False, True): "streams responses",
    (True, False): "streams requests",
    (True, True): "streams both ways",
}


@dataclass(frozen=True)
class Row:
    """One way in, or one event out."""

    kind: str
    """rpc, topic, binding, job or publishes."""
    package: str
    """The proto package that declares it; empty for what no contract does."""
    route: str
    """A method's path; the topic and its rule; the binding; the job and its schedule."""
    message: str = ""
    """The full name of what comes, or goes."""
    details: tuple[str, ...] = ()
    """What else the contract says, for people."""
    handler: str = ""
    """The method's full name."""
    contract: str = ""
    """File and line of the declaration."""
    options: dict[str, Any] = field(default_factory=dict)
    """What the contract says, for programs: its option's fields, by the names that they have there."""

    @property
    def service(self) -> str:
        """The full name of the handler's service."""
        return self.handler.rpartition(".")[0]

    @property
    def subscribed(self) -> str:
        """What daprd is told of a topic or a binding: its name, without the rule."""
        return f"{self.options['pubsub_name']}/{self.options['name']}" if self.kind == "topic" else self.route

    def to_json(self) -> dict[str, Any]:
        """Return the row as JSON has it."""
        return asdict(self)


@dataclass(frozen=True)
class Routes:
    """The rows, by package and kind; and what in the contracts contradicts itself, as the start of an app would say it."""

    rows: tuple[Row, ...]
    problems: tuple[str, ...]


def read_routes(contracts: Contracts) -> Routes:
    """Read a descriptor set. What two services of one app contradict each other in shows when the app starts, not here."""
    rows: list[Row] = []
    problems: list[str] = []
    with lines_taken_from(contracts.files):
        for file in contracts.own_files():
            for service in file.services_by_name.values():
                try:
                    rows += _service(service)
                except ContractError as error:
                    problems.append(str(error))
            for message in _with_nested(file.message_types_by_name.values()):
                try:
                    rows += _event(message)
                except ContractError as error:
                    problems.append(str(error))
    rows.sort(key=lambda row: (row.package, KINDS.index(row.kind)))
    return Routes(tuple(rows), tuple(problems))


def narrowed(rows: Sequence[Row], served: Collection[str], listened: Sequence[tuple[str, str]]) -> list[Row]:
    """Return the rows of one app.

    They are those of the services that it serves, of those to all of whose topics and bindings it listens, and the events that
    the same packages declare. What it listens to beyond that is of no contract, and comes last. `listened` has pairs such as
    ("topic", "events/orders") and ("binding", "sweep").
    """
    needed: dict[str, set[tuple[str, str]]] = {}
    for row in rows:
        if row.kind in {"topic", "binding"}:
            needed.setdefault(row.service, set()).add((row.kind, row.subscribed))
    services = {*served, *(service for service, routes in needed.items() if routes <= set(listened))}
    packages = {row.package for row in rows if row.service in services}
    kept = [row for row in rows if row.service in services or (row.kind == "publishes" and row.package in packages)]
    told = {(row.kind, row.subscribed) for row in kept}
    return kept + [_of_no_contract(kind, name, kept) for kind, name in listened if (kind, name) not in told]


def _of_no_contract(kind: str, name: str, rows: Iterable[Row]) -> Row:
    topics = [row.options for row in rows if row.kind == "topic"]
    buried = {f"{topic['pubsub_name']}/{topic.get('dead_letter_topic', '')}" for topic in topics}
    return Row(kind, "", name, details=("dead letters of a topic above",) if kind == "topic" and name in buried else ())


def _service(service: ServiceDescriptor) -> list[Row]:
    listeners = RouteTable().declare(service)
    if listeners:
        return [_listener(listener) for listener in listeners]
    return [_rpc(method) for method in service.methods]


def _rpc(method: MethodDescriptor) -> Row:
    callers = allowed_callers(method)
    level = method.GetOptions().idempotency_level
    streams = bool(method.client_streaming), bool(method.server_streaming)
    details = [_STREAMS.get(streams, ""), _LEVELS.get(level, "")]
    if callers is not None:
        details.append(f"callers: {', '.join(sorted(callers)) or 'none'}")
    return _row(
        "rpc",
        method,
        f"{method.containing_service.full_name}/{method.name}",
        details,
        {
            "response": method.output_type.full_name,
            "client_streaming": streams[0],
            "server_streaming": streams[1],
            "idempotency_level": MethodOptions.IdempotencyLevel.Name(level),
            "callers": None if callers is None else sorted(callers),
        },
    )


def _listener(listener: Listener) -> Row:
    match listener:
        case TopicListener(method=method, options=topic):
            route = f"{topic.pubsub_name}/{topic.name}"
            if topic.match:
                route += f" if {topic.match} (priority {topic.priority})"
            return _row("topic", method, route, _of_topic(topic), _fields(topic))
        case BindingListener(method=method, name=name):
            return _row("binding", method, name, [], {"name": name})
        case JobListener(method=method, name=name, options=job):
            route = f"{name} {job.schedule}".strip()
            return _row("job", method, route, _of_job(job), {**_fields(job), "name": name})


def _of_topic(topic: annotations_pb2.Topic) -> Iterator[str]:
    if topic.dead_letter_topic:
        yield f"dead letters: {topic.dead_letter_topic}"
    if topic.raw_payload:
        yield "raw"
    if topic.HasField("bulk"):
        most, wait = topic.bulk.max_messages_count, topic.bulk.max_await_duration_ms
        yield "bulk" + (f" of {most}" if most else "") + (f" within {wait} ms" if wait else "")
    if topic.HasField("deduplicate_for"):
        yield f"once in {_length(topic.deduplicate_for)} by {topic.deduplicate_by or 'source and id'}"
    for key, value in sorted(topic.metadata.items()):
        yield f"{key}={value}"


def _of_job(job: annotations_pb2.Job) -> Iterator[str]:
    if job.due_time:
        yield f"due: {job.due_time}"
    if job.repeats:
        yield f"repeats: {job.repeats}"
    if job.max_retries:
        yield f"retries: {job.max_retries}"
    if job.HasField("retry_interval"):
        yield f"retried every {_length(job.retry_interval)}"


def _length(duration: Duration) -> str:
    """Return a duration in its largest whole unit: 2 d, 90 min, 1.5 s."""
    seconds = duration.ToTimedelta().total_seconds()
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds and not seconds % size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:g} s"


def _event(message: Descriptor) -> Iterator[Row]:
    if message.GetOptions().HasExtension(annotations_pb2.event):
        event = event_options(GetMessageClass(message))
        yield Row(
            "publishes",
            message.file.package,
            f"{event.pubsub_name}/{event.topic}",
            message.full_name,
            contract=_place(message),
            options=_fields(event),
        )


def _row(kind: str, method: MethodDescriptor, route: str, details: Iterable[str], options: dict[str, Any]) -> Row:
    return Row(
        kind,
        method.containing_service.file.package,
        route,
        method.input_type.full_name,
        tuple(filter(None, details)),
        method.full_name,
        _place(method),
        options,
    )


def _place(element: MethodDescriptor | Descriptor) -> str:
    return where(element).removesuffix(f": {element.full_name}")


def _fields(options: Message) -> dict[str, Any]:
    found: dict[str, Any] = json_format.MessageToDict(options, preserving_proto_field_name=True)
    return found


def _with_nested(messages: Iterable[Descriptor]) -> Iterator[Descriptor]:
    for message in messages:
        yield message
        yield from _with_nested(message.nested_types)
