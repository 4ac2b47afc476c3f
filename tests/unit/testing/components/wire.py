"""The mock components as daprd sees them: calls over their sockets."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.message_factory import GetMessageClass

from dapr_components.v1 import bindings_pb2, pubsub_pb2, secretstore_pb2, state_pb2

SERVICES: dict[str, ServiceDescriptor] = {
    name: service
    for module in (state_pb2, pubsub_pb2, bindings_pb2, secretstore_pb2)
    for name, service in module.DESCRIPTOR.services_by_name.items()
}


class Stub:
    """A service of the protocol, with a coroutine method for each of its own."""

    def __init__(self, channel: grpc.aio.Channel, service: str, component: str) -> None:
        for method in SERVICES[service].methods:
            make = channel.stream_stream if method.server_streaming else channel.unary_unary
            call = make(
                f"/{method.containing_service.full_name}/{method.name}",
                request_serializer=GetMessageClass(method.input_type).SerializeToString,
                response_deserializer=GetMessageClass(method.output_type).FromString,
            )
            setattr(self, method.name, self._as(call, component))

    @staticmethod
    def _as(call: Any, component: str) -> Any:
        def start(*arguments: Any, **options: Any) -> Any:
            return call(*arguments, metadata=[("x-component-instance", component)], **options)

        return start


@asynccontextmanager
async def connected(path: Path, service: str, component: str = "stock") -> AsyncIterator[Any]:
    async with grpc.aio.insecure_channel(f"unix:{path}", [("grpc.initial_reconnect_backoff_ms", 100)]) as channel:
        yield Stub(channel, service, component)
