"""The one connection to the sidecar: a channel whose every call carries token, trace context, deadline and app id.

Calls are dressed where a stub's method is called, not by interceptors: one mechanism for all four kinds of rpc (an
interceptor class that subclasses several is registered for one of them only), and no interceptor task per call.
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

from apibase.clients._metrics import CallMetrics
from apibase.clients._spans import CallSpans, end_unmade, end_with
from apibase.contract.reasons import chassis_reason
from apibase.deadline import deadline
from apibase.errors import SidecarError, SidecarUnavailable
from apibase.observability import outbound_headers
from dapr_contract.v1 import errors_pb2

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from opentelemetry.trace import Span
    from opentelemetry.util.types import AttributeValue

    from apibase.observability.metrics import Metrics
    from apibase.settings import Settings

T = TypeVar("T")

_TOKEN_HEADER = "dapr-api-token"  # noqa: S105 - a header's name
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

    def __init__(self, settings: Settings, metrics: Metrics | None = None) -> None:
        self._settings = settings
        self._token = settings.dapr_api_token
        self._endpoint = GrpcEndpoint(settings.sidecar_address)
        self._metrics = CallMetrics(metrics) if metrics is not None else None
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
        timeout = self._settings.call_timeout
        return _DressedChannel(self._open, self._headers(app_id), timeout, self._server(app_id), self._metrics)

    def _server(self, app_id: str | None) -> Mapping[str, AttributeValue]:
        """Who answers, by the names of the semantic conventions: behind the sidecar, it is the app."""
        if app_id is not None:
            return {"server.address": app_id}
        port = self._endpoint.port_as_int
        return {"server.address": self._endpoint.hostname, **({"server.port": port} if port else {})}

    def _headers(self, app_id: str | None) -> tuple[tuple[str, str], ...]:
        headers = [(_TOKEN_HEADER, self._token.get_secret_value())] if self._token else []
        if app_id is not None:
            headers.append(("dapr-app-id", app_id))
        return tuple(headers)

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


class _DressedChannel(grpc.aio.Channel):
    """A channel that opens late and dresses every call; a stub can be made of it before any loop runs."""

    def __init__(
        self,
        open_channel: Callable[[], grpc.aio.Channel],
        headers: tuple[tuple[str, str], ...],
        call_timeout: float,
        server: Mapping[str, AttributeValue],
        metrics: CallMetrics | None,
    ) -> None:
        self._open = open_channel
        self._headers = headers
        self._call_timeout = call_timeout
        self._server = server
        self._metrics = metrics

    def unary_unary(self, method: str, *args: Any, **kwargs: Any) -> Any:
        return self._method(
            "unary",
            method,
            lambda opened: opened.unary_unary(method, *args, **kwargs),
            self._headers,
            self._call_timeout,
        )

    def unary_stream(self, method: str, *args: Any, **kwargs: Any) -> Any:
        return self._stream("server_stream", method, lambda opened: opened.unary_stream(method, *args, **kwargs))

    def stream_unary(self, method: str, *args: Any, **kwargs: Any) -> Any:
        return self._stream("client_stream", method, lambda opened: opened.stream_unary(method, *args, **kwargs))

    def stream_stream(self, method: str, *args: Any, **kwargs: Any) -> Any:
        return self._stream("bidi_stream", method, lambda opened: opened.stream_stream(method, *args, **kwargs))

    def _stream(self, kind: str, method: str, make: Callable[[grpc.aio.Channel], Callable[..., Any]]) -> _Method:
        return self._method(kind, method, make, self._stream_headers(), None)

    def _method(
        self,
        kind: str,
        method: str,
        make: Callable[[grpc.aio.Channel], Callable[..., Any]],
        headers: tuple[tuple[str, str], ...],
        call_timeout: float | None,
    ) -> _Method:
        if self._metrics is not None:
            make = self._metrics.measuring(method, kind, make)
        return _Method(self._open, make, headers, call_timeout, CallSpans(method, self._server))

    def _stream_headers(self) -> tuple[tuple[str, str], ...]:
        # Without it, a timeout policy of the sidecar kills a proxied stream.
        proxied = any(key == "dapr-app-id" for key, _ in self._headers)
        return (*self._headers, ("dapr-stream", "true")) if proxied else self._headers

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
    """One method of a stub: adds headers and a deadline to each call."""

    def __init__(
        self,
        open_channel: Callable[[], grpc.aio.Channel],
        make: Callable[[grpc.aio.Channel], Callable[..., Any]],
        headers: Sequence[tuple[str, str]],
        call_timeout: float | None,
        spans: CallSpans,
    ) -> None:
        self._open = open_channel
        self._make = make
        self._headers = headers
        self._call_timeout = call_timeout
        self._spans = spans
        self._made: tuple[grpc.aio.Channel, Callable[..., Any]] | None = None

    def __call__(
        self,
        *request: object,
        timeout: float | None = None,
        metadata: Sequence[tuple[str, str | bytes]] | None = None,
        **options: Any,
    ) -> Any:
        bound = deadline.bound(timeout if timeout is not None else self._call_timeout)
        begun = self._spans.begin(request)
        if begun is None:
            return self._method()(*request, timeout=bound, metadata=self._dress(metadata), **options)
        span, request = begun
        try:
            call = self._method()(*request, timeout=bound, metadata=self._dress(metadata, span), **options)
        except BaseException as error:
            end_unmade(span, error)
            raise
        end_with(span, call)
        return call

    def _dress(
        self, metadata: Sequence[tuple[str, str | bytes]] | None, span: Span | None = None
    ) -> list[tuple[str, str | bytes]]:
        given = list(metadata or ())
        names = {key for key, _ in given}
        given += [(key, value) for key, value in self._headers if key not in names]
        given += [(key, value) for key, value in outbound_headers(span).items() if key not in names]
        return given

    def _method(self) -> Callable[..., Any]:
        channel = self._open()
        if self._made is None or self._made[0] is not channel:
            self._made = (channel, self._make(channel))
        return self._made[1]
