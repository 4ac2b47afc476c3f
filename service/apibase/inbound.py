"""The border that every inbound rpc passes: context in, validation, errors out, one log line.

Each method is wrapped once, when it is registered; nothing is looked up per call.
"""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING, Any, NoReturn, Self

import grpc
from google.protobuf.message import DecodeError
from grpc_status import rpc_status

from apibase.app_token import AppToken
from apibase.callers import CallerCheck, named_callers
from apibase.cancellation import is_cancelled
from apibase.contract import is_implemented, request_class, response_class
from apibase.contract.reasons import chassis_reason
from apibase.deadline import deadline
from apibase.errors import FieldViolation, InvalidRequest, ServiceError, to_status, too_large_request
from apibase.failures import tell
from apibase.observability import call_context, log_outcome
from apibase.settings import DEFAULT_MAX_BYTES
from apibase.validation import validate
from dapr_contract.v1 import errors_pb2

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
    from google.protobuf.message import Message

    Context = grpc.aio.ServicerContext[Any, Any]


def rpc_handlers(
    service: ServiceDescriptor, servicer: object, token: AppToken | None = None, max_bytes: int = DEFAULT_MAX_BYTES
) -> grpc.GenericRpcHandler:
    """Return the gRPC handlers of a servicer's methods, each behind the border; with `token`, for the sidecar only.

    A request of more than `max_bytes` is RESOURCE_EXHAUSTED: the server itself takes more, for the sake of events.
    """
    return grpc.method_handlers_generic_handler(
        service.full_name,
        {
            method.name: _method_handler(_Border(method, token or AppToken(None), max_bytes), method, servicer)
            for method in service.methods
        },
    )


def _method_handler(border: _Border, method: MethodDescriptor, servicer: object) -> grpc.RpcMethodHandler[Any, Any]:
    behavior: Callable[..., Any] = (
        getattr(servicer, method.name) if is_implemented(servicer, method) else border.unimplemented
    )
    admit: Callable[..., Any] = border.admit_all if method.client_streaming else border.admit

    async def answer_once(request: object, context: Context) -> Message:
        with border.call(context) as call:
            try:
                call.authenticate()
                return border.checked(await behavior(admit(request), context))
            except (Exception, asyncio.CancelledError) as error:
                await call.fail(error)
                raise

    # A coroutine that writes, not an async generator: gRPC leaves a cancelled call's generator to the garbage collector,
    # which would end it, and with it the call's context, in another task.
    async def answer_often(request: object, context: Context) -> None:
        with border.call(context) as call:
            try:
                call.authenticate()
                responses = behavior(admit(request), context)
                if inspect.isawaitable(responses):
                    await responses  # gRPC's other style: the handler itself writes to the context
                else:
                    await border.send(responses, context)
            except (Exception, asyncio.CancelledError) as error:
                await call.fail(error)
                raise

    codec = {
        # A single request is decoded behind the border, so that one that can't be is refused and logged like any other.
        "request_deserializer": border.read if method.client_streaming else None,
        "response_serializer": border.response.SerializeToString,
    }
    if method.client_streaming:
        if method.server_streaming:
            return grpc.stream_stream_rpc_method_handler(answer_often, **codec)  # type: ignore[arg-type]
        return grpc.stream_unary_rpc_method_handler(answer_once, **codec)  # type: ignore[arg-type]
    if method.server_streaming:
        return grpc.unary_stream_rpc_method_handler(answer_often, **codec)  # type: ignore[arg-type]
    return grpc.unary_unary_rpc_method_handler(answer_once, **codec)  # type: ignore[arg-type]


class _CallOver(asyncio.CancelledError):
    """A response could not be written: the call ended while the handler was at work, mostly because its caller left."""


