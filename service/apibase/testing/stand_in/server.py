"""The stand-in sidecar: its servers, what they are made of, and what a test asks of them."""

from __future__ import annotations

import asyncio
import os
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Never, Self

import grpc
from pydantic import SecretStr

from apibase.settings import Settings
from apibase.testing.faults import Faults
from apibase.testing.stand_in.api import Api
from apibase.testing.stand_in.app_link import AppLink
from apibase.testing.stand_in.app_watch import AppWatch
from apibase.testing.stand_in.bindings import BindingsApi
from apibase.testing.stand_in.broker import Broker
from apibase.testing.stand_in.clock import Clock
from apibase.testing.stand_in.configuration import ConfigurationApi
from apibase.testing.stand_in.invocation import InvocationApi, Proxy, Router
from apibase.testing.stand_in.jobs import JobsApi
from apibase.testing.stand_in.locks import LockApi
from apibase.testing.stand_in.metadata import MetadataApi
from apibase.testing.stand_in.pubsub import PubSubApi
from apibase.testing.stand_in.registry import Registry
from apibase.testing.stand_in.resources import read_resources
from apibase.testing.stand_in.secrets import SecretsApi
from apibase.testing.stand_in.state import StateApi
from apibase.testing.stand_in.streaming import StreamingApi
from apibase.testing.stand_in.work import Work

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from types import TracebackType

    from apibase.testing.stand_in.component import Component
    from apibase.testing.stand_in.http_api import HttpApi

_HOST = "127.0.0.1"


