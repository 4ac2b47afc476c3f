"""The one connection to the sidecar: a channel whose every call carries token, trace context, deadline and app id.

Calls pass the outbound chain where a stub's method is called, not interceptors of gRPC's: one mechanism for all four kinds of
rpc (an interceptor class that subclasses several is registered for one of them only), and no interceptor task per call.
"""

from __future__ import annotations

import asyncio
import re
import time
from typing import TYPE_CHECKING, TypeVar

import grpc
from dapr.clients.exceptions import DaprGrpcError, DaprInternalError
from dapr.proto import api_v1
from loguru import logger

from apibase.cancellation import is_cancelled
from apibase.clients._channel import ChainedChannel, Client
from apibase.clients._http import SidecarHttp
from apibase.clients._metrics import Metrics
from apibase.clients._retries import RetryBudget, again
from apibase.clients._standard import Deadline, Identity, Tracing
from apibase.clients._status import details_of, reason_of
from apibase.clients.components import Component, components_of, not_loaded
from apibase.clients.outbound import OutboundChain, OutboundMiddleware
from apibase.contract.reasons import chassis_reason
from apibase.errors import SidecarError, SidecarUnavailable
from dapr_contract.v1 import errors_pb2

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from dapr.aio.clients import DaprClient
    from opentelemetry.util.types import AttributeValue

    from apibase.observability.metrics import Metrics as Families
    from apibase.settings import Settings

T = TypeVar("T")

_SIDECAR_ERROR = chassis_reason(errors_pb2.ERROR_REASON_SIDECAR_ERROR)
_ATTEMPT_SECONDS = 2.0
_RETRY_SECONDS = 0.1
_SILENCE_SECONDS = 1.9  # what fails at once is tried often, and told only now and then
_GRACE_SECONDS = 5.0
_COMPONENTS_SECONDS = 60.0  # a sidecar may load another component of the same name


