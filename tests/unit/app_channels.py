"""An app channel with the parts that a test does not care about, and a listener of every method of a contract."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import grpc
from dapr.proto.runtime.v1 import appcallback_pb2
from google.protobuf.empty_pb2 import Empty

from apibase.app_channel import AppChannelAlphaServicer, AppChannelServicer
from apibase.callback_requests import callback_handlers
from apibase.events import EventContext
from apibase.health import AppHealthServicer, Health
from tests.unit.chains import chain

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from apibase.dead_letters import Death
    from apibase.routes import Incoming, RouteTable, TopicRoute
    from tests.unit.conftest import Desk

SUCCESS, RETRY, DROP = (
    appcallback_pb2.TopicEventResponse.TopicEventResponseStatus.Value(name) for name in ("SUCCESS", "RETRY", "DROP")
)


class Graveyard:
    """Takes dead letters; fails with `error` while there is one."""

    def __init__(self) -> None:
        self.buried: list[tuple[TopicRoute, Incoming, Death]] = []
        self.error: BaseException | None = None

    async def publish(self, route: TopicRoute, incoming: Incoming, death: Death) -> None:
        if self.error is not None:
            raise self.error
        self.buried.append((route, incoming, death))


class Listener:
    """The handlers of a service of listeners: what they got, by the method's name, and what they raise."""

    def __init__(self) -> None:
        self.got: list[tuple[str, Any, EventContext]] = []
        self.error: BaseException | None = None

    def implement(self, contract: Desk, service: str) -> Any:
        """Return an implementation of a service of a contract."""

        def handler(name: str) -> Callable[..., Any]:
            async def handle(_self: Any, request: Any, context: EventContext) -> Empty:
                self.got.append((name, request, context))
                if self.error is not None:
                    raise self.error
                return Empty()

            return handle

        names = contract.pb2.DESCRIPTOR.services_by_name[service].methods_by_name
        base = getattr(contract.grpc, f"{service}Servicer")
        return type(service, (base,), {name: handler(name) for name in names})()


def topic_event(**fields: Any) -> EventContext:
    """Return what is known of an event of desk.v1.Asked, but for these fields."""
    known = {"source": "shop", "id": "event-1", "type": "desk.v1.Asked", "pubsub_name": "events", "topic": "desk"}
    return EventContext(kind="topic", **{**known, **fields})


def app_channel(routes: RouteTable, graveyard: Graveyard | None = None, token: str = "") -> AppChannelServicer:
    return AppChannelServicer(routes, chain(graveyard=graveyard or Graveyard(), token=token))


@asynccontextmanager
async def served(
    servicer: AppChannelServicer, folder: Path, *more: grpc.GenericRpcHandler
) -> AsyncIterator[grpc.aio.Channel]:
    """Serve an app channel whole, and what more there is, on a socket in `folder`, and yield a channel to it as daprd has one."""
    health = Health()
    health.set_ready()
    server = grpc.aio.server(options=[("grpc.max_receive_message_length", 64 * 1024 * 1024)])
    service = appcallback_pb2.DESCRIPTOR.services_by_name
    server.add_generic_rpc_handlers(
        (
            callback_handlers(service["AppCallback"], servicer),
            callback_handlers(service["AppCallbackAlpha"], AppChannelAlphaServicer(servicer)),
            callback_handlers(service["AppCallbackHealthCheck"], AppHealthServicer(health)),
            *more,
        )
    )
    server.add_insecure_port(f"unix:{folder}/channel.sock")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"unix:{folder}/channel.sock") as channel:
            yield channel
    finally:
        await server.stop(None)