class Server:
    """Dapr's API for one app, in memory.

    Components are those of the resource files in `resources`, read as daprd reads them, and `components`. With
    `any_component`, one that nobody declares is made when it is first used. The clock stands still until it is moved, or
    `runs`. Port 0 is a free one; HTTP is served where `http_port` is given. In a `socket_folder` it listens on daprd's Unix
    sockets instead.
    """

    def __init__(  # noqa: PLR0913 - what a sidecar is told, by name
        self,
        *,
        app_id: str = "app",
        resources: Iterable[Path | str] = (),
        components: Iterable[Component] = (),
        any_component: bool = False,
        env: Mapping[str, str] | None = None,
        host: str = _HOST,
        grpc_port: int = 0,
        http_port: int | None = None,
        socket_folder: str = "",
        api_token: str = "",
        app_token: str = "",
        clock_runs: bool = False,
        seed: int = 0,
        max_message_bytes: int = 4 * 1024 * 1024,
    ) -> None:
        self.app_id = app_id
        self.host = host
        self.grpc_port = grpc_port
        self.http_port = http_port
        self.socket_folder = socket_folder
        self.faults = Faults(seed)
        """What is to go wrong before an operation takes effect; operations have the names of their rpcs."""
        self.answer_faults = Faults(seed)
        """What is to go wrong once an operation has taken effect: an answer that gets lost."""
        self.ended = asyncio.Event()
        """Whether somebody has asked it to shut down."""
        self._api_token = api_token
        self._app_token = app_token
        self._max_bytes = max_message_bytes
        found = read_resources(map(Path, resources), app_id, env)
        self.work = Work()
        self.clock = Clock(self.work, runs=clock_runs)
        self.registry = Registry(
            [*found.components, *components], app_id, self.clock, env=env, any_component=any_component
        )
        self.broker = Broker(self.registry, self.clock, self.work, found.inbound_retries)
        self.router = Router(app_id)
        self.api = Api(api_token, self.faults, self.answer_faults, self._cut)
        self.bindings = BindingsApi(self.registry, self.clock, self._working_app)
        self.jobs = JobsApi(app_id, self.clock, self._working_app)
        self.locks = LockApi(self.registry, self.clock)
        self.configurations = ConfigurationApi(self.registry)
        self.pubsub = PubSubApi(self.registry, self.broker, app_id)
        self.invocation = InvocationApi(self.router)
        self.metadata = MetadataApi(
            app_id,
            self.registry,
            self.broker,
            found.resiliencies,
            self._app_port,
            lambda: self._probe_interval,
            self.ended.set,
        )
        self.watch = AppWatch(self.registry, self.broker, self.bindings, self.jobs, found.subscriptions)
        for block in (
            StateApi(self.registry),
            SecretsApi(self.registry),
            StreamingApi(self.registry, self.broker),
            self.bindings,
            self.jobs,
            self.locks,
            self.configurations,
            self.pubsub,
            self.invocation,
            self.metadata,
        ):
            self.api.add(block.operations)
        self._probe_interval = 0.0
        self._server: grpc.aio.Server | None = None
        self._http: HttpApi | None = None
        self._watching: asyncio.Task[None] | None = None
        self._cutting: asyncio.Task[None] | None = None

    @property
    def address(self) -> str:
        """The address of the gRPC API."""
        return f"unix:{self._socket('grpc')}" if self.socket_folder else f"{self.host}:{self.grpc_port}"

    def _socket(self, protocol: str) -> str:
        return f"{self.socket_folder}/dapr-{self.app_id}-{protocol}.socket"

    def __str__(self) -> str:
        components = ", ".join(f"{each.name} ({each.type})" for each in self.registry.components) or "none"
        http = ""
        if self._http is not None:
            http = f", HTTP on {self._socket('http') if self.socket_folder else f'{self.host}:{self.http_port}'}"
        return f"the stand-in sidecar of {self.app_id} has gRPC on {self.address}{http}; components: {components}"

    def settings(self, **given: object) -> Settings:
        """Return the settings of an app beside this sidecar, which picks its own port; what is given wins."""
        values: dict[str, object] = {
            "app_id": self.app_id,
            "app_port": 0,
            "dapr_grpc_endpoint": self.address,
            "drain_timeout": 1.0,
            "sidecar_timeout": 5.0,
        }
        if self.http_port:
            values["dapr_http_port"] = self.http_port
        if self._api_token:
            values["dapr_api_token"] = SecretStr(self._api_token)
        if self._app_token:
            values["app_api_token"] = SecretStr(self._app_token)
        environment = _settings(frozenset(os.environ.items()))
        return Settings(**{**values, **given}) if given else environment.model_copy(update=values)  # type: ignore[arg-type]

    async def start(self) -> None:
        """Listen. Raises `OSError` where a port is taken."""
        await self._listen()
        if self.http_port is not None:
            from apibase.testing.stand_in.http_api import HttpApi  # noqa: PLC0415 - tests without HTTP load no HTTP server

            self._http = HttpApi(self.api, self.faults, self.router, self.invocation, self.metadata, self._is_ready)
            socket = self._socket("http") if self.socket_folder else ""
            await self._http.start(self.host, self.http_port, socket)
            self.http_port = self._http.port

    async def stop(self) -> None:
        """End it, and all that goes on."""
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)
        self.watch.end()
        self.clock.close()
        await self.work.close()
        if self._cutting is not None:
            await asyncio.gather(self._cutting, return_exceptions=True)
        if self._http is not None:
            await self._http.stop()
        if self._server is not None:
            await self._server.stop(None)
        await self.router.close()
        if self.router.own is not None:
            await self.router.own.close()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def connect(self, address: str) -> None:
        """Bring work to the app at an address, which is ready for it.

        Raises `RuleNotSupported` for a routing rule that is beyond the stand-in.
        """
        await self.disconnect_app()
        self.router.own = AppLink(address, self._app_token)
        await self.watch.begin(self.router.own)

    async def disconnect_app(self) -> None:
        """Bring no more work to the app."""
        self.watch.end()
        if self.router.own is not None:
            await self.router.own.close()
            self.router.own = None

    def expect(self, address: str, *, probes: bool, interval: float = 1.0) -> None:
        """Wait for an app at an address, and bring it work while it is there, and, if `probes`, healthy."""
        self.router.own = AppLink(address, self._app_token)
        self._probe_interval = interval if probes else 0.0
        watching = self.watch.watch(self.router.own, probes=probes, interval=interval)
        self._watching = asyncio.ensure_future(watching)

    async def restart(self) -> None:
        """Break every connection to the API, and listen again at the same address."""
        assert self._server is not None  # noqa: S101 - it listens
        await self._server.stop(None)
        await self._listen()

    async def _listen(self) -> None:
        options = [
            ("grpc.so_reuseport", 0),
            ("grpc.max_receive_message_length", self._max_bytes),
            ("grpc.max_send_message_length", self._max_bytes),
        ]
        self._server = grpc.aio.server(options=options)
        proxy = Proxy(self.router, self.api, self.faults.apply, self._cut)
        self._server.add_generic_rpc_handlers((self.api.handler, proxy))
        try:
            port = self._server.add_insecure_port(self.address)
            self.grpc_port = self.grpc_port if self.socket_folder else port
        except RuntimeError as error:
            raise OSError(f"cannot listen on {self.address}: {error}") from error
        await self._server.start()

    async def _cut(self) -> Never:
        """Break every connection, and with them the call that asks for it: no answer of its own goes out."""
        if self._cutting is None or self._cutting.done():
            self._cutting = asyncio.ensure_future(self.restart())
        await asyncio.get_running_loop().create_future()
        raise AssertionError  # unreachable: it ends with the connection

    def _working_app(self) -> AppLink | None:
        return self.router.own if self.watch.working else None

    def _is_ready(self) -> bool:
        return self.router.own is None or self.watch.working

    def _app_port(self) -> int:
        port = self.router.own.address.rpartition(":")[2] if self.router.own else ""
        return int(port) if port.isdecimal() else 0


@lru_cache(maxsize=8)
def _settings(_environment: frozenset[tuple[str, str]]) -> Settings:
    """Return the settings that an environment says: reading them takes longer than all else that a sidecar does to start."""
    return Settings()
