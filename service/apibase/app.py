"""The app: a `grpc.aio` server that is Dapr's app channel, and the life of the process around it."""

from __future__ import annotations

import asyncio
import signal
import sys
from typing import TYPE_CHECKING

import grpc
from dapr.proto.runtime.v1 import appcallback_pb2, appcallback_pb2_grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from loguru import logger

from apibase.app_channel import AppChannelAlphaServicer, AppChannelServicer
from apibase.app_token import AppToken
from apibase.clients import PubSubPublisher, ServiceInvocationClient, Sidecar, StateManager
from apibase.contract import ContractError, servicer_contract
from apibase.dead_letters import DeadLetters
from apibase.delivery import TopicDelivery
from apibase.errors import SidecarError
from apibase.health import AppHealthServicer, Health, HealthServicer
from apibase.inbound import rpc_handlers
from apibase.invocation import Invocations
from apibase.observability import configure_logging
from apibase.routes import RouteTable
from apibase.settings import Settings

if TYPE_CHECKING:
    from google.protobuf.descriptor import ServiceDescriptor

_CALLBACK = appcallback_pb2.DESCRIPTOR.services_by_name


class App:
    """A service beside its sidecar.

    Add servicers (of rpcs or of listeners: the contract tells which), then `run()`. The app channel listens at once, but
    health says NOT_SERVING until the sidecar answers; SIGTERM or SIGINT drains: health down, calls in flight finish within
    the setting `drain_timeout`, the connection to the sidecar closes, exit 0.
    """

    def __init__(self, settings: Settings | None = None) -> None:
        self.settings = settings or Settings()
        self.sidecar = Sidecar(self.settings)
        self.health = Health()
        self.port = 0
        self._routes = RouteTable()
        self._services: list[tuple[ServiceDescriptor, object]] = []
        self._server: grpc.aio.Server | None = None

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

    def add_servicer(self, servicer: object) -> None:
        """Serve an implementation of a generated servicer; its listeners, if it has them, are called by daprd only.

        Raises `ContractError` for a class that implements no contract, and for contradictions.
        """
        service = servicer_contract(servicer)
        if any(known.full_name == service.full_name for known, _ in self._services):
            message = f"{service.full_name} is served twice; add one implementation of it"
            raise ContractError(message)
        if self._routes.add(servicer) == 0:
            self._services.append((service, servicer))

    async def start(self) -> None:
        """Listen on the app channel, wait for the sidecar, then be ready. Raises `SidecarError` when it does not come."""
        await self._listen()
        await self.sidecar.wait_ready(self.settings.sidecar_timeout)
        self.health.set_ready()
        logger.info("{} is ready", self.settings.app_id)

    async def _listen(self) -> None:
        options = [
            ("grpc.max_send_message_length", self.settings.max_message_bytes),
            ("grpc.max_receive_message_length", self.settings.max_message_bytes),
            # Two processes on one port would share its calls unseen.
            ("grpc.so_reuseport", 0),
        ]
        server = grpc.aio.server(options=options)
        token = AppToken(self.settings.app_api_token)
        for service, servicer in self._services:
            server.add_generic_rpc_handlers((rpc_handlers(service, servicer, token),))
        channel = AppChannelServicer(
            self._routes, TopicDelivery(DeadLetters(self.sidecar)), Invocations(self._routes.methods), token
        )
        appcallback_pb2_grpc.add_AppCallbackServicer_to_server(channel, server)  # type: ignore[no-untyped-call]
        appcallback_pb2_grpc.add_AppCallbackAlphaServicer_to_server(AppChannelAlphaServicer(channel), server)  # type: ignore[no-untyped-call]
        appcallback_pb2_grpc.add_AppCallbackHealthCheckServicer_to_server(AppHealthServicer(self.health), server)  # type: ignore[no-untyped-call]
        health_pb2_grpc.add_HealthServicer_to_server(HealthServicer(self.health), server)
        names = tuple(service.full_name for service, _ in self._services)
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
        ).info("{} listens on {}:{}", self.settings.app_id, self.settings.app_host, self.port)

    async def stop(self) -> None:
        """Drain and close; safe to call at any point of the start."""
        self.health.set_draining()
        if self._server is not None:
            await self._server.stop(self.settings.drain_timeout)
            self._server = None
        await self.sidecar.close()

    async def serve(self) -> int:
        """Start, run until SIGTERM or SIGINT, drain; return the exit code: 0, or 1 when the start failed."""
        loop = asyncio.get_running_loop()
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
            await logger.complete()
        return 0

    def run(self) -> None:
        """Set logging up, serve until a signal ends it, and exit the process with its code."""
        configure_logging(self.settings)
        if sys.platform == "win32":
            sys.exit(asyncio.run(self.serve()))
        import uvloop  # noqa: PLC0415 - only where it is needed

        sys.exit(uvloop.run(self.serve()))
