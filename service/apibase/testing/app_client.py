"""A service under test, called as another app would call it: through the sidecar, the app channel and the whole chain."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Self, TypeVar

from apibase.clients import ServiceInvocationClient, Sidecar
from apibase.clients.outbound import OutboundMiddleware
from apibase.testing.stand_in.component import Component
from apibase.testing.stand_in.invocation import CALLER

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import TracebackType

    import grpc

    from apibase.app import App
    from apibase.clients._values import Value
    from apibase.clients.invocation import InvocationResponse
    from apibase.clients.outbound import OutboundCall, OutboundTarget, Start
    from apibase.testing.stand_in.stand_in import StandIn

S = TypeVar("S")

_CALLER = "test"
_SCHEDULING_SECONDS = 2.0  # a sidecar that was told to fail may keep it from ending


class AppClient:
    """An app that runs beside a stand-in sidecar for the length of the block, and calls of it.

    Calls come from the app `test`, or from `caller`: where a contract names callers, it decides.
    """

    def __init__(self, app: App, sidecar: StandIn) -> None:
        self.app = app
        self.sidecar = sidecar
        self._callers: dict[str, Sidecar] = {}

    async def __aenter__(self) -> Self:
        if self.sidecar.registry.any_component:
            _declare(self.app, self.sidecar)
        try:
            await self.app.start()
            await self.sidecar.connect(f"{self.app.settings.app_host}:{self.app.port}")
            await self._jobs_are_scheduled()
        except BaseException:
            await self._stop()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stop()

    async def _stop(self) -> None:
        async with AsyncExitStack() as ends:  # each, whatever becomes of the others
            ends.push_async_callback(self.app.stop)
            ends.push_async_callback(self.sidecar.disconnect_app)
            for caller in self._callers.values():
                ends.push_async_callback(caller.close)

    async def _jobs_are_scheduled(self) -> None:
        """Wait for the jobs that the contract schedules, which the app does beside its work."""
        scheduling = self.app._registering  # noqa: SLF001 - likewise
        if scheduling is not None:
            await asyncio.wait({scheduling}, timeout=_SCHEDULING_SECONDS)

    def stub(self, stub: Callable[[grpc.aio.Channel], S], *, caller: str = _CALLER) -> S:
        """Return a generated stub of the app's contract; it raises `grpc.aio.AioRpcError` as any stub does."""
        return self._invocation(caller).client(stub, app_id=self.sidecar.app_id)

    async def invoke(
        self, method: str, data: Value = b"", *, headers: Mapping[str, str] | None = None, caller: str = _CALLER
    ) -> InvocationResponse:
        """Call a method by its name, as `App.method` registers it. Raises `CalleeError` with the status that it answers."""
        told = {**(headers or {}), CALLER: caller}
        return await self._invocation(caller).invoke(self.sidecar.app_id, method, data, headers=told)

    def _invocation(self, caller: str) -> ServiceInvocationClient:
        if caller not in self._callers:
            made = self._callers[caller] = Sidecar(self.sidecar.settings())
            made.outbound.add(_Caller(caller))
        return ServiceInvocationClient(self._callers[caller])


class _Caller(OutboundMiddleware):
    """Says who calls: the stand-in takes the word of a test."""

    def __init__(self, app_id: str) -> None:
        self._app_id = app_id

    def wrap(self, target: OutboundTarget, start: Start) -> Start:
        """Put the caller's app id on calls of apps."""
        if not target.app_id:
            return start

        def called(call: OutboundCall) -> grpc.aio.Call:
            call.set_header(CALLER, self._app_id)
            return start(call)

        return called


def _declare(app: App, sidecar: StandIn) -> None:
    """Load what an app's contracts name, so that it starts though nobody has declared it."""
    routes = app._routes  # noqa: SLF001 - the two belong together
    for name in {route.pubsub_name for route in routes.topics}:
        sidecar.registry.component(name, "pubsub")
    for name in routes.bindings:
        if sidecar.registry.component(name) is None:
            sidecar.registry.add(Component(name, "bindings.in-memory"))
    for name in {app.settings.deduplication_store, app.settings.dead_letter_store} - {""}:
        sidecar.registry.component(name, "state")
