"""What a changed contract breaks that `buf breaking` can't see: events in flight, and those who publish or listen already.

`buf breaking` compares fields, enum values and signatures, so also the event types and the error reasons. It does not read
options. A topic that an event moves away from, a rule that events in the broker may not keep, a field that is no longer
redacted: those are compared here, contract by contract, with the contracts as they were last accepted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from google.protobuf import text_format
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool

from apibase.contract.positions import lines_in
from buf.validate import validate_pb2
from dapr_contract.v1 import annotations_pb2

if TYPE_CHECKING:
    from collections.abc import Iterator

    from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor
    from google.protobuf.message import Message

_NOT_OURS = ("google.", "grpc.", "dapr.", "buf.")


@dataclass(frozen=True, slots=True)
class Break:
    """One thing that a change breaks: where it stands now (file, line, element), and whom it hurts, with the remedy."""

    place: str
    problem: str

    def __str__(self) -> str:
        return f"{self.place}: {self.problem}"


def breaks(before: FileDescriptorSet, after: FileDescriptorSet) -> list[Break]:
    """Return what `after` breaks of `before`, in the order of the contracts; both sets with their imports."""
    old, new = _Contracts(before), _Contracts(after)
    return [
        *(found for name, was in old.messages.items() if name in new.messages for found in _message(was, new, name)),
        *(found for name, was in old.methods.items() if name in new.methods for found in _method(was, new, name)),
    ]


def acceptable(descriptors: FileDescriptorSet) -> FileDescriptorSet:
    """Return what is kept of accepted contracts: the project's own and what they import, without comments and positions."""
    files = {file.name: file for file in descriptors.file}
    waiting = [file.name for file in descriptors.file if not file.package.startswith(_NOT_OURS)]
    wanted: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name not in wanted:
            wanted.add(name)
            waiting += files[name].dependency
    kept = FileDescriptorSet()
    for file in descriptors.file:
        if file.name in wanted:
            kept.file.add().CopyFrom(file)
            kept.file[-1].ClearField("source_code_info")
    return kept


class _Contracts:
    """The project's own messages and methods in a descriptor set, by full name."""

    def __init__(self, descriptors: FileDescriptorSet) -> None:
        pool = DescriptorPool()
        self.messages: dict[str, Descriptor] = {}
        self.methods: dict[str, MethodDescriptor] = {}
        self._lines: dict[str, int] = {}
        for proto in descriptors.file:
            pool.Add(proto)
        for proto in descriptors.file:
            if proto.package.startswith(_NOT_OURS):
                continue
            self._lines |= lines_in(proto)
            file = pool.FindFileByName(proto.name)
            for message in file.message_types_by_name.values():
                self.messages.update((each.full_name, each) for each in _with_nested(message))
            for service in file.services_by_name.values():
                self.methods.update((method.full_name, method) for method in service.methods)
        self._travelling = {
            name for root in self._carried() for name in _reachable(root) if not name.startswith(_NOT_OURS)
        }

    def _carried(self) -> Iterator[Descriptor]:
        """The messages that a broker holds: events, and what listeners of topics and bindings take."""
        yield from (each for each in self.messages.values() if each.GetOptions().HasExtension(annotations_pb2.event))
        for method in self.methods.values():
            options = method.GetOptions()
            if options.HasExtension(annotations_pb2.topic) or options.HasExtension(annotations_pb2.binding):
                yield method.input_type

    def is_in_flight(self, message: str) -> bool:
        """Whether a broker may hold such messages."""
        return message in self._travelling

    def place(self, file: str, *names: str) -> str:
        """Return where an element is declared; the line is that of the first name that has one."""
        line = next((self._lines[name] for name in names if name in self._lines), 0)
        return f"{file}{f':{line}' if line else ''}: {names[0]}"


def _message(was: Descriptor, new: _Contracts, name: str) -> Iterator[Break]:
    now = new.messages[name]
    place = new.place(now.file.name, name)
    before, after = _option(was, annotations_pb2.event), _option(now, annotations_pb2.event)
    if before is not None and (
        after is None or _home(after.pubsub_name, after.topic) != _home(before.pubsub_name, before.topic)
    ):
        moved = "is no event any more" if after is None else f"is published to {_home(after.pubsub_name, after.topic)}"
        yield Break(
            place,
            f"{moved}, and was published to {_home(before.pubsub_name, before.topic)}: whoever listens there gets no more; "
            "publish a new message on the new topic beside it, until nobody listens to the old one",
        )
    if not new.is_in_flight(name):
        in_flight = ""
    else:
        in_flight = "events that are in the broker, or come from publishers of the old contract, may break it and die"
    if in_flight and _stricter(_option(was, validate_pb2.message), _option(now, validate_pb2.message)):
        yield Break(place, f"has another rule: {in_flight}; {_LOOSEN}")
    for field in now.fields:
        old = was.fields_by_number.get(field.number)
        where = new.place(now.file.name, f"{name}.{field.name}", name)
        rules = _option(field, validate_pb2.field)
        if in_flight and _stricter(_option(old, validate_pb2.field) if old else None, rules):
            yield Break(where, f"has another rule: {in_flight}; {_LOOSEN}")
        if old is not None and _is_redacted(old) and not _is_redacted(field):
            yield Break(where, "is no longer debug_redact: logs and dead letters would show it; let it stay redacted")


