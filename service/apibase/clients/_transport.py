"""The one connection to the sidecar: a channel whose every call carries token, trace context, deadline and app id.

Calls pass the outbound chain where a stub's method is called, not interceptors of gRPC's: one mechanism for all four kinds of
rpc (an interceptor class that subclasses several is registered for one of them only), and no interceptor task per call.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any, Self, TypeVar

import grpc
from dapr.aio.clients import DaprClient
from dapr.clients.exceptions import DaprGrpcError, DaprInternalError
from dapr.clients.retry import RetryPolicy
from dapr.conf.helpers import GrpcEndpoint
from dapr.proto import api_service_v1, api_v1
from loguru import logger

from apibase.clients._metrics import Metrics
from apibase.clients._standard import Deadline, Identity, Tracing
from apibase.clients.outbound import OutboundCall, OutboundChain, OutboundMiddleware, OutboundTarget
from apibase.contract.reasons import chassis_reason
from apibase.errors import SidecarError, SidecarUnavailable
from apibase.middleware.call import Kind
from dapr_contract.v1 import errors_pb2

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from opentelemetry.util.types import AttributeValue

    from apibase.clients.outbound import Start
    from apibase.observability.metrics import Metrics as Families
    from apibase.settings import Settings

T = TypeVar("T")

_SIDECAR_ERROR = chassis_reason(errors_pb2.ERROR_REASON_SIDECAR_ERROR)
_ATTEMPT_SECONDS = 2.0
_RETRY_SECONDS = 0.1
_SILENCE_SECONDS = 1.9  # what fails at once is tried often, and told only now and then
_GRACE_SECONDS = 5.0


class Sidecar:
    """This app's connection to its sidecar, shared by all clients; opened in the running loop by the first call.

    Nothing blocks the loop: not the constructor, and not opening (the SDK's own constructor waits for the sidecar's HTTP
    health synchronously; `client` is one that does not). With `metrics`, its calls are counted and timed there.
    """

    def __init__(self, settings: Settings, metrics: Families | None = None) -> None:
        self._settings = settings
        self._endpoint = GrpcEndpoint(settings.sidecar_address)
        token = settings.dapr_api_token
        built_in: list[OutboundMiddleware] = [
            Tracing(self._names()),
            *([Metrics(metrics)] if metrics is not None else []),
            Deadline(settings.call_timeout),
            Identity(token.get_secret_value() if token else ""),
        ]
        self.outbound = OutboundChain(built_in, settings.outbound_middleware if metrics is not None else ())
        """What every call passes."""
        self._channel: grpc.aio.Channel | None = None
        self._client: DaprClient | None = None

    @property
    def address(self) -> str:
        """Where the sidecar's gRPC API is expected, for messages."""
        return self._settings.sidecar_address

    @property
    def client(self) -> DaprClient:
        """The Dapr SDK's asyncio client, over this connection."""
        if self._client is None:
            self._client = _Client(self.channel())
        return self._client

    def channel(self, *, app_id: str | None = None) -> grpc.aio.Channel:
        """Return a channel to the sidecar's own API, or through it to another app's services."""
        return _ChainedChannel(self._open, self.outbound, app_id or "")

    def _names(self) -> Mapping[str, AttributeValue]:
        """The sidecar, by the names of the semantic conventions."""
        port = self._endpoint.port_as_int
        return {"server.address": self._endpoint.hostname, **({"server.port": port} if port else {})}

    def _open(self) -> grpc.aio.Channel:
        if self._channel is None:
            options = [
                ("grpc.max_send_message_length", self._settings.max_message_bytes),
                ("grpc.max_receive_message_length", self._settings.max_message_bytes),
                # The sidecar comes back soon after a restart: look often.
                ("grpc.initial_reconnect_backoff_ms", 100),
                ("grpc.min_reconnect_backoff_ms", 100),
                ("grpc.max_reconnect_backoff_ms", 1000),
                # daprd refuses pings more often than every 8 s and closes what is idle for 3 min.
                ("grpc.keepalive_time_ms", 30_000),
                ("grpc.keepalive_timeout_ms", 5_000),
            ]
            target = self._endpoint.endpoint
            self._channel = (
                grpc.aio.secure_channel(target, grpc.ssl_channel_credentials(), options)
                if self._endpoint.tls
                else grpc.aio.insecure_channel(target, options)
            )
        return self._channel

    async def wait_ready(self, timeout: float) -> dict[str, str]:  # noqa: ASYNC109 - it reports while it waits
        """Return as soon as the sidecar's gRPC API answers, which it does once its components are loaded: name to type.

        Says every two seconds what is being waited for. Raises `SidecarUnavailable` after `timeout` seconds, and
        `SidecarError` at once when the sidecar refuses our token.
        """
        stub = api_service_v1.DaprStub(self.channel())  # type: ignore[no-untyped-call]
        started = time.monotonic()
        silent_until = 0.0
        while True:
            left = started + timeout - time.monotonic()
            try:
                metadata = await stub.GetMetadata(
                    api_v1.GetMetadataRequest(), wait_for_ready=True, timeout=max(min(_ATTEMPT_SECONDS, left), 0.05)
                )
            except grpc.aio.AioRpcError as error:
                if error.code() in {grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED}:
                    message = f"the sidecar at {self.address} refused the call ({error.details()}); is DAPR_API_TOKEN the sidecar's?"
                    reason = chassis_reason(errors_pb2.ERROR_REASON_SIDECAR_TOKEN_REFUSED)
                    raise SidecarError(error.code(), reason, message) from error
                waited = time.monotonic() - started
                if waited >= timeout:
                    message = f"no sidecar at {self.address} after {waited:.0f} s (APIBASE_SIDECAR_TIMEOUT)"
                    raise SidecarUnavailable(message) from error
                answers = error.code() is not grpc.StatusCode.DEADLINE_EXCEEDED
                if waited >= silent_until:
                    silent_until = waited + _SILENCE_SECONDS
                    logger.warning(
                        "waiting for the sidecar at {} for {:.0f} s, giving up after {:.0f} s: {}",
                        self.address,
                        waited,
                        timeout,
                        f"it answers {error.code().name}: {error.details()}"
                        if answers
                        else f"is daprd running with --dapr-grpc-port {self._settings.dapr_grpc_port}?",
                    )
                if answers:
                    await asyncio.sleep(_RETRY_SECONDS)
            else:
                loaded = {component.name: component.type for component in metadata.registered_components}
                logger.bind(runtime=metadata.runtime_version, components=list(loaded)).info(
                    "the sidecar at {} answers after {:.1f} s", self.address, time.monotonic() - started
                )
                return loaded

    async def close(self) -> None:
        """Close the connection, after a grace of 5 s for the calls that are pending."""
        if self._channel is not None:
            await self._channel.close(_GRACE_SECONDS)
            self._channel = None
            self._client = None