class _Border:
    """What is known of a method before any call of it."""

    def __init__(self, method: MethodDescriptor, token: AppToken, max_bytes: int) -> None:
        self.token = token
        self.callers = CallerCheck(method)
        self.max_bytes = max_bytes
        self.name = method.full_name
        self.domain = method.containing_service.file.package
        self.request = request_class(method)
        self.response = response_class(method)

    def call(self, context: Context) -> _Call:
        return _Call(self, context)

    def admit(self, data: bytes) -> Message:
        """Return the request of a call that has one."""
        try:
            request = self.read(data)
        except DecodeError as error:
            raise self._unreadable() from error
        validate(request)
        return request

    def read(self, data: bytes) -> Message:
        """Return the message that the bytes hold, valid or not."""
        if len(data) > self.max_bytes:
            raise too_large_request(len(data), self.max_bytes)
        return self.request.FromString(data)

    async def admit_all(self, requests: AsyncIterator[Message]) -> AsyncIterator[Message]:
        """Yield the requests of a stream."""
        try:
            async for request in requests:
                validate(request)
                yield request
        except DecodeError as error:
            raise self._unreadable() from error

    def _unreadable(self) -> InvalidRequest:
        return InvalidRequest(
            [FieldViolation("(message)", f"is no {self.request.DESCRIPTOR.full_name}")],
            reason=chassis_reason(errors_pb2.ERROR_REASON_UNREADABLE_REQUEST),
        )

    async def send(self, responses: AsyncIterator[Message], context: Context) -> None:
        """Write a handler's responses, and end the handler with the call, whichever way that ends."""
        try:
            async for response in responses:
                checked = self.checked(response)
                try:
                    await context.write(checked)
                except grpc.aio.InternalError as error:
                    raise _CallOver from error
        finally:
            if isinstance(responses, AsyncGenerator):
                await responses.aclose()

    def checked(self, response: object) -> Message:
        """Refuse what the contract does not promise; gRPC would send any message as if it were the right one."""
        if not isinstance(response, self.response):
            message = f"{self.name} answered with {type(response).__name__}, not {self.response.DESCRIPTOR.full_name}"
            raise TypeError(message)
        return response

    def unimplemented(self, _request: object, _context: Context) -> NoReturn:
        reason = chassis_reason(errors_pb2.ERROR_REASON_NOT_IMPLEMENTED)
        raise ServiceError(grpc.StatusCode.UNIMPLEMENTED, reason, f"{self.name} is not implemented")


class _Call:
    """One call: its context while it runs, its log line when it ends."""

    def __init__(self, border: _Border, context: Context) -> None:
        self._border = border
        self._context = context
        self._code = grpc.StatusCode.OK
        self._reason = ""
        self._started = time.perf_counter()
        metadata = context.invocation_metadata() or ()
        self._headers = {key: value for key, value in metadata if isinstance(value, str)}
        self._callers = named_callers(metadata)
        self._caller = self._callers[-1] if self._callers else ""
        self._scope = call_context(self._headers)

    def __enter__(self) -> Self:
        self._scope.__enter__()
        self._deadline = deadline.set_remaining(self._context.time_remaining())
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _traceback: object) -> None:
        if kind is None:
            self._code = self._set_code(grpc.StatusCode.OK)
        elif self._code is grpc.StatusCode.OK:
            self._code = grpc.StatusCode.UNKNOWN
        fields = {
            "method": self._border.name,
            "code": self._code.name,
            **({"reason": self._reason} if self._reason else {}),
            **({"caller": self._caller} if self._caller else {}),
            "duration_ms": round((time.perf_counter() - self._started) * 1000, 3),
        }
        log_outcome("INFO", "apibase.call", f"{self._border.name} {self._code.name}", fields)
        deadline.reset(self._deadline)
        self._scope.__exit__(None, None, None)

    def authenticate(self) -> None:
        """Refuse a call that does not come from the sidecar, and one from an app that the contract does not let call."""
        self._border.token.check(self._headers)
        self._border.callers.check(self._callers)

    async def fail(self, error: BaseException) -> None:
        """End the call with the status that `error` maps to; always raises, unless the call itself is cancelled."""
        if is_cancelled() or isinstance(error, _CallOver):
            self._code = grpc.StatusCode.CANCELLED
            return
        if isinstance(error, grpc.aio.AbortError):
            self._code = self._set_code(grpc.StatusCode.UNKNOWN)
            raise error
        told = tell(self._border.name, error)
        self._code, self._reason = told.code, told.reason
        status = rpc_status.to_status(to_status(told, domain=self._border.domain))
        await self._context.abort(status.code, status.details, status.trailing_metadata)

    def _set_code(self, default: grpc.StatusCode) -> grpc.StatusCode:
        """Return the code that the handler gave the context, by `abort` or `set_code`."""
        code = self._context.code()
        return code if isinstance(code, grpc.StatusCode) else default