class Sidecar:
    """This app's connection to its sidecar, shared by all clients; opened by the first call, one for each event loop that calls.

    Nothing blocks the loop: not the constructor, and not opening (the SDK's own constructor waits for the sidecar's HTTP
    health synchronously; `client` is one that does not). With `metrics`, its calls are counted and timed there.
    """

    def __init__(self, settings: Settings, metrics: Families | None = None) -> None:
        self.settings = settings
        self._endpoint = settings.sidecar_endpoint
        token = settings.dapr_api_token
        built_in: list[OutboundMiddleware] = [
            Tracing(self._names()),
            *([Metrics(metrics)] if metrics is not None else []),
            Deadline(settings.call_timeout),
            Identity(token.get_secret_value() if token else ""),
        ]
        self.outbound = OutboundChain(built_in, settings.outbound_middleware if metrics is not None else ())
        """What every call passes."""
        self._channels: dict[asyncio.AbstractEventLoop, grpc.aio.Channel] = {}
        self._budget = RetryBudget()
        self._components: dict[str, Component] = {}
        self._components_read = 0.0
        self._client = Client(self.channel())
        self.stub = self._client.stub
        """The sidecar's API as generated, over this connection: for what the SDK's client can't do."""
        self.http = SidecarHttp(settings, metrics)
        """The connection to the sidecar's HTTP API, over which HTTP apps are called."""

    @property
    def address(self) -> str:
        """Where the sidecar's gRPC API is expected, for messages."""
        return self.settings.sidecar_address

    @property
    def client(self) -> DaprClient:
        """The Dapr SDK's asyncio client, over this connection; it can be used from every loop."""
        return self._client

    def channel(self, *, app_id: str | None = None) -> grpc.aio.Channel:
        """Return a channel to the sidecar's own API, or through it to another app's services."""
        return ChainedChannel(self._open, self.outbound, app_id or "")

    async def call(
        self,
        make: Callable[[], Awaitable[T]],
        *,
        component: str = "",
        safe: bool = False,
        within: float | None = None,
    ) -> T:
        """Make a call of `client` or `stub`, and raise what it fails with as a `SidecarError`.

        `safe` says that it may be made twice, as what only reads may: then it is made again while the sidecar can't be reached, within
        a budget, `within` seconds for all tries (the setting `call_timeout` where none is given), and the inbound call's time. What a
        component answers is never asked for twice: that is for Dapr's resiliency policies.
        """
        began = time.monotonic()
        try:
            answer = await sidecar_call(make(), component=component, reachable=self._connected)
        except SidecarUnavailable as error:
            if not safe:
                raise
            answer = await again(
                lambda: sidecar_call(make(), component=component, reachable=self._connected),
                error,
                began=began,
                within=self.settings.call_timeout if within is None else within,
                budget=self._budget,
            )
        self._budget.earn()
        return answer

    async def component(self, name: str) -> Component:
        """Return what the sidecar says of a component, which it is asked now and then. Raises `SidecarError` where it has not loaded it."""
        now = time.monotonic()
        if name not in self._components or now - self._components_read > _COMPONENTS_SECONDS:
            self._components_read = now
            metadata = await self.call(lambda: self.stub.GetMetadata(api_v1.GetMetadataRequest()), safe=True)
            self._components = components_of(metadata)
        found = self._components.get(name)
        if found is None:
            raise not_loaded(name, self._components)
        return found

    def _names(self) -> Mapping[str, AttributeValue]:
        """The sidecar, by the names of the semantic conventions."""
        port = self._endpoint.port_as_int
        return {"server.address": self._endpoint.hostname, **({"server.port": port} if port else {})}

    def _connected(self) -> bool:
        return self._open().get_state() is grpc.ChannelConnectivity.READY

    def _open(self) -> grpc.aio.Channel:
        loop = asyncio.get_running_loop()
        channel = self._channels.get(loop)
        if channel is None:
            for ended in [each for each in self._channels if each.is_closed()]:
                del self._channels[ended]
            options = [
                ("grpc.max_send_message_length", self.settings.max_message_bytes),
                ("grpc.max_receive_message_length", self.settings.max_message_bytes),
                # The sidecar comes back soon after a restart: look often.
                ("grpc.initial_reconnect_backoff_ms", 100),
                ("grpc.min_reconnect_backoff_ms", 100),
                ("grpc.max_reconnect_backoff_ms", 1000),
                # daprd refuses pings more often than every 8 s and closes what is idle for 3 min.
                ("grpc.keepalive_time_ms", 30_000),
                ("grpc.keepalive_timeout_ms", 5_000),
            ]
            target = self._endpoint.endpoint
            channel = self._channels[loop] = (
                grpc.aio.secure_channel(target, grpc.ssl_channel_credentials(self._authorities()), options)
                if self._endpoint.tls
                else grpc.aio.insecure_channel(target, options)
            )
        return channel

    def _authorities(self) -> bytes | None:
        file = self.settings.sidecar_ca_file
        return file.read_bytes() if file is not None else None

    async def wait_ready(self, timeout: float) -> dict[str, str]:  # noqa: ASYNC109 - it reports while it waits
        """Return as soon as the sidecar's gRPC API answers, which it does once its components are loaded: name to type.

        Says every two seconds what is being waited for. Raises `SidecarUnavailable` after `timeout` seconds, and
        `SidecarError` at once when the sidecar refuses our token.
        """
        started = time.monotonic()
        silent_until = 0.0
        while True:
            left = started + timeout - time.monotonic()
            try:
                metadata = await self.stub.GetMetadata(
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
                        else f"is daprd running with --dapr-grpc-port {self.settings.dapr_grpc_port}?",
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
        """Close the connection, after a grace of 5 s for the calls that are pending; from whichever loop they are."""
        while self._channels:  # a call that begins meanwhile opens another
            channels = list(self._channels.items())
            self._channels.clear()
            await asyncio.gather(*(_close(channel, loop) for loop, channel in channels))
        await self.http.close()


async def sidecar_call(awaitable: Awaitable[T], *, component: str, reachable: Callable[[], bool] = lambda: False) -> T:
    """Await a call of the SDK's client and raise what it fails with as a `SidecarError`.

    The SDK has several exceptions, some of which lose the status; the gRPC error below them has it. `reachable` says whether the
    connection stands.
    """
    try:
        return await awaitable
    except asyncio.CancelledError:
        if is_cancelled():
            raise
        raise SidecarUnavailable("the connection was closed while the call was under way") from None
    except (grpc.aio.AioRpcError, DaprGrpcError, DaprInternalError) as error:
        status = error if isinstance(error, grpc.aio.AioRpcError) else error.__cause__
        if not isinstance(status, grpc.aio.AioRpcError):
            raise SidecarError(grpc.StatusCode.UNKNOWN, _SIDECAR_ERROR, str(error), component=component) from error
        code, details = status.code(), status.details() or ""
        if code is grpc.StatusCode.UNAVAILABLE and not _answered(details, reachable):
            raise SidecarUnavailable(details) from error
        if code in _UNSPECIFIC:
            code = next((told for words, told in _IN_WORDS.items() if words in details), code)
        raise SidecarError(code, _SIDECAR_ERROR, details, component=component, dapr_code=_dapr_code(status)) from error


_UNSPECIFIC = frozenset({grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN})
# What daprd says in words only: the call's time, or the component's, is over; it ends, or begins anew.
_IN_WORDS = {
    "context deadline exceeded": grpc.StatusCode.DEADLINE_EXCEEDED,
    "context canceled": grpc.StatusCode.UNAVAILABLE,
}
# gRPC gives no sign of whether the peer said UNAVAILABLE or is not there, but its words. daprd's own, of the app behind it in those of
# grpc-go, and what gRPC says of a connection:
_FROM_DAPRD = re.compile(r"connection error: desc = |rpc error: |error |failed (?!to connect to all addresses)")
_FROM_GRPC = re.compile(
    r"failed to connect|connect(ion)? (refused|reset)|socket closed|broken pipe|recvmsg|goaway|keepalive|endpoint clos"
    r"|handshake|(name|dns) resolution|channel (is )?(closed|shut ?down)|transport (is )?clos|cancelling all calls",
    re.IGNORECASE,
)


def _answered(details: str, reachable: Callable[[], bool]) -> bool:
    """Whether UNAVAILABLE is an answer of the sidecar, and not gRPC's word that there is none."""
    if _FROM_DAPRD.match(details):
        return True
    return not _FROM_GRPC.search(details) and reachable()


def _dapr_code(status: grpc.aio.AioRpcError) -> str:
    """Return the reason of daprd's own `ErrorInfo`, such as DAPR_STATE_NOT_FOUND; empty where it gives none."""
    return reason_of(details_of(status))


async def _close(channel: grpc.aio.Channel, loop: asyncio.AbstractEventLoop) -> None:
    """Close a channel in the loop that it belongs to; where that has ended, its calls have too."""
    if loop is asyncio.get_running_loop():
        await channel.close(_GRACE_SECONDS)
    elif loop.is_running():
        closing = asyncio.wrap_future(asyncio.run_coroutine_threadsafe(channel.close(_GRACE_SECONDS), loop))
        await asyncio.wait({closing}, timeout=_GRACE_SECONDS + 1)  # that loop may end before it is done
