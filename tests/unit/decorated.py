"""An app of decorated handlers on a real server, as its sidecar calls it."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import grpc
from dapr.proto.runtime.v1 import appcallback_pb2_grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from apibase import App


class Daprd:
    """The sidecar's end of the app channel."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.channel = channel
        self.app: Any = appcallback_pb2_grpc.AppCallbackStub(channel)
        self.alpha: Any = appcallback_pb2_grpc.AppCallbackAlphaStub(channel)
        self.health: Any = appcallback_pb2_grpc.AppCallbackHealthCheckStub(channel)
        self.public_health: Any = health_pb2_grpc.HealthStub(channel)

    async def status(self, service: str = "") -> int:
        return (await self.public_health.Check(health_pb2.HealthCheckRequest(service=service))).status


@asynccontextmanager
async def started(app: App) -> AsyncIterator[Daprd]:
    try:
        await app.start(0)
        async with grpc.aio.insecure_channel(f"127.0.0.1:{app.port}") as channel:
            yield Daprd(channel)
    finally:
        await app.stop()