_LOOSEN = "check it in the handler, or give a new field the rule"


def _method(was: MethodDescriptor, new: _Contracts, name: str) -> Iterator[Break]:
    now = new.methods[name]
    place = new.place(now.containing_service.file.name, name)
    before, after = _option(was, annotations_pb2.topic), _option(now, annotations_pb2.topic)
    if before is not None and after is not None:
        yield from (Break(place, problem) for problem in _subscription(before, after))
    elif before is not None:
        yield Break(
            place,
            f"no longer listens to {_home(before.pubsub_name, before.name)}: its events are acknowledged by nobody; "
            "delete the method when the topic is empty",
        )
    old, given = _callers(was), _callers(now)
    gone = sorted((old or set()) - (given or set())) if given is not None else []
    if given is not None and old is None:
        yield Break(
            place,
            f"may be called by {', '.join(sorted(given)) or 'nobody'} only, and could be by any app; add the others",
        )
    elif gone:
        yield Break(place, f"may no longer be called by {', '.join(gone)}; take it out when it calls no more")


def _subscription(before: annotations_pb2.Topic, after: annotations_pb2.Topic) -> Iterator[str]:
    if _home(before.pubsub_name, before.name) != _home(after.pubsub_name, after.name):
        yield (
            f"listens to {_home(after.pubsub_name, after.name)}, and listened to {_home(before.pubsub_name, before.name)}: "
            "what is left there reaches nobody; add a method for the new topic, and delete this one when the old is empty"
        )
    if before.raw_payload != after.raw_payload:
        yield "reads records of another form (raw_payload): those in the broker are not of it; add a method on a new topic"
    if before.dead_letter_topic and before.dead_letter_topic != after.dead_letter_topic:
        yield (
            f"no longer sends dead letters to {before.dead_letter_topic!r}: whoever watches that topic sees no more; "
            "let somebody watch both"
        )
    if before.HasField("deduplicate_for") and before.deduplicate_by != after.deduplicate_by:
        yield (
            f"tells events apart by {after.deduplicate_by or 'their id'!r}, and did by {before.deduplicate_by or 'their id'!r}: "
            "those handled already would be handled again; wait out deduplicate_for, or add a method"
        )


def _callers(method: MethodDescriptor) -> set[str] | None:
    """Return who may call a method; None where everybody may."""
    own = _option(method, annotations_pb2.method_callers)
    named = own if own is not None else _option(method.containing_service, annotations_pb2.callers)
    return None if named is None else set(named.app_ids)


def _option(element: Any, option: Any) -> Any:  # noqa: ANN401 - descriptors and extensions share no type
    options = element.GetOptions()
    return options.Extensions[option] if options.HasExtension(option) else None


def _stricter(before: Message | None, after: Message | None) -> bool:
    """Whether rules were added or changed. Which of two bounds is the wider one is not weighed: a change asks for a look."""
    return after is not None and (before is None or _text(before) != _text(after)) and not _only_removes(before, after)


def _only_removes(before: Message | None, after: Message) -> bool:
    """Whether every line of the rules as they are was there before."""
    return before is not None and set(_text(after)) <= set(_text(before))


def _text(rules: Message) -> list[str]:
    return [line for line in text_format.MessageToString(rules).splitlines() if line.strip() not in {"}", ""}]


def _is_redacted(field: FieldDescriptor) -> bool:
    return bool(field.GetOptions().debug_redact)


def _home(pubsub_name: str, topic: str) -> str:
    return f"{pubsub_name}/{topic}"


def _with_nested(message: Descriptor) -> Iterator[Descriptor]:
    yield message
    for nested in message.nested_types:
        yield from _with_nested(nested)


def _reachable(root: Descriptor) -> set[str]:
    """Return the names of a message and of all that its fields lead to."""
    found: set[str] = set()
    waiting = [root]
    while waiting:
        message = waiting.pop()
        if message.full_name not in found:
            found.add(message.full_name)
            waiting += [field.message_type for field in message.fields if field.message_type is not None]
    return found
