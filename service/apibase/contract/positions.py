"""Lines of a contract's elements, from the descriptor set that the generator writes beside the code."""

from __future__ import annotations

import importlib
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet
from google.protobuf.message import DecodeError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from google.protobuf.descriptor import FileDescriptor

DESCRIPTORS = "descriptors.binpb"
# Field numbers of FileDescriptorProto, DescriptorProto and ServiceDescriptorProto, of which a position's path is made.
_MESSAGE, _ENUM, _SERVICE, _FIELD, _METHOD = 4, 5, 6, 2, 2


_taken: ContextVar[Mapping[str, int] | None] = ContextVar("taken", default=None)


def line_of(file: FileDescriptor, full_name: str) -> int:
    """Return the line, from 1, that a message, enum, service or method of `file` is declared on; 0 where nobody knows."""
    taken = _taken.get()
    return (_lines(file.name) if taken is None else taken).get(full_name, 0)


@contextmanager
def lines_taken_from(descriptors: FileDescriptorSet) -> Iterator[None]:
    """Within it, take lines from this set: for contracts whose generated code is not at hand."""
    lines = {name: line for file in descriptors.file for name, line in lines_in(file).items()}
    token = _taken.set(lines)
    try:
        yield
    finally:
        _taken.reset(token)


@cache
def _lines(contract: str) -> dict[str, int]:
    try:
        module = importlib.import_module(contract.removesuffix(".proto").replace("/", ".").replace("-", "_") + "_pb2")
        root = Path(module.__file__ or "").parents[contract.count("/")]
        descriptors = FileDescriptorSet.FromString((root / DESCRIPTORS).read_bytes())
    except (ImportError, LookupError, OSError, DecodeError):
        return {}
    return next((lines_in(file) for file in descriptors.file if file.name == contract), {})


def lines_in(file: FileDescriptorProto) -> dict[str, int]:
    """Return the lines, from 1, of a file's messages with their fields, enums, services and methods, by full name."""
    lines = {tuple(place.path): place.span[0] + 1 for place in file.source_code_info.location}
    prefix = f"{file.package}." if file.package else ""
    names: dict[tuple[int, ...], str] = {
        (_MESSAGE, index): f"{prefix}{message.name}" for index, message in enumerate(file.message_type)
    }
    names |= {(_ENUM, index): f"{prefix}{enum.name}" for index, enum in enumerate(file.enum_type)}
    for index, message in enumerate(file.message_type):
        for number, field in enumerate(message.field):
            names[_MESSAGE, index, _FIELD, number] = f"{prefix}{message.name}.{field.name}"
    for index, service in enumerate(file.service):
        names[_SERVICE, index] = f"{prefix}{service.name}"
        for number, method in enumerate(service.method):
            names[_SERVICE, index, _METHOD, number] = f"{prefix}{service.name}.{method.name}"
    return {name: lines[path] for path, name in names.items() if path in lines}
