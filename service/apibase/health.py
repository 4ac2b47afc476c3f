"""One readiness model, told to daprd (`AppCallbackHealthCheck`) and to Kubernetes and everybody else (`grpc.health.v1`)."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import grpc
from dapr.proto.runtime.v1 import appcallback_pb2, appcallback_pb2_grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from loguru import logger

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from typing import Any

    from google.protobuf.empty_pb2 import Empty

    Context = grpc.aio.ServicerContext[Any, Any]

_Status = health_pb2.HealthCheckResponse
_DRAINING = "draining"
_UNWELL = "the app's own health check fails"


class Health:
    """Whether this app takes work, and if not, why: `starting`, then ready, then `draining`, which is the end.

    While it would be ready, a check of the app's own may say otherwise.
    """

    def __init__(self) -> None:
        self._not_ready = "starting"
        self._unwell = ""
        self._check: Callable[[], Awaitable[object]] | None = None
        self._services: frozenset[str] = frozenset()
        self._changed = asyncio.Event()

    @property
    def ready(self) -> bool:
        """Whether the app takes work."""
        return not self.reason

    @property
    def reason(self) -> str:
        """Why the app takes no work; empty when it does."""
        return self._not_ready or self._unwell

    @property
    def draining(self) -> bool:
        """Whether the app takes no work ever again."""
        return self._not_ready == _DRAINING

    def declare(self, services: tuple[str, ...]) -> None:
        """Name the services that `grpc.health.v1` answers for, beside the app as a whole (the empty name)."""
        self._services = frozenset(services)
        self._tell()

    def set_ready(self) -> None:
        """Take work from now on."""
        self._not_ready = ""
        self._tell()

    def set_draining(self) -> None:
        """Take no work from now on: daprd stops subscriptions and bindings, Kubernetes takes the pod out of rotation."""
        self._not_ready = _DRAINING
        self._tell()

    def set_check(self, check: Callable[[], Awaitable[object]]) -> None:
        """Have every probe ask the app itself: an exception says that it takes no work."""
        self._check = check

    async def probe(self) -> None:
        """Ask the app's own check; what it says holds until it is asked again."""
        if self._check is None or self._not_ready:
            return
        try:
            await self._check()
        except Exception as error:  # noqa: BLE001 - whatever it is, it says "not well"
            if not self._unwell:
                logger.opt(exception=error).warning("the app's own health check fails: {}", type(error).__name__)
            unwell = _UNWELL
        else:
            if self._unwell:
                logger.info("the app's own health check passes again")
            unwell = ""
        if unwell != self._unwell:
            self._unwell = unwell
            self._tell()

    def status(self, service: str) -> int | None:
        """Return the status of a service as `grpc.health.v1` names it; None for one that the app does not serve."""
        if service and service not in self._services:
            return None
        status: int = _Status.SERVING if self.ready else _Status.NOT_SERVING
        return status

    async def change(self) -> None:
        """Return when something here changes."""
        await self._changed.wait()

    def _tell(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()


class HealthServicer(health_pb2_grpc.HealthServicer):  # type: ignore[misc]  # it has no types
    """Serves `grpc.health.v1`.

    Unlike grpcio's own servicer, it ends its watches when the app drains: each of them would be a call in flight, and
    hold the shutdown up for as long as it may take.
    """

    def __init__(self, model: Health) -> None:
        self._model = model

    async def Check(self, request: health_pb2.HealthCheckRequest, context: Context) -> health_pb2.HealthCheckResponse:
        """Tell the status of one service now."""
        await self._model.probe()
        status = self._model.status(request.service)
        if status is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"{request.service!r} is not served here")
        return _Status(status=status)

    async def Watch(self, request: health_pb2.HealthCheckRequest, context: Context) -> None:
        """Tell the status of one service now, and whenever it changes."""
        told: int | None = None
        while True:
            status = self._model.status(request.service)
            status = _Status.SERVICE_UNKNOWN if status is None else status
            if status != told:
                await context.write(_Status(status=status))
                told = status
                continue  # it may have changed meanwhile
            if self._model.draining:
                return
            await self._model.change()


class AppHealthServicer(appcallback_pb2_grpc.AppCallbackHealthCheckServicer):
    """Answers daprd's app health probe: OK, or UNAVAILABLE with the reason."""

    def __init__(self, model: Health) -> None:
        self._model = model

    async def HealthCheck(self, request: Empty, context: Context) -> appcallback_pb2.HealthCheckResponse:
        """Answer one probe."""
        await self._model.probe()
        if not self._model.ready:
            logger.debug("told the sidecar's health probe: {}", self._model.reason)
            await context.abort(grpc.StatusCode.UNAVAILABLE, self._model.reason)
        return appcallback_pb2.HealthCheckResponse()
