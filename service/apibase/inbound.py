"""The border that every inbound rpc passes: context in, validation, errors out, one log line.

Each method is wrapped once, when it is registered; nothing is looked up per call.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Self

import grpc
from grpc_status import rpc_status
from loguru import logger

from apibase.contract import request_class, response_class
from apibase.deadline import deadline
from apibase.errors import ServiceError, internal_error, to_status
from apibase.observability import call_context
from apibase.validation import validate

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
    from google.protobuf.message import Message

    Context = grpc.aio.ServicerContext[Any, Any]

_CALLER = "dapr-caller-app-id"


def rpc_handlers(service: ServiceDescriptor, servicer: object) -> grpc.GenericRpcHandler:
    """Return the gRPC handlers of a servicer's methods, each behind the border."""
    return grpc.method_handlers_generic_handler(
        service.full_name,
        {method.name: _method_handler(method, getattr(servicer, method.name)) for method in service.methods},
    )


def _method_handler(method: MethodDescriptor, behavior: Callable[..., Any]) -> grpc.RpcMethodHandler[Any, Any]:
    border = _Border(method)
    codec = {
        "request_deserializer": request_class(method).FromString,
        "response_serializer": response_class(method).SerializeToString,
    }

    async def unary_unary(request: Message, context: Context) -> Message:
        with border.call(context) as call:
            try:
                validate(request)
                response: Message = await behavior(request, context)
            except Exception as error:
                await call.abort(error)
                raise AssertionError from error  # unreachable: abort raises
            return response

    async def unary_stream(request: Message, context: Context) -> AsyncIterator[Message]:
        with border.call(context) as call:
            try:
                validate(request)
                async for response in behavior(request, context):
                    yield response
            except Exception as error:  # noqa: BLE001 - the border: nothing passes it but a status
                await call.abort(error)

    async def stream_unary(requests: AsyncIterator[Message], context: Context) -> Message:
        with border.call(context) as call:
            try:
                response: Message = await behavior(_validated(requests), context)
            except Exception as error:
                await call.abort(error)
                raise AssertionError from error  # unreachable: abort raises
            return response

    async def stream_stream(requests: AsyncIterator[Message], context: Context) -> AsyncIterator[Message]:
        with border.call(context) as call:
            try:
                async for response in behavior(_validated(requests), context):
                    yield response
            except Exception as error:  # noqa: BLE001 - the border: nothing passes it but a status
                await call.abort(error)

    if method.client_streaming:
        if method.server_streaming:
            return grpc.stream_stream_rpc_method_handler(stream_stream, **codec)  # type: ignore[arg-type]
        return grpc.stream_unary_rpc_method_handler(stream_unary, **codec)  # type: ignore[arg-type]
    if method.server_streaming:
        return grpc.unary_stream_rpc_method_handler(unary_stream, **codec)  # type: ignore[arg-type]
    return grpc.unary_unary_rpc_method_handler(unary_unary, **codec)  # type: ignore[arg-type]


async def _validated(requests: AsyncIterator[Message]) -> AsyncIterator[Message]:
    async for request in requests:
        validate(request)
        yield request


class _Border:
    """What is known of a method before any call of it."""

    def __init__(self, method: MethodDescriptor) -> None:
        self.name = method.full_name
        self.domain = method.containing_service.file.package

    def call(self, context: Context) -> _Call:
        return _Call(self, context)


class _Call:
    """One call: its context while it runs, its log line when it ends."""

    def __init__(self, border: _Border, context: Context) -> None:
        self._border = border
        self._context = context
        self._code = grpc.StatusCode.OK
        self._reason = ""
        self._started = time.perf_counter()
        headers = {key: value for key, value in context.invocation_metadata() or () if isinstance(value, str)}
        self._caller = headers.get(_CALLER, "")
        self._scope = call_context(headers)

    def __enter__(self) -> Self:
        self._scope.__enter__()
        self._deadline = deadline.set_remaining(self._context.time_remaining())
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _traceback: object) -> None:
        if kind is not None and self._code is grpc.StatusCode.OK:
            self._code = grpc.StatusCode.CANCELLED
        logger.bind(
            logger="apibase.call",
            method=self._border.name,
            code=self._code.name,
            **({"reason": self._reason} if self._reason else {}),
            **({"caller": self._caller} if self._caller else {}),
            duration_ms=round((time.perf_counter() - self._started) * 1000, 3),
        ).info("{} {}", self._border.name, self._code.name)
        deadline.reset(self._deadline)
        self._scope.__exit__(None, None, None)

    async def abort(self, error: Exception) -> None:
        """End the call with the status that `error` maps to; always raises."""
        if isinstance(error, grpc.aio.AbortError):
            code = self._context.code()
            self._code = code if isinstance(code, grpc.StatusCode) else grpc.StatusCode.UNKNOWN
            raise error
        if isinstance(error, ServiceError):
            known = error
        else:
            known = internal_error()
            logger.bind(error_id=known.metadata["error_id"]).opt(exception=error).error(
                "{} failed with an unexpected {}", self._border.name, type(error).__name__
            )
        self._code, self._reason = known.code, known.reason
        status = rpc_status.to_status(to_status(known, domain=self._border.domain))
        await self._context.abort(status.code, status.details, status.trailing_metadata)
