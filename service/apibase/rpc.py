"""The border that every inbound rpc passes: decoded, through the chain, to the servicer's method, and back.

Each method is wrapped once, when it is registered; nothing is looked up per call.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncGenerator
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, NoReturn

import grpc
from google.protobuf.message import DecodeError
from grpc_status import rpc_status
from loguru import logger

from apibase.contract import is_implemented, request_class, response_class, where
from apibase.contract.reasons import chassis_reason
from apibase.error_status import to_status
from apibase.errors import FieldViolation, InvalidRequest, ServiceError, too_large_request
from apibase.failures import tell
from apibase.middleware.call import TOKEN_HEADER, Call, Kind, Target
from apibase.middleware.errors import CallOver
from apibase.observability.series import Count
from apibase.settings import DEFAULT_MAX_BYTES
from dapr_contract.v1 import errors_pb2

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

    from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
    from google.protobuf.message import Message

    from apibase.middleware.call import Proceed
    from apibase.middleware.chain import Chain

    Context = grpc.aio.ServicerContext[Any, Any]

_END: Any = grpc.aio.EOF
_MOMENT = 0.001  # seconds; on a busy machine a turn of the event loop is too few

_KINDS = {
    # Whether requests stream, and whether answers do.
    (False, False): Kind.UNARY,
    (False, True): Kind.SERVER_STREAM,
    (True, False): Kind.CLIENT_STREAM,
    (True, True): Kind.BIDI_STREAM,
}


def rpc_handlers(
    service: ServiceDescriptor, servicer: object, chain: Chain, max_bytes: int = DEFAULT_MAX_BYTES
) -> grpc.GenericRpcHandler:
    """Return the gRPC handlers of a servicer's methods, each behind the chain.

    A request of more than `max_bytes` is RESOURCE_EXHAUSTED: the server itself takes more, for the sake of events.
    """
    return _Handlers(
        {
            f"/{service.full_name}/{method.name}": _method_handler(_Method(method, servicer, chain, max_bytes))
            for method in service.methods
        }
    )


_found_for: ContextVar[tuple[asyncio.AbstractEventLoop | None, asyncio.Task[Any] | None, Any]] = ContextVar(
    "found_for", default=(None, None, ())
)
"""The event loop, the task of a call, and the call's metadata."""


class _Handlers(grpc.GenericRpcHandler):
    """Finds a method's handler; and keeps the metadata that gRPC has read for that, which it would read again for the handler."""

    def __init__(self, handlers: Mapping[str, grpc.RpcMethodHandler[Any, Any]]) -> None:
        self._handlers = handlers
        # Asking for the running loop is a system call (Python 3.11 looks whether the process has forked): once is enough.
        self._loop: asyncio.AbstractEventLoop | None = None

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any] | None:
        handler = self._handlers.get(handler_call_details.method)
        if handler is not None:
            if self._loop is None:
                self._loop = asyncio.get_running_loop()
            task = asyncio.current_task(self._loop)
            _found_for.set((self._loop, task, handler_call_details.invocation_metadata))
        return handler


def _metadata_of(context: Context) -> Any:  # noqa: ANN401 - what gRPC gives is made of pairs
    """Return a call's metadata: that which was read for this very task, which is one call's alone; gRPC's own otherwise."""
    loop, task, metadata = _found_for.get()
    if task is None or task is not asyncio.current_task(loop):
        metadata = context.invocation_metadata()
    return metadata or ()


def _method_handler(method: _Method) -> grpc.RpcMethodHandler[Any, Any]:
    begin, run = method.begin, method.run

    async def answer(request: Any, context: Context) -> Message | None:  # noqa: ANN401 - bytes, or an iterator
        call = begin(request, context)
        try:
            answer: Message | None = await run(call)
        except grpc.aio.AbortError:
            raise
        except Exception as error:  # noqa: BLE001 - of a middleware outside of where errors are told
            call.failure = tell(method.target.name, error)
        if call.failure is not None:
            await abort(context, call.failure, method.target.domain)
        return answer

    codec = {
        # A single request is decoded behind the border, so that one that can't be is refused and logged like any other.
        "request_deserializer": method.read_message if method.streams_in else None,
        "response_serializer": method.response.SerializeToString,
    }
    match method.target.kind:
        case Kind.UNARY:
            return grpc.unary_unary_rpc_method_handler(answer, **codec)  # type: ignore[arg-type]
        case Kind.SERVER_STREAM:
            return grpc.unary_stream_rpc_method_handler(answer, **codec)  # type: ignore[arg-type]
        case Kind.CLIENT_STREAM:
            return grpc.stream_unary_rpc_method_handler(answer, **codec)  # type: ignore[arg-type]
        case _:
            return grpc.stream_stream_rpc_method_handler(answer, **codec)  # type: ignore[arg-type]