async def sidecar_call(awaitable: Awaitable[T], *, component: str) -> T:
    """Await a call of the SDK's client and raise what it fails with as a `SidecarError`.

    The SDK has several exceptions, some of which lose the status; the gRPC error below them has it.
    """
    try:
        return await awaitable
    except (grpc.aio.AioRpcError, DaprGrpcError, DaprInternalError) as error:
        status = error if isinstance(error, grpc.aio.AioRpcError) else error.__cause__
        if not isinstance(status, grpc.aio.AioRpcError):
            raise SidecarError(grpc.StatusCode.UNKNOWN, _SIDECAR_ERROR, str(error), component=component) from error
        details = status.details() or ""
        if status.code() is grpc.StatusCode.UNAVAILABLE:
            raise SidecarUnavailable(details) from error
        raise SidecarError(status.code(), _SIDECAR_ERROR, details, component=component) from error


class _Client(DaprClient):
    """The SDK's client without its constructor, which probes the sidecar synchronously over HTTP."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        # None of its own: a second try of a write that took effect would find its own first one, and call it a conflict.
        self.retry_policy = RetryPolicy(max_attempts=0)
        self.invocation_client = None
        self._channel = channel
        self._stub = api_service_v1.DaprStub(channel)  # type: ignore[no-untyped-call]


class _ChainedChannel(grpc.aio.Channel):
    """A channel that opens late, and whose every call passes the outbound chain; a stub can be made of it before any loop runs."""

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
    """One method of a stub, whose calls pass the outbound chain; that is made of it at the first of them."""

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
        self._made: tuple[grpc.aio.Channel, Start] | None = None

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
        if self._made is None or self._made[0] is not channel:
            self._made = (channel, self._chain.start_of(self._target, self._begin(channel)))
        return self._made[1]

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
