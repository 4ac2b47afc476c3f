"""Other apps that can be called through the stand-in, and the app itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import grpc

from apibase.contract import is_implemented, request_class, response_class, servicer_contract
from apibase.errors import ServiceError
from apibase.rpc import abort

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from google.protobuf.descriptor import MethodDescriptor
    from google.protobuf.message import Message

    Context = grpc.aio.ServicerContext[Any, Any]


@dataclass(frozen=True)
class Peer:
    """Where an app is: the address of its gRPC server, or, for an HTTP app, its URL."""

    app_id: str
    grpc_address: str = ""
    http_url: str = ""


class PeerServer:
    """A gRPC server that serves implementations of generated servicers, in a test, as another app would."""

    def __init__(self) -> None:
        self._server: grpc.aio.Server | None = None

    async def start(self, servicers: tuple[object, ...]) -> str:
        """Serve, and return the address."""
        self._server = grpc.aio.server()
        for servicer in servicers:
            service = servicer_contract(servicer)
            handlers = {
                method.name: _handler(method, servicer)
                for method in service.methods
                if is_implemented(servicer, method)
            }
            self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service.full_name, handlers),))
        port = self._server.add_insecure_port("127.0.0.1:0")
        await self._server.start()
        return f"127.0.0.1:{port}"

    async def stop(self) -> None:
        """End it."""
        if self._server is not None:
            await self._server.stop(None)


def _handler(method: MethodDescriptor, servicer: object) -> grpc.RpcMethodHandler[Any, Any]:
    behavior = getattr(servicer, method.name)
    read, write = request_class(method).FromString, response_class(method).SerializeToString
    domain = method.containing_service.file.package
    if method.server_streaming:
        make = (
            grpc.stream_stream_rpc_method_handler if method.client_streaming else grpc.unary_stream_rpc_method_handler
        )
        return make(_several(behavior, domain), read, write)
    one = grpc.stream_unary_rpc_method_handler if method.client_streaming else grpc.unary_unary_rpc_method_handler
    return one(_one(behavior, domain), read, write)


def _one(behavior: Callable[..., Awaitable[Message]], domain: str) -> Callable[[Any, Context], Awaitable[Message]]:
    async def answer(request: Any, context: Context) -> Message:  # noqa: ANN401 - whatever the contract has
        try:
            return await behavior(request, context)
        except ServiceError as error:
            await abort(context, error, domain)

    return answer


def _several(
    behavior: Callable[..., AsyncIterator[Message]], domain: str
) -> Callable[[Any, Context], AsyncIterator[Message]]:
    async def answer(request: Any, context: Context) -> AsyncIterator[Message]:  # noqa: ANN401 - likewise
        try:
            async for message in behavior(request, context):
                yield message
        except ServiceError as error:
            await abort(context, error, domain)

    return answer
