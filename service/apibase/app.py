"""The app: a `grpc.aio` server that is Dapr's app channel, and the life of the process around it."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import sys
from datetime import timedelta
from typing import TYPE_CHECKING, NoReturn, TypeVar, Unpack

import grpc
from dapr.proto.runtime.v1 import appcallback_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from loguru import logger

from apibase.app_channel import AppChannelAlphaServicer, AppChannelServicer
from apibase.callback_requests import callback_handlers
from apibase.clients import PubSubPublisher, ServiceInvocationClient, Sidecar, StateManager
from apibase.clients._transport import sidecar_call
from apibase.contract import ContractError, servicer_contract
from apibase.contract.components import check_components, check_deduplication_store, deduplicates
from apibase.dead_letters import DeadLetters
from apibase.dead_letters.archive import DeadLetterArchive
from apibase.dead_letters.subscription import archive_dead_letters, check_dead_letter_store
from apibase.decorators import Decorators, ServerOptions
from apibase.deduplication import Deduplicator
from apibase.delivery import TopicDelivery
from apibase.errors import SidecarError
from apibase.health import AppHealthServicer, Health, HealthServicer
from apibase.jobs import JobRegistrar
from apibase.lifecycle import LifecycleHooks
from apibase.middleware.app_token import AppToken
from apibase.middleware.chain import CHAIN_ATTRIBUTE
from apibase.middleware.standard import standard_chain
from apibase.observability import configure_logging, flush_logs, prepare_loop
from apibase.observability.telemetry import Telemetry
from apibase.routes import RouteTable
from apibase.rpc import rpc_handlers
from apibase.settings import Settings
from apibase.streaming.history import StreamRequest
from apibase.streaming.subscriptions import StreamingSubscriptions
from apibase.threads import at_work

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from google.protobuf.descriptor import ServiceDescriptor

    from apibase.events import EventContext
    from apibase.middleware import Middleware
    from apibase.middleware.chain import Chain
    from apibase.streaming import StreamingSubscription

T = TypeVar("T")
H = TypeVar("H", bound="Callable[[], Awaitable[object]]")

_COLLECT_AFTER = 10_000  # objects
_CALLBACK = appcallback_pb2.DESCRIPTOR.services_by_name
_RECEIVE = "grpc.max_receive_message_length"
_MOST = 2**31 - 1
_HEADROOM = 16  # an event that is so many times too large is still told by itself
_ENVELOPE = 1024 * 1024  # what an event's attributes and extensions take beside its data


class App(Decorators):
    """A service beside its sidecar.

    Add servicers (of rpcs or of listeners: the contract tells which), then `run()`. The app channel listens at once, but
    health says NOT_SERVING until the sidecar answers; SIGTERM or SIGINT drains: health down, calls in flight finish within
    the setting `drain_timeout`, the connection to the sidecar closes, exit 0.

    Handlers without a contract are registered by the decorators of the SDK's `dapr.ext.grpc.App`, whose constructor's
    arguments it takes too: `max_grpc_message_length` (bytes; the setting `max_message_bytes`) and gRPC's own for a server.
    """

    def __init__(
        self,
        settings: Settings | int | None = None,
        *,
        max_grpc_message_length: int | None = None,
        **server_options: Unpack[ServerOptions],
    ) -> None:
        if isinstance(settings, int):  # where the SDK has it
            settings, max_grpc_message_length = None, settings
        unknown = server_options.keys() - ServerOptions.__annotations__.keys()
        if unknown:
            raise TypeError(f"App takes no {', '.join(sorted(unknown))}")
        routes = RouteTable()
        super().__init__(routes, server_options.get("thread_pool"))
        self.settings = _changed(settings or Settings(), max_message_bytes=max_grpc_message_length)
        self.telemetry = Telemetry(self.settings)
        self.sidecar = Sidecar(self.settings, self.telemetry.metrics)
        self.health = Health()
        self.telemetry.metrics.ready.set_function(lambda: self.health.ready)
        self.port = 0
        self._server_options = server_options
        self._services: list[tuple[ServiceDescriptor, object]] = []
        self._server: grpc.aio.Server | None = None
        self._deduplicator: Deduplicator | None = None
        self._registering: asyncio.Task[None] | None = None
        self._archive: DeadLetterArchive | None = None
        self._topics = TopicDelivery(DeadLetters(self.sidecar))
        self._middleware: list[Middleware] = []
        self._made_chain: Chain | None = None
        self._hooks = LifecycleHooks()
        self._streaming = StreamingSubscriptions(self.settings, routes, self._chain, self._thread_pool)

    @property
    def invocation(self) -> ServiceInvocationClient:
        """Calls to other apps."""
        return ServiceInvocationClient(self.sidecar)

    @property
    def publisher(self) -> PubSubPublisher:
        """Events out."""
        return PubSubPublisher(self.sidecar)

    def state(self, store_name: str) -> StateManager:
        """Return the state store component of that name."""
        return StateManager(self.sidecar, store_name)

    def add_middleware(self, *middleware: Middleware) -> None:
        """Have every inbound call pass these too, innermost and in this order, unless the setting `middleware` says otherwise.

        Raises `RuntimeError` once the app has started.
        """
        if self._made_chain is not None:
            raise RuntimeError("the app has started; add middleware before that")
        self._middleware += middleware

    def _chain(self) -> Chain:
        """Return the chain, which is made when it is first needed."""
        if self._made_chain is None:
            telemetry = self.telemetry
            telemetry.start_tracing()
            self._made_chain = standard_chain(
                self.settings, self._topics, telemetry.metrics, telemetry.tracer, self._middleware
            )
        return self._made_chain

    def before_ready(self, hook: H) -> H:
        """Have this run when the sidecar has answered, before the app is ready: what handlers need, such as a warm cache.

        An `async def ()`, usable as a decorator. What it raises fails the start. They run in the order of their registration.
        """
        self._hooks.before_ready.append(hook)
        return hook

    def after_drain(self, hook: H) -> H:
        """Have this run when the last call has ended, while the sidecar can still be called: closing what `before_ready` opened.

        An `async def ()`, usable as a decorator. They run in the reverse order of their registration, each of them, whatever
        another raises. They run also where the start has failed.
        """
        self._hooks.after_drain.append(hook)
        return hook

    def add_servicer(self, servicer: object) -> None:
        """Serve an implementation of a generated servicer; its listeners, if it has them, are called by daprd only.

        Raises `ContractError` for a class that implements no contract, and for contradictions.
        """
        service = servicer_contract(servicer)
        if self._routes.add(servicer, self._thread_pool) == 0:
            self._external.claim(service.full_name)
            self._services.append((service, servicer))

    async def subscribe_stream(  # noqa: PLR0913 - what a subscription has, by name
        self,
        pubsub_name: str,
        topic: str,
        handler: Callable[[T, EventContext], object],
        *,
        message: type[T] | None = None,
        concurrency: int = 16,
        dead_letter_topic: str = "",
        metadata: Mapping[str, str] | None = None,
        handler_timeout: float | None = None,
        open_within: float | None = None,
    ) -> StreamingSubscription:
        """Subscribe to a topic that is known only now; it lasts, through restarts of the sidecar, until it is closed.

        `handler` gets the event's `message`, valid by its contract, or without one its data as bytes, and what else is known of
        it. What it returns or raises means what it means for a contract's listener; a `TopicEventResponse` is heeded too. A
        plain function runs in a thread. At most `concurrency` run at once, each for `handler_timeout` seconds if that is given;
        `metadata` is for the component.

        It is open on return, or, where the sidecar is away, will be as soon as possible. With `open_within` (seconds) it is
        open on return, or the `SidecarError` that says why not is raised. A refusal that no waiting mends (an unknown
        component, a topic out of scope, a sidecar without streaming) is raised in any case, as is `ContractError` where
        the app listens to the topic already. docs/streaming-subscriptions.md has the rest.
        """
        request = StreamRequest(
            pubsub_name, topic, dead_letter_topic, dict(metadata or {}), concurrency, handler_timeout
        )
        return await self._streaming.subscribe(request, handler, message, open_within)

    @property
    def streaming_subscriptions(self) -> list[StreamingSubscription]:
        """Those that are not closed, oldest first."""
        return self._streaming.all

    async def start(self, app_port: int | None = None, listen_address: str | None = None) -> None:
        """Listen on the app channel, wait for the sidecar, then be ready. Raises `SidecarError` when it does not come.

        Port and address win over the settings'; port 0 picks a free one, which `port` says.
        """
        self.settings = _changed(self.settings, app_port=app_port, app_host=listen_address)
        store_name = self.settings.deduplication_store
        if deduplicates(self._routes, store_name):
            lease = timedelta(seconds=self.settings.deduplication_lease)
            self._deduplicator = Deduplicator(self.state(store_name), self.settings.app_id, lease)
            self._topics.deduplicator = self._deduplicator
        archive_name = self.settings.dead_letter_store
        if archive_name:
            self._archive = DeadLetterArchive(
                self.state(archive_name),
                ttl=timedelta(seconds=self.settings.dead_letter_ttl),
                max_message_bytes=self.settings.max_message_bytes,
            )
            archive_dead_letters(self._routes, self._archive)
        self.telemetry.start_metrics()
        await self._listen()
        loaded = await self.sidecar.wait_ready(self.settings.sidecar_timeout)
        check_components(self._routes, loaded)
        check_dead_letter_store(archive_name, loaded)
        await check_deduplication_store(self.sidecar, self._routes, store_name)
        for hook in self._hooks.before_ready:
            await hook()
        self.health.set_ready()
        await self._tell_sidecar()
        self._registering = asyncio.create_task(JobRegistrar(self.sidecar, self._routes.jobs).run())
        logger.info("{} is ready", self.settings.app_id)

    async def _tell_sidecar(self) -> None:
        """Leave with the sidecar what `apibase routes --app` asks for; nothing depends on it."""
        try:
            await sidecar_call(
                self.sidecar.client.set_metadata(CHAIN_ATTRIBUTE, ",".join(self._chain().names)), component=""
            )
        except SidecarError as error:
            logger.debug("the sidecar does not take {}: {}", CHAIN_ATTRIBUTE, error)

    async def _listen(self) -> None:
        given = dict(self._server_options.get("options", ()))
        max_bytes = _max_bytes(given.get(_RECEIVE), self.settings.max_message_bytes)
        options = {
            "grpc.max_send_message_length": self.settings.max_message_bytes,
            # Two processes on one port would share its calls unseen.
            "grpc.so_reuseport": 0,
            **given,
            # More than the app takes: what the server refuses, daprd brings again, with all of its batch.
            _RECEIVE: min(max_bytes * max(_HEADROOM, self._routes.largest_batch) + _ENVELOPE, _MOST),
        }
        server = grpc.aio.server(
            self._thread_pool,
            interceptors=self._server_options.get("interceptors"),
            options=list(options.items()),
            maximum_concurrent_rpcs=self._server_options.get("maximum_concurrent_rpcs"),
            compression=self._server_options.get("compression"),
        )
        chain = self._chain()
        for service, servicer in self._services:
            server.add_generic_rpc_handlers((rpc_handlers(service, servicer, chain, max_bytes),))
        server.add_generic_rpc_handlers(self._external.behind(AppToken(self.settings.app_api_token)))
        channel = AppChannelServicer(self._routes, chain, max_bytes)
        server.add_generic_rpc_handlers(
            (
                callback_handlers(_CALLBACK["AppCallback"], channel),
                callback_handlers(_CALLBACK["AppCallbackAlpha"], AppChannelAlphaServicer(channel)),
                callback_handlers(_CALLBACK["AppCallbackHealthCheck"], AppHealthServicer(self.health)),
            )
        )
        health_pb2_grpc.add_HealthServicer_to_server(HealthServicer(self.health), server)
        names = self._external.names
        self.health.declare(names)
        if self.settings.reflection:
            reflection.enable_server_reflection(
                (
                    *names,
                    _CALLBACK["AppCallback"].full_name,
                    health_pb2.DESCRIPTOR.services_by_name["Health"].full_name,
                    reflection.SERVICE_NAME,
                ),
                server,
            )
        host = self.settings.app_host
        address = f"[{host}]:{self.settings.app_port}" if ":" in host else f"{host}:{self.settings.app_port}"
        try:
            self.port = server.add_insecure_port(address)
        except RuntimeError as error:
            message = f"cannot listen on {address} (APP_HOST, APP_PORT): {error}"
            raise OSError(message) from error
        self._server = server
        await server.start()
        logger.bind(
            services=names,
            topics=[f"{each.pubsub_name}/{each.topic}" for each in self._routes.subscriptions],
            bindings=list(self._routes.bindings),
            jobs=list(self._routes.jobs),
            methods=list(self._routes.methods),
        ).info("{} listens on {}:{}", self.settings.app_id, self.settings.app_host, self.port)

    async def stop(self) -> None:
        """Drain and close; safe to call at any point of the start."""
        self.health.set_draining()
        if self._registering is not None:
            self._registering.cancel()
            await asyncio.gather(self._registering, return_exceptions=True)
        streaming = asyncio.ensure_future(self._streaming.close(self.settings.drain_timeout))
        if self._server is not None:
            await self._server.stop(self.settings.drain_timeout)
            self._server = None
        await streaming
        await self._hooks.run_after_drain()
        if self._deduplicator is not None:
            await self._deduplicator.close()
        if self._archive is not None:
            await self._archive.close()
        await self.sidecar.close()
        await self.telemetry.stop()

    async def serve(self) -> int:
        """Start, run until SIGTERM or SIGINT, drain.

        Returns the exit code: 0; 1 when the start failed; 2 when the sidecar lacks a component that a contract names.
        """
        loop = asyncio.get_running_loop()
        prepare_loop(loop, self.settings)
        ended = asyncio.Event()
        received: list[signal.Signals] = []

        def on_signal(number: signal.Signals) -> None:
            received.append(number)
            ended.set()

        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, on_signal, number)
        starting = asyncio.ensure_future(self.start())
        waiting = asyncio.ensure_future(ended.wait())
        try:
            await asyncio.wait({starting, waiting}, return_when=asyncio.FIRST_COMPLETED)
            if starting.done():
                starting.result()
            await waiting
        except (SidecarError, OSError) as error:
            logger.error("{} could not start: {}", self.settings.app_id, error)
            return 1
        except ContractError as error:
            logger.error("{} could not start: wrong contract: {}", self.settings.app_id, error)
            return 2
        finally:
            starting.cancel()
            waiting.cancel()
            await asyncio.gather(starting, waiting, return_exceptions=True)
            if received:
                logger.info(
                    "{} received {}: draining for at most {:.0f} s",
                    self.settings.app_id,
                    received[0].name,
                    self.settings.drain_timeout,
                )
            await self.stop()
            logger.info("{} stopped", self.settings.app_id)
            flush_logs()
            await logger.complete()
        return 0

    def run(self, app_port: int | None = None, listen_address: str | None = None) -> None:
        """Set logging up, serve until a signal ends it, and exit the process with its code.

        Port and address win over the settings'.
        """
        self.settings = _changed(self.settings, app_port=app_port, app_host=listen_address)
        configure_logging(self.settings)
        _spare_the_collector()
        if sys.platform == "win32":
            _exit(asyncio.run(self.serve()))
        import uvloop  # noqa: PLC0415 - only where it is needed

        _exit(uvloop.run(self.serve()))


def _exit(code: int) -> NoReturn:
    """End the process, with what still runs in threads: the interpreter would wait for those, for as long as they take."""
    left = at_work()
    if left:
        logger.warning("ended while functions ran in threads, which can't be cancelled: {}", ", ".join(sorted(left)))
        sys.stdout.flush()
        os._exit(code)
    sys.exit(code)


def _max_bytes(option: object, setting: int) -> int:
    """Return the largest message that the app takes: gRPC's own option wins, and its -1 is no limit."""
    if not isinstance(option, int):
        return setting
    return option if option >= 0 else _MOST


def _spare_the_collector() -> None:
    """Keep what is loaded at the start out of garbage collections, and have fewer of them.

    The calls in flight outnumber the default threshold of 700 objects; each collection that they set off would in time walk
    through every module that was ever imported: tens of milliseconds, in which nobody is answered.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_COLLECT_AFTER, 50, 50)


def _changed(settings: Settings, **given: object) -> Settings:
    """Return settings in which the arguments that are not None win."""
    return settings.model_copy(update={key: value for key, value in given.items() if value is not None})
