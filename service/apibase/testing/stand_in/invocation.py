"""Calls of other apps: methods by their name, and rpcs of any service, passed on as bytes."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Never

import grpc

from apibase.testing.faults import InjectedDisconnect, InjectedStatus
from apibase.testing.stand_in.api import TOKEN
from apibase.testing.stand_in.api_errors import ApiError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from apibase.testing.stand_in.api import Api, ApiCall, Operations
    from apibase.testing.stand_in.app_link import AppLink, Headers
    from apibase.testing.stand_in.peers import Peer

    Context = grpc.aio.ServicerContext[Any, Any]

APP_ID = "dapr-app-id"
CALLER = "dapr-caller-app-id"
CALLEE = "dapr-callee-app-id"
_NOT_FOUND = "no host found with the given ID"
_HOP = frozenset({APP_ID, TOKEN, "dapr-stream", "te", "content-type", "user-agent"})
_MOST_BYTES = 64 * 1024 * 1024


class Router:
    """Where apps are: the app itself, and others that a test names."""

    def __init__(self, app_id: str) -> None:
        self.app_id = app_id
        self.own: AppLink | None = None
        self.peers: dict[str, Peer] = {}
        self._channels: dict[str, grpc.aio.Channel] = {}

    def channel(self, app_id: str) -> grpc.aio.Channel:
        """Return the connection to a gRPC app. Raises `LookupError` for one that is not known."""
        if app_id == self.app_id and self.own is not None:
            return self.own.channel
        peer = self.peers.get(app_id)
        if peer is None or not peer.grpc_address:
            raise LookupError(app_id)
        if peer.grpc_address not in self._channels:
            options = [("grpc.max_send_message_length", _MOST_BYTES), ("grpc.max_receive_message_length", _MOST_BYTES)]
            self._channels[peer.grpc_address] = grpc.aio.insecure_channel(peer.grpc_address, options)
        return self._channels[peer.grpc_address]

    def headers(self, given: Headers, app_id: str) -> Headers:
        """Return the headers of a call as the callee gets them: who calls whom, and the token of an app of our own."""
        told = [(key, value) for key, value in given if key not in _HOP and not key.startswith("grpc-")]
        if app_id == self.app_id:
            return (*told, *(self.own.token_header if self.own else ()))
        return (*told, (CALLER, self.app_id), (CALLEE, app_id))

    async def close(self) -> None:
        """Close what was opened."""
        await asyncio.gather(*(channel.close() for channel in self._channels.values()))
        self._channels.clear()


class InvocationApi:
    """Dapr's operation that calls a method by its name."""

    def __init__(self, router: Router) -> None:
        self._router = router

    @property
    def operations(self) -> Operations:
        """By the names of their rpcs."""
        return {"InvokeService": self._invoke}

    async def _invoke(self, request: Any, call: ApiCall) -> Any:  # noqa: ANN401 - the API's messages
        headers = self._router.headers(call.headers, request.id)
        if request.id == self._router.app_id:
            headers = (*headers, (CALLER, self._router.app_id), (CALLEE, request.id))
        invoke = self.on_invoke(request.id)
        answering = invoke(request.message, metadata=headers)
        try:
            answer = await answering
        except grpc.aio.AioRpcError as error:
            call.context.set_trailing_metadata(tuple(error.trailing_metadata() or ()))
            await call.context.abort(error.code(), error.details() or "")
            raise
        await call.context.send_initial_metadata(_passed_back(await answering.initial_metadata()))
        call.context.set_trailing_metadata(_passed_back(await answering.trailing_metadata()))
        return answer

    def on_invoke(self, app_id: str) -> Any:  # noqa: ANN401 - grpc's own multicallable
        """Return `OnInvoke` of an app. Raises `ApiError` for one that is not known."""
        from dapr.proto.runtime.v1 import appcallback_pb2_grpc  # noqa: PLC0415 - only who invokes needs it

        try:
            channel = self._router.channel(app_id)
        except LookupError:
            message = f"failed to invoke, id: {app_id}, err: {_NOT_FOUND}"
            raise ApiError(grpc.StatusCode.INTERNAL, message) from None
        return appcallback_pb2_grpc.AppCallbackStub(channel).OnInvoke  # type: ignore[no-untyped-call]


class Proxy(grpc.GenericRpcHandler):
    """Passes on every call that names an app by `dapr-app-id`: all four kinds of rpc, as bytes."""

    def __init__(
        self, router: Router, api: Api, admit: Callable[..., Any], cut: Callable[[], Awaitable[Never]]
    ) -> None:
        self._router = router
        self._api = api
        self._admit = admit
        self._cut = cut

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Return what passes a call on."""
        method = str(handler_call_details.method)

        async def forward(requests: AsyncIterator[bytes], context: Context) -> AsyncIterator[bytes]:
            headers: Headers = tuple(context.invocation_metadata() or ())
            try:
                self._api.check_token(headers)
                app_id = _named(headers)
                await self._admit(method.lstrip("/"), app_id)
                channel = self._channel(app_id)
            except (ApiError, InjectedStatus) as error:
                await context.abort(error.code, error.message)
            except InjectedDisconnect:
                await self._cut()
            passing: Any = channel.stream_stream(method)
            call = passing(requests, metadata=self._router.headers(headers, app_id), timeout=context.time_remaining())
            try:
                await context.send_initial_metadata(_passed_back(await call.initial_metadata()))
                async for message in call:
                    yield message
                context.set_trailing_metadata(_passed_back(await call.trailing_metadata()))
            except grpc.aio.AioRpcError as error:
                context.set_trailing_metadata(tuple(error.trailing_metadata() or ()))
                await context.abort(error.code(), error.details() or "")
            finally:
                call.cancel()

        return grpc.stream_stream_rpc_method_handler(forward)

    def _channel(self, app_id: str) -> grpc.aio.Channel:
        try:
            return self._router.channel(app_id)
        except LookupError:
            raise ApiError(grpc.StatusCode.UNKNOWN, _NOT_FOUND) from None


def _named(headers: Headers) -> str:
    """Return the app that a call is for. Raises `ApiError` where it names none."""
    for key, value in headers:
        if key in {APP_ID, CALLEE} and isinstance(value, str):
            return value
    raise ApiError(grpc.StatusCode.UNKNOWN, f"cannot proxy request: missing {CALLEE} or {APP_ID} metadata")


def _passed_back(metadata: Any) -> Headers:  # noqa: ANN401 - grpc's own kinds of metadata
    return tuple(metadata or ())
