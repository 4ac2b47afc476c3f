"""What the mock components have in common: their socket, the faults that befall their calls, and a record of those calls."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn, cast

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message_factory import GetMessageClass
from google.rpc import status_pb2

from apibase.testing.components.socket import ComponentSocket
from apibase.testing.faults import InjectedDisconnect, InjectedStatus
from dapr_components.v1 import common_pb2

if TYPE_CHECKING:
    from pathlib import Path

    from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
    from google.protobuf.message import Message

    from apibase.testing.faults import Faults

_INSTANCE = "x-component-instance"

Unary = Callable[[Any], "Message | Awaitable[Message]"]
"""Answers a request, or raises `Refused`."""
Stream = Callable[[AsyncIterator[Any], "CallContext"], AsyncIterator[Any]]
CallContext = grpc.aio.ServicerContext[Any, Any]


@dataclass(frozen=True, slots=True)
class Call:
    """A call that daprd made: `keys` are the keys or the topic that it was about, `component` the name that daprd's resource has."""

    operation: str
    keys: tuple[str, ...]
    component: str


class Refused(Exception):
    """A request that the component refuses by its own rules, with a status and at most one detail, as daprd reads them."""

    def __init__(self, code: grpc.StatusCode, message: str, detail: Message | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.detail = detail


class MockComponent:
    """One kind of component, on a socket of its own; made by `MockComponents`."""

    kind: ClassVar[str]
    """The first part of its operations: `state` of `state.get`."""

    def __init__(self, folder: Path, name: str, faults: Faults, calls: list[Call]) -> None:
        self._faults = faults
        self._calls = calls
        self.properties: dict[str, dict[str, str]] = {}
        """The metadata that daprd initialised it with, by the name of daprd's resource."""
        # daprd takes the type's name from the file's, without its last part: one name, a socket for each kind.
        self._socket = ComponentSocket(folder / f"{name}.{self.kind}", self._handlers())

    def services(self) -> Mapping[ServiceDescriptor, Mapping[str, Unary | Stream]]:
        """Return how each method of the protocol's services is answered; what is left out is UNIMPLEMENTED."""
        raise NotImplementedError

    def keys_of(self, request: Message) -> tuple[str, ...]:  # noqa: ARG002
        """Return what a request is about, as faults name it."""
        return ()

    async def start(self) -> None:
        """Be there for daprd; what it had before `stop` it still has."""
        await self._socket.open()

    async def stop(self) -> None:
        """Be gone: connections break, and the socket with them."""
        await self._socket.close()

    async def arrive(self, operation: str, keys: tuple[str, ...], context: CallContext) -> Call:
        """Note a call, and let happen to it what was asked for: it ends here where it is to fail."""
        headers = {name: value for name, value in context.invocation_metadata() or () if name == _INSTANCE}
        call = Call(f"{self.kind}.{operation}", keys, str(headers.get(_INSTANCE, "")))
        self._calls.append(call)
        try:
            await self.fault(operation, *keys)
        except InjectedStatus as error:
            await context.abort(error.code, error.message)
        return call

    async def fault(self, operation: str, *keys: str) -> None:
        """Let happen to a part of the work what was asked for; raises `InjectedStatus`."""
        try:
            await self._faults.apply(f"{self.kind}.{operation}", *keys)
        except InjectedDisconnect:
            self._socket.break_connections()
            await asyncio.get_running_loop().create_future()

    def _handlers(self) -> dict[str, dict[str, grpc.RpcMethodHandler[Any, Any]]]:
        found: dict[str, dict[str, grpc.RpcMethodHandler[Any, Any]]] = {}
        for service, methods in self.services().items():
            answers: dict[str, Unary | Stream] = dict(methods)
            if "Ping" in service.methods_by_name:
                answers["Ping"] = lambda _: common_pb2.PingResponse()
            found[service.full_name] = {
                name: self._stream_handler(service.methods_by_name[name], answer)
                if service.methods_by_name[name].server_streaming
                else self._unary_handler(service.methods_by_name[name], answer)
                for name, answer in answers.items()
            }
        return found

    def _unary_handler(self, method: MethodDescriptor, answer: Any) -> grpc.RpcMethodHandler[Any, Any]:  # noqa: ANN401
        operation = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", method.name).lower()

        async def handle(request: Any, context: CallContext) -> Message:  # noqa: ANN401
            call = await self.arrive(operation, self.keys_of(request), context)
            if method.name == "Init":
                self.properties[call.component] = dict(request.metadata.properties)
            try:
                response = answer(request)
                return cast("Message", await response if isinstance(response, Awaitable) else response)
            except Refused as error:
                await refuse(context, error)

        return grpc.unary_unary_rpc_method_handler(
            handle,
            request_deserializer=GetMessageClass(method.input_type).FromString,
            response_serializer=GetMessageClass(method.output_type).SerializeToString,
        )

    @staticmethod
    def _stream_handler(method: MethodDescriptor, answer: Any) -> grpc.RpcMethodHandler[Any, Any]:  # noqa: ANN401
        return grpc.stream_stream_rpc_method_handler(
            answer,
            request_deserializer=GetMessageClass(method.input_type).FromString,
            response_serializer=GetMessageClass(method.output_type).SerializeToString,
        )


async def refuse(context: CallContext, error: Refused) -> NoReturn:
    """End a call with what a component refuses it with."""
    trailing: tuple[tuple[str, bytes], ...] = ()
    if error.detail is not None:
        detail = AnyMessage()
        detail.Pack(error.detail)
        status = status_pb2.Status(code=error.code.value[0], message=error.message, details=[detail])
        trailing = (("grpc-status-details-bin", status.SerializeToString()),)
    await context.abort(error.code, error.message, trailing)
    raise AssertionError  # abort() raises
