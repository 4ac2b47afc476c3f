"""Which app serves a service: asked through a sidecar, by the same `grpc.health.v1` that Kubernetes asks."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import Iterable

_SECONDS = 3.0
CHANNEL_OPTIONS = (
    ("grpc.enable_http_proxy", 0),
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
)


async def serving_apps(channel: grpc.aio.Channel, service: str, app_ids: Iterable[str]) -> list[str]:
    """Those of the apps that say SERVING for the service, in the order given. `channel` leads to a sidecar."""
    ids = list(app_ids)
    answers = await asyncio.gather(*(_serves(channel, service, app_id) for app_id in ids))
    return [app_id for app_id, serves in zip(ids, answers, strict=True) if serves]


async def _serves(channel: grpc.aio.Channel, service: str, app_id: str) -> bool:
    stub = health_pb2_grpc.HealthStub(channel)
    request = health_pb2.HealthCheckRequest(service=service)
    try:
        answer = await stub.Check(request, timeout=_SECONDS, metadata=(("dapr-app-id", app_id),))
    except grpc.aio.AioRpcError:
        return False
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)
