"""The `grpc.aio` server: everything that an app serves, on one port."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import grpc
from dapr.proto.runtime.v1 import appcallback_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from apibase.app_channel import AppChannelAlphaServicer, AppChannelServicer
from apibase.callback_requests import callback_handlers
from apibase.health import AppHealthServicer, HealthServicer
from apibase.middleware.app_token import AppToken
from apibase.rpc import rpc_handlers

if TYPE_CHECKING:
    from collections.abc import Sequence
    from concurrent.futures import Executor

    from google.protobuf.descriptor import ServiceDescriptor

    from apibase.decorators import ServerOptions
    from apibase.external_services import ExternalServices
    from apibase.health import Health
    from apibase.middleware.chain import Chain
    from apibase.routes import RouteTable
    from apibase.settings import Settings

_CALLBACK = appcallback_pb2.DESCRIPTOR.services_by_name
_RECEIVE = "grpc.max_receive_message_length"
_MOST = 2**31 - 1
_HEADROOM = 16  # an event that is so many times too large is still told by itself
_ENVELOPE = 1024 * 1024  # what an event's attributes and extensions take beside its data


@dataclass(frozen=True)
class Parts:
    """What is served: routes of the app channel and rpcs, behind the chain, and services of others."""

    routes: RouteTable
    chain: Chain
    services: Sequence[tuple[ServiceDescriptor, object]]
    external: ExternalServices
    health: Health


def build_server(settings: Settings, options: ServerOptions, pool: Executor, parts: Parts) -> grpc.aio.Server:
    """Return a server with all of it, which does not listen yet. gRPC's own options win over the settings."""
    given = dict(options.get("options", ()))
    max_bytes = _max_bytes(given.get(_RECEIVE), settings.max_message_bytes)
    channel_options = {
        "grpc.max_send_message_length": settings.max_message_bytes,
        # Two processes on one port would share its calls unseen.
        "grpc.so_reuseport": 0,
        **given,
        # More than the app takes: what the server refuses, daprd brings again, with all of its batch.
        _RECEIVE: min(max_bytes * max(_HEADROOM, parts.routes.largest_batch) + _ENVELOPE, _MOST),
    }
    server = grpc.aio.server(
        pool,
        interceptors=options.get("interceptors"),
        options=list(channel_options.items()),
        maximum_concurrent_rpcs=options.get("maximum_concurrent_rpcs"),
        compression=options.get("compression"),
    )
    _add_services(server, settings, parts, max_bytes)
    return server


def bind(server: grpc.aio.Server, settings: Settings) -> int:
    """Bind a server to the settings' address and return its port. Raises `OSError` where that is taken."""
    host = settings.app_host
    address = f"[{host}]:{settings.app_port}" if ":" in host else f"{host}:{settings.app_port}"
    try:
        return server.add_insecure_port(address)
    except RuntimeError as error:
        message = f"cannot listen on {address} (APP_HOST, APP_PORT): {error}"
        raise OSError(message) from error


def _add_services(server: grpc.aio.Server, settings: Settings, parts: Parts, max_bytes: int) -> None:
    for service, servicer in parts.services:
        server.add_generic_rpc_handlers((rpc_handlers(service, servicer, parts.chain, max_bytes),))
    server.add_generic_rpc_handlers(parts.external.behind(AppToken(settings.app_api_token)))
    channel = AppChannelServicer(parts.routes, parts.chain, max_bytes)
    server.add_generic_rpc_handlers(
        (
            callback_handlers(_CALLBACK["AppCallback"], channel),
            callback_handlers(_CALLBACK["AppCallbackAlpha"], AppChannelAlphaServicer(channel)),
            callback_handlers(_CALLBACK["AppCallbackHealthCheck"], AppHealthServicer(parts.health)),
        )
    )
    health_pb2_grpc.add_HealthServicer_to_server(HealthServicer(parts.health), server)
    names = parts.external.names
    parts.health.declare(names)
    if settings.reflection:
        callback = _CALLBACK["AppCallback"].full_name
        health = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name
        reflection.enable_server_reflection((*names, callback, health, reflection.SERVICE_NAME), server)


def _max_bytes(option: object, setting: int) -> int:
    """Return the largest message that the app takes: gRPC's own option wins, and its -1 is no limit."""
    if not isinstance(option, int):
        return setting
    return option if option >= 0 else _MOST
