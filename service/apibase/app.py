"""The app: a `grpc.aio` server that is Dapr's app channel, and the life of the process around it."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar, Unpack

from loguru import logger

from apibase import process
from apibase.clients import (
    BindingsClient,
    ConfigurationManager,
    JobsClient,
    LockClient,
    MetadataClient,
    PubSubPublisher,
    SecretsManager,
    ServiceInvocationClient,
    Sidecar,
    StateManager,
)
from apibase.clients._transport import sidecar_call
from apibase.contract import servicer_contract
from apibase.contract.components import check_components, check_deduplication_store, deduplicates
from apibase.dead_letters import DeadLetters
from apibase.dead_letters.archive import DeadLetterArchive
from apibase.dead_letters.subscription import archive_dead_letters, check_dead_letter_store
from apibase.decorators import Decorators, ServerOptions
from apibase.deduplication.claims import Deduplicator
from apibase.delivery import TopicDelivery
from apibase.errors import SidecarError
from apibase.health import Health
from apibase.jobs import JobRegistrar
from apibase.lifecycle import LifecycleHooks
from apibase.middleware.chain import CHAIN_ATTRIBUTE
from apibase.middleware.standard import standard_chain
from apibase.observability.telemetry import Telemetry
from apibase.routes import RouteTable
from apibase.server import Parts, bind, build_server
from apibase.settings import Settings
from apibase.streaming.history import StreamRequest
from apibase.streaming.subscriptions import StreamingSubscriptions

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from pathlib import Path

    import grpc
    from google.protobuf.descriptor import ServiceDescriptor

    from apibase.clients.configuration_store import ConfigurationStore
    from apibase.clients.outbound import OutboundMiddleware
    from apibase.events import EventContext
    from apibase.middleware import Middleware
    from apibase.middleware.chain import Chain
    from apibase.streaming import StreamingSubscription

T = TypeVar("T")
H = TypeVar("H", bound="Callable[[], Awaitable[object]]")


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
        self._configurations: list[ConfigurationManager] = []
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

    def secrets(self, store_name: str, *, cache_for: timedelta | None = None) -> SecretsManager:
        """Return the secret store component of that name; with `cache_for`, one that keeps in memory what it has read."""
        return SecretsManager(self.sidecar, store_name, cache_for=cache_for)

    def configuration(
        self, *stores: str | ConfigurationStore, cache_file: str | Path | None = None, check_every: float = 5.0
    ) -> ConfigurationManager:
        """Return live configuration from these store components, of which the first that has a key decides.

        It is started with the app, before `before_ready` and before the app is ready, and ends with it: declare its keys before. A start
        without a value for a key that has no default fails. See `ConfigurationManager` for the rest.
        """
        made = ConfigurationManager(self.sidecar, stores, cache_file=cache_file, check_every=check_every)
        self._configurations.append(made)
        return made

    def output_binding(self, name: str) -> BindingsClient:
        """Return the output binding component of that name."""
        return BindingsClient(self.sidecar, name)

    def locks(self, store_name: str) -> LockClient:
        """Return the lock store component of that name."""
        return LockClient(self.sidecar, store_name)

    @property
    def jobs(self) -> JobsClient:
        """The jobs that the scheduler calls this app for."""
        return JobsClient(self.sidecar)

    @property
    def metadata(self) -> MetadataClient:
        """What the sidecar says of itself."""
        return MetadataClient(self.sidecar)

    def add_middleware(self, *middleware: Middleware) -> None:
        """Have every inbound call pass these too, innermost and in this order, unless the setting `middleware` says otherwise.

        Raises `RuntimeError` once the app has started.
        """
        if self._made_chain is not None:
            raise RuntimeError("the app has started; add middleware before that")
        self._middleware += middleware

    def add_outbound_middleware(self, *middleware: OutboundMiddleware) -> None:
        """Have every call of the app's own pass these too, innermost, unless the setting `outbound_middleware` says otherwise.

        Raises `RuntimeError` when calls have been made.
        """
        self.sidecar.outbound.add(*middleware)

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
        """Listen on the app channel, wait for the sidecar, then be ready.

        Raises `SidecarError` when it does not come, `ContractError` for what contract, code and settings contradict.

        Port and address win over the settings'; port 0 picks a free one, which `port` says.
        """
        self.settings = _changed(self.settings, app_port=app_port, app_host=listen_address)
        self.sidecar.outbound.order()
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
        for configuration in self._configurations:
            await configuration.start()
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
        parts = Parts(self._routes, self._chain(), self._services, self._external, self.health)
        server = build_server(self.settings, self._server_options, self._thread_pool, parts)
        self.port = bind(server, self.settings)
        self._server = server
        await server.start()
        logger.bind(
            services=self._external.names,
            topics=[f"{each.pubsub_name}/{each.topic}" for each in self._routes.subscriptions],
            bindings=list(self._routes.bindings),
            jobs=list(self._routes.jobs),
            methods=list(self._routes.methods),
        ).info("{} listens on {}:{}", self.settings.app_id, self.settings.app_host, self.port)

    async def stop(self) -> None:
        """Drain and close; safe to call at any point of the start."""
        self.health.set_draining()
        async with AsyncExitStack() as ends:  # each, whatever becomes of the others; the last one first
            ends.push_async_callback(self.telemetry.stop)
            ends.push_async_callback(self.sidecar.close)
            for each in (self._archive, self._deduplicator):
                if each is not None:
                    ends.push_async_callback(each.close)
            for configuration in reversed(self._configurations):
                ends.push_async_callback(configuration.stop)
            ends.push_async_callback(self._hooks.run_after_drain)
            await self._drain()

    async def _drain(self) -> None:
        """Take nothing more, and wait for what is at work."""
        if self._registering is not None:
            self._registering.cancel()
            await asyncio.gather(self._registering, return_exceptions=True)
        streaming = asyncio.ensure_future(self._streaming.close(self.settings.drain_timeout))
        if self._server is not None:
            await self._server.stop(self.settings.drain_timeout)
            self._server = None
        await streaming

    async def serve(self) -> int:
        """Start, run until SIGTERM or SIGINT, drain.

        Returns the exit code: 0; 1 when the start failed; 2 when the sidecar lacks a component that a contract names.
        """
        return await process.serve(self)

    def run(self, app_port: int | None = None, listen_address: str | None = None) -> None:
        """Set logging up, serve until a signal ends it, and exit the process with its code.

        Port and address win over the settings'.
        """
        self.settings = _changed(self.settings, app_port=app_port, app_host=listen_address)
        process.run(self)


def _changed(settings: Settings, **given: object) -> Settings:
    """Return settings in which the arguments that are not None win."""
    return settings.model_copy(update={key: value for key, value in given.items() if value is not None})
