"""What an app serves and listens to, asked through a sidecar: by the health checks of Kubernetes, and by daprd's own questions."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import grpc
import grpc.aio
from dapr.proto import api_service_v1, api_v1
from dapr.proto.runtime.v1 import appcallback_pb2_grpc
from google.protobuf.empty_pb2 import Empty
from grpc_health.v1 import health_pb2, health_pb2_grpc

from apibase.middleware.chain import CHAIN_ATTRIBUTE

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


async def listened_routes(channel: grpc.aio.Channel, app_id: str) -> list[tuple[str, str]]:
    """The topics and bindings that an app tells daprd of: ("topic", "events/orders"), ("binding", "sweep"); none where it is silent."""
    stub = appcallback_pb2_grpc.AppCallbackStub(channel)  # type: ignore[no-untyped-call]
    options = {"timeout": _SECONDS, "metadata": (("dapr-app-id", app_id),)}
    try:
        topics = await stub.ListTopicSubscriptions(Empty(), **options)
        bindings = await stub.ListInputBindings(Empty(), **options)
    except grpc.aio.AioRpcError:
        return []
    return [
        *(("topic", f"{each.pubsub_name}/{each.topic}") for each in topics.subscriptions),
        *(("binding", name) for name in bindings.bindings),
    ]


async def chain_of(channel: grpc.aio.Channel) -> tuple[str, ...]:
    """The names of what every call of an app passes, in order, as the app has told its sidecar, to which `channel` leads."""
    stub = api_service_v1.DaprStub(channel)  # type: ignore[no-untyped-call]
    try:
        metadata = await stub.GetMetadata(api_v1.GetMetadataRequest(), timeout=_SECONDS)
    except grpc.aio.AioRpcError:
        return ()
    told = metadata.extended_metadata.get(CHAIN_ATTRIBUTE, "")
    return tuple(name for name in told.split(",") if name)


async def _serves(channel: grpc.aio.Channel, service: str, app_id: str) -> bool:
    stub = health_pb2_grpc.HealthStub(channel)
    request = health_pb2.HealthCheckRequest(service=service)
    try:
        answer = await stub.Check(request, timeout=_SECONDS, metadata=(("dapr-app-id", app_id),))
    except grpc.aio.AioRpcError:
        return False
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)
