"""A channel whose every call passes the outbound chain, and the SDK's client over it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import grpc
from dapr.aio.clients import DaprClient
from dapr.clients.retry import RetryPolicy
from dapr.proto import api_service_v1

from apibase.clients.outbound import OutboundCall, OutboundChain, OutboundTarget
from apibase.middleware.call import Kind

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from apibase.clients.outbound import Start


class Client(DaprClient):
    """The SDK's client without its constructor, which probes the sidecar synchronously over HTTP."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        # None of its own: a second try of a write that took effect would find its own first one, and call it a conflict.
        self.retry_policy = RetryPolicy(max_attempts=0)
        self.invocation_client = None
        self._channel = channel
        self._stub = self.stub = api_service_v1.DaprStub(channel)  # type: ignore[no-untyped-call]


class ChainedChannel(grpc.aio.Channel):
    """A channel that opens late, in the loop that calls, and whose every call passes the outbound chain.

    A stub can be made of it before any loop runs, and used from several.
    """

    def __init__(self, open_channel: Callable[[], grpc.aio.Channel], chain: OutboundChain, app_id: str) -> None:
        self._open = open_channel
        self._chain = chain
        self._app_id = app_id

    def unary_unary(self, method: str, *args: Any, **kwargs: Any) -> Any:
        return self._method(Kind.UNARY, method, lambda opened: opened.unary_unary, args, kwargs)

    def unary_stream(self, method: str, *args: Any, **kwargs: Any) -> Any:
        return self._method(Kind.SERVER_STREAM, method, lambda opened: opened.unary_stream, args, kwargs)

    def stream_unary(self, method: str, *args: Any, **kwargs: Any) -> Any:
        return self._method(Kind.CLIENT_STREAM, method, lambda opened: opened.stream_unary, args, kwargs)

    def stream_stream(self, method: str, *args: Any, **kwargs: Any) -> Any:
        return self._method(Kind.BIDI_STREAM, method, lambda opened: opened.stream_stream, args, kwargs)

    def _method(
        self,
        kind: Kind,
        method: str,
        make: Callable[[grpc.aio.Channel], Callable[..., Any]],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> _Method:
        target = OutboundTarget(kind, method.lstrip("/"), self._app_id)
        return _Method(self._open, self._chain, target, make, (method, *args), kwargs)

    async def close(self, grace: float | None = None) -> None:
        """Leave the connection open: it is shared, and `Sidecar.close` ends it."""

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        return self._open().get_state(try_to_connect)

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        await self._open().wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        await self._open().channel_ready()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_exc: object) -> None:
        return None


class _Method:
    """One method of a stub, whose calls pass the outbound chain; that is made of it at the first call on a channel."""

    def __init__(
        self,
        open_channel: Callable[[], grpc.aio.Channel],
        chain: OutboundChain,
        target: OutboundTarget,
        make: Callable[[grpc.aio.Channel], Callable[..., Any]],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> None:
        self._open = open_channel
        self._chain = chain
        self._target = target
        self._make = make
        self._args = args
        self._kwargs = kwargs
        self._made: dict[grpc.aio.Channel, Start] = {}

    def __call__(
        self,
        request: Any = None,
        timeout: float | None = None,
        metadata: Sequence[tuple[str, str | bytes]] | None = None,
        *,
        request_iterator: Any = None,
        **options: Any,
    ) -> Any:
        given = request if request is not None else request_iterator
        call = OutboundCall(self._target, given, timeout, list(metadata or ()), options)
        return self._start()(call)

    def _start(self) -> Start:
        channel = self._open()
        start = self._made.get(channel)
        if start is None:
            if len(self._made) >= _MOST_CHANNELS:
                self._made.clear()  # those of loops that have ended
            start = self._made[channel] = self._chain.start_of(self._target, self._begin(channel))
        return start

    def _begin(self, channel: grpc.aio.Channel) -> Start:
        """Return what hands a call to gRPC."""
        kwargs = dict(self._kwargs)
        hook = self._chain.response_hook(self._target)
        deserialize = kwargs.get("response_deserializer")
        if hook is not None and deserialize is not None:
            kwargs["response_deserializer"] = lambda data: hook(deserialize(data))
        method = self._make(channel)(*self._args, **kwargs)

        def begin(call: OutboundCall) -> grpc.aio.Call:
            if call.request is None:
                made = method(timeout=call.timeout, metadata=call.metadata, **call.options)
            else:
                made = method(call.request, timeout=call.timeout, metadata=call.metadata, **call.options)
            return made  # type: ignore[no-any-return]

        return begin


_MOST_CHANNELS = 8  # loops that one method is called from at a time: the app's, and those of workers
