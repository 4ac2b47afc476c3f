"""Dapr's gRPC API as a table of operations: each passes the token's check and the faults, and fails as daprd's do."""

from __future__ import annotations

import collections
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Never

import grpc
from dapr.proto.runtime.v1 import dapr_pb2
from loguru import logger

from apibase.contract import request_class, response_class
from apibase.testing.faults import Faults, InjectedDisconnect, InjectedStatus
from apibase.testing.stand_in.api_errors import ApiError

if TYPE_CHECKING:
    from google.protobuf.descriptor import MethodDescriptor
    from google.protobuf.message import Message

    Context = grpc.aio.ServicerContext[Any, Any]

TOKEN = "dapr-api-token"  # noqa: S105 - a header's name
_SERVICE = dapr_pb2.DESCRIPTOR.services_by_name["Dapr"]
_KEPT = 10_000
_NAMES = ("store_name", "storeName", "pubsub_name", "component_name", "name", "key", "topic", "id", "resource_id")
_LISTS = ("keys", "states", "operations")


@dataclass(frozen=True)
class ApiCall:
    """A call of Dapr's API: the operation's name, what was asked, and the headers it came with."""

    operation: str
    request: Message | None
    headers: tuple[tuple[str, str | bytes], ...]
    context: Context

    def header(self, name: str) -> str:
        """Return the last text header of that name; empty where there is none."""
        found = [value for key, value in self.headers if key == name and isinstance(value, str)]
        return found[-1] if found else ""


Unary = Callable[[Any, ApiCall], Awaitable["Message"]]
Stream = Callable[[Any, ApiCall], AsyncIterator["Message"]]
Operations = Mapping[str, Unary | Stream]
"""Operations by the names of their rpcs. One whose rpc streams gets the request, or an iterator of them, and is a generator."""


class Api:
    """The operations that the stand-in has. Any other is UNIMPLEMENTED, and says what to do."""

    def __init__(self, token: str, faults: Faults, answer_faults: Faults, cut: Callable[[], Awaitable[Never]]) -> None:
        self._token = token
        self._faults = faults
        self._answer_faults = answer_faults
        self._cut = cut
        self._operations: dict[str, Unary | Stream] = {}
        self._calls: collections.deque[ApiCall] = collections.deque(maxlen=_KEPT)

    def add(self, operations: Operations) -> None:
        """Have these operations too."""
        self._operations.update(operations)

    def calls(self, operation: str = "") -> list[ApiCall]:
        """Return the calls that came, of all operations or of one, the oldest first; no more than the last 10,000."""
        return [call for call in self._calls if operation in {"", call.operation}]

    @property
    def handler(self) -> grpc.GenericRpcHandler:
        """What serves all of it."""
        handlers = {method.name: self._handler(method) for method in _SERVICE.methods}
        return grpc.method_handlers_generic_handler(_SERVICE.full_name, handlers)

    def _handler(self, method: MethodDescriptor) -> grpc.RpcMethodHandler[Any, Any]:
        read, write = request_class(method).FromString, response_class(method).SerializeToString
        if not method.server_streaming and not method.client_streaming:
            return grpc.unary_unary_rpc_method_handler(self._unary(method.name), read, write)
        streaming = self._streaming(method.name)
        if method.client_streaming and method.server_streaming:
            return grpc.stream_stream_rpc_method_handler(streaming, read, write)
        if method.server_streaming:
            return grpc.unary_stream_rpc_method_handler(streaming, read, write)
        return grpc.stream_unary_rpc_method_handler(self._unary(method.name), read, write)

    def _unary(self, name: str) -> Callable[[Any, Context], Awaitable[Message]]:
        async def answer(request: Any, context: Context) -> Message:  # noqa: ANN401 - any of the API's messages
            call = self._begin(name, request, context)
            try:
                await self._admit(call, request)
                operation = self._operations.get(name)
                if operation is None:
                    raise _not_here(name)
                result: Message = await operation(request, call)  # type: ignore[misc]
                await self._answer_faults.apply(name, *_keys(request))
            except (ApiError, InjectedStatus) as error:
                await _abort(context, error)
            except InjectedDisconnect:
                await self._cut()
            return result

        return answer

    def _streaming(self, name: str) -> Callable[[Any, Context], AsyncIterator[Message]]:
        async def answer(request: Any, context: Context) -> AsyncIterator[Message]:  # noqa: ANN401 - likewise
            call = self._begin(name, None if isinstance(request, AsyncIterator) else request, context)
            try:
                await self._admit(call, request)
                operation = self._operations.get(name)
                if operation is None:
                    raise _not_here(name)
                async for message in operation(request, call):  # type: ignore[union-attr]
                    yield message
            except (ApiError, InjectedStatus) as error:
                await _abort(context, error)
            except InjectedDisconnect:
                await self._cut()

        return answer

    def _begin(self, name: str, request: Message | None, context: Context) -> ApiCall:
        call = ApiCall(name, request, tuple(context.invocation_metadata() or ()), context)
        self._calls.append(call)
        return call

    async def _admit(self, call: ApiCall, request: object) -> None:
        self.check_token(call.headers)
        await self._faults.apply(call.operation, *_keys(request))

    def check_token(self, headers: tuple[tuple[str, str | bytes], ...]) -> None:
        """Raise `ApiError` for a caller who does not have the API's token."""
        if not self._token:
            return
        given = [value for key, value in headers if key == TOKEN]
        if not given:
            raise ApiError(grpc.StatusCode.UNAUTHENTICATED, "missing api token in request metadata")
        if given[0] != self._token:
            raise ApiError(grpc.StatusCode.UNAUTHENTICATED, "authentication error: api token mismatch")


async def _abort(context: Context, error: ApiError | InjectedStatus) -> None:
    if isinstance(error, ApiError):
        context.set_trailing_metadata(error.trailing_metadata)
    await context.abort(error.code, error.message)


def _not_here(name: str) -> ApiError:
    message = (
        f"the stand-in sidecar has no {name}: it has what API Base's contract suite holds against the real daprd; "
        "run this test with a real sidecar (apibase run)"
    )
    logger.warning(message)
    return ApiError(grpc.StatusCode.UNIMPLEMENTED, message)


def _keys(request: object) -> tuple[str, ...]:
    """Return the names in a request that a fault may be asked for by: component, key, topic, app id, job."""
    return tuple(dict.fromkeys(_names_in(request)))


def _names_in(request: object) -> Iterator[str]:
    for name in _NAMES:
        value = getattr(request, name, "")
        if value and isinstance(value, str):
            yield value
    for name in _LISTS:
        for each in getattr(request, name, ()):
            inner = getattr(each, "request", each)
            yield each if isinstance(each, str) else inner.key
    if hasattr(request, "job"):
        yield request.job.name
