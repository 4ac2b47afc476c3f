"""One readiness model, told to daprd (`AppCallbackHealthCheck`) and to Kubernetes and everybody else (`grpc.health.v1`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import grpc
from dapr.proto.runtime.v1 import appcallback_pb2, appcallback_pb2_grpc
from grpc_health.v1 import health, health_pb2
from loguru import logger

if TYPE_CHECKING:
    from typing import Any

    from google.protobuf.empty_pb2 import Empty

_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class Health:
    """Whether this app takes work, and if not, why: `starting`, then ready, then `draining`."""

    def __init__(self) -> None:
        self._not_ready: str = "starting"
        self._services: tuple[str, ...] = ()
        self.servicer = health.aio.HealthServicer()

    @property
    def ready(self) -> bool:
        """Whether the app takes work."""
        return not self._not_ready

    @property
    def reason(self) -> str:
        """Why the app takes no work; empty when it does."""
        return self._not_ready

    async def declare(self, services: tuple[str, ...]) -> None:
        """Name the services that `grpc.health.v1` answers for, beside the app as a whole (the empty name)."""
        self._services = services
        await self._publish()

    async def set_ready(self) -> None:
        """Take work from now on."""
        self._not_ready = ""
        await self._publish()

    async def set_not_ready(self, reason: str) -> None:
        """Take no work from now on: daprd stops subscriptions and bindings, Kubernetes takes the pod out of rotation."""
        self._not_ready = reason
        await self._publish()

    async def _publish(self) -> None:
        status = _SERVING if self.ready else _NOT_SERVING
        for service in ("", *self._services):
            await self.servicer.set(service, status)


class AppHealthServicer(appcallback_pb2_grpc.AppCallbackHealthCheckServicer):
    """Answers daprd's app health probe: OK, or UNAVAILABLE with the reason."""

    def __init__(self, model: Health) -> None:
        self._model = model

    async def HealthCheck(
        self, request: Empty, context: grpc.aio.ServicerContext[Any, Any]
    ) -> appcallback_pb2.HealthCheckResponse:
        """Answer one probe."""
        if not self._model.ready:
            logger.debug("told the sidecar's health probe: {}", self._model.reason)
            await context.abort(grpc.StatusCode.UNAVAILABLE, self._model.reason)
        return appcallback_pb2.HealthCheckResponse()
