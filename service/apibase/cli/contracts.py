"""The contracts of a project, from its descriptor set: services, methods and message types, without generated code."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from google.protobuf import json_format
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass

from apibase.cli.json_problems import Explainer
from apibase.contract import LISTENER_OPTIONS
from apibase.local.errors import StackError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from google.protobuf.descriptor import FileDescriptor, MethodDescriptor, ServiceDescriptor

_NOT_OURS = ("google.", "grpc.", "dapr.", "buf.")


@dataclass(frozen=True)
class Method:
    """One rpc, and the message classes that it takes and gives."""

    path: str
    request: type[Message]
    response: type[Message]
    client_streams: bool
    server_streams: bool

    @property
    def service(self) -> str:
        """The service's full name."""
        return self.path.split("/")[1]


class Contracts:
    """Everything that a descriptor set declares."""

    def __init__(self, file: Path) -> None:
        self._file = file
        files = FileDescriptorSet()
        try:
            files.ParseFromString(file.read_bytes())
        except FileNotFoundError as error:
            message = f"{file} does not exist; it is written by: make gen"
            raise StackError(message) from error
        except DecodeError as error:
            message = f"{file} is no descriptor set; write it anew with: make gen"
            raise StackError(message) from error
        self.files = files
        self.pool = DescriptorPool()
        self._names = [proto.name for proto in files.file]
        for proto in files.file:
            self.pool.Add(proto)

    def own_files(self) -> Iterator[FileDescriptor]:
        """The project's own contracts, in the order of the set."""
        for name in self._names:
            file = self.pool.FindFileByName(name)
            if not file.package.startswith(_NOT_OURS):
                yield file

    def services(self) -> Iterator[ServiceDescriptor]:
        """The project's own services, in the order of the set."""
        for file in self.own_files():
            yield from file.services_by_name.values()

    def rpcs(self) -> Iterator[MethodDescriptor]:
        """The methods that an app may call: all but listeners."""
        for service in self.services():
            yield from (method for method in service.methods if not _is_listener(method))

    def method(self, name: str) -> Method:
        """The rpc of `package.Service/Method` (a leading slash or a dot before the method will do); else the nearest names."""
        wanted = name.strip("/")
        found = {
            f"{service.full_name}/{method.name}": method for service in self.services() for method in service.methods
        }
        for full, descriptor in found.items():
            if wanted in {full, full.replace("/", ".")}:
                if _is_listener(descriptor):
                    message = f"{descriptor.name} is a listener: only the sidecar calls it"
                    raise StackError(message)
                return _method(descriptor)
        found = {full: method for full, method in found.items() if not _is_listener(method)}
        short = [full for full in found if full.rpartition(".")[2] == wanted or full.endswith(f"/{wanted}")]
        near = short or difflib.get_close_matches(wanted, found, n=4, cutoff=0.5) or sorted(found)
        listed = "\n".join(f"  {full}" for full in near)
        told = "there" if len(near) == len(found) else "nearest"
        message = f"no rpc {wanted!r} in {self._file.name}; {told} {'are' if len(near) > 1 else 'is'}\n{listed}"
        raise StackError(message)

    def parse(self, kind: type[Message], text: str) -> Message:
        """Read a message from JSON; an error that names the field."""
        message = kind()
        try:
            json_format.Parse(text, message, descriptor_pool=self.pool)
        except json_format.ParseError as error:
            problem = (
                Explainer(self.pool).explain(kind.DESCRIPTOR.full_name, text)
                or f"the request is no {kind.DESCRIPTOR.full_name}: {error}"
            )
            raise StackError(problem) from error
        # The parser takes `[]` and `""` for an object without fields.
        if not text.lstrip().startswith("{") and (
            problem := Explainer(self.pool).explain(kind.DESCRIPTOR.full_name, text)
        ):
            raise StackError(problem)
        return message

    def to_json(self, message: Message, *, indent: int | None) -> str:
        """Write a message as JSON, with the contract's own field names and the fields that have no value too."""
        return json_format.MessageToJson(
            message,
            indent=indent,
            preserving_proto_field_name=True,
            always_print_fields_with_no_presence=True,
            descriptor_pool=self.pool,
            ensure_ascii=False,
        )


def _is_listener(method: MethodDescriptor) -> bool:
    options = method.GetOptions()
    return any(options.HasExtension(option) for option in LISTENER_OPTIONS)


def _method(descriptor: MethodDescriptor) -> Method:
    return Method(
        path=f"/{descriptor.containing_service.full_name}/{descriptor.name}",
        request=GetMessageClass(descriptor.input_type),
        response=GetMessageClass(descriptor.output_type),
        client_streams=bool(descriptor.client_streaming),
        server_streams=bool(descriptor.server_streaming),
    )