async def abort(context: Context, error: ServiceError, domain: str) -> NoReturn:
    """End a call with an error's status; always raises, as gRPC's own `abort` does."""
    status = rpc_status.to_status(to_status(error, domain=domain))
    await context.abort(status.code, status.details, status.trailing_metadata)
    raise AssertionError  # unreachable: abort raises


async def _requests(call: Call, read: Callable[[], Awaitable[Message]]) -> AsyncIterator[Message]:
    """Yield the requests of a call, whose stream ends only for a caller that has ended it.

    When a caller leaves in mid-stream, gRPC ends the stream first and cancels the call a moment later: a handler could take
    the half of an upload for the whole. So the end of a stream waits for that moment.
    """
    counted = call.received or Count()
    while (message := await read()) is not _END:
        counted.value += 1
        yield message
    await asyncio.sleep(_MOMENT)


class _Method:
    """What is known of a method before any call of it."""

    def __init__(self, method: MethodDescriptor, servicer: object, chain: Chain, max_bytes: int) -> None:
        self.request = request_class(method)
        self.response = response_class(method)
        self.streams_in = method.client_streaming
        self.target = Target(
            _KINDS[method.client_streaming, method.server_streaming],
            method.full_name,
            method.containing_service.file.package,
            self.request,
            self.response,
            descriptor=method,
        )
        self._max_bytes = max_bytes
        self._on_request = chain.request_hook(self.target)
        self._on_response = chain.response_hook(self.target)
        implemented = is_implemented(servicer, method)
        if not implemented:
            name = type(servicer).__qualname__
            logger.warning("{} is not implemented by {}: its callers get UNIMPLEMENTED", where(method), name)
        self._behavior: Callable[..., Any] = getattr(servicer, method.name) if implemented else self._unimplemented
        self.run: Proceed = chain.compile(
            self.target, self._answer_often if method.server_streaming else self._answer_once
        )

    def begin(self, request: Any, context: Context) -> Call:  # noqa: ANN401 - bytes, or an iterator
        """Return a call of it."""
        metadata: Any = _metadata_of(context)
        headers = dict(metadata)
        token = headers.pop(TOKEN_HEADER, "")
        call = Call(
            self.target,
            metadata,
            headers,
            self._read,
            context=context,
            token=token,
        )
        if self.streams_in:
            call.request = _requests(call, context.read)
        else:
            call.data = request
        return call

    async def _answer_once(self, call: Call) -> Message:
        return self._checked(await self._behavior(call.request, call.context))

    # A coroutine that writes, not an async generator: gRPC leaves a cancelled call's generator to the garbage collector,
    # which would end it, and with it the call's context, in another task.
    async def _answer_often(self, call: Call) -> None:
        assert call.context is not None  # noqa: S101 - an rpc has one
        responses = self._behavior(call.request, call.context)
        if inspect.isawaitable(responses):
            await responses  # gRPC's other style: the handler itself writes to the context
        else:
            await self._send(call, responses, call.context)

    async def _send(self, call: Call, responses: AsyncIterator[object], context: Context) -> None:
        """Write a handler's responses, and end the handler with the call, whichever way that ends."""
        counted, write = call.sent or Count(), context.write
        kind, unchanged = self.response, self._on_response is None
        try:
            async for response in responses:
                checked = response if unchanged and isinstance(response, kind) else self._checked(response)
                counted.value += 1
                try:
                    await write(checked)
                except grpc.aio.InternalError as error:
                    raise CallOver from error
        finally:
            if isinstance(responses, AsyncGenerator):
                await responses.aclose()

    def _read(self, call: Call) -> Message:
        return self.read_message(call.data)

    def read_message(self, data: bytes) -> Message:
        """Return the message of a request, or one of its messages, when it has passed the chain's hooks."""
        if len(data) > self._max_bytes:
            raise too_large_request(len(data), self._max_bytes)
        try:
            message = self.request.FromString(data)
        except DecodeError as error:
            raise InvalidRequest(
                [FieldViolation("(message)", f"is no {self.request.DESCRIPTOR.full_name}")],
                reason=chassis_reason(errors_pb2.ERROR_REASON_UNREADABLE_REQUEST),
            ) from error
        return message if self._on_request is None else self._on_request(message)

    def _checked(self, response: object) -> Message:
        """Refuse what the contract does not promise; gRPC would send any message as if it were the right one."""
        if not isinstance(response, self.response):
            message = (
                f"{self.target.name} answered with {type(response).__name__}, not {self.response.DESCRIPTOR.full_name}"
            )
            raise TypeError(message)
        if self._on_response is None:
            return response
        changed: Message = self._on_response(response)
        return changed

    def _unimplemented(self, _request: object, _context: Context) -> NoReturn:
        reason = chassis_reason(errors_pb2.ERROR_REASON_NOT_IMPLEMENTED)
        raise ServiceError(grpc.StatusCode.UNIMPLEMENTED, reason, f"{self.target.name} is not implemented")
