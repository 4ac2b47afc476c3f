"""An app's streaming subscriptions: made, listed, and closed together."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeVar

import grpc
from dapr.proto import api_service_v1, api_v1
from google.protobuf.message import Message
from loguru import logger

from apibase.clients import Sidecar
from apibase.contract import ContractError
from apibase.deadline import deadline
from apibase.errors import SidecarError
from apibase.routes import RouteTable, TopicRoute, contract_reader
from apibase.sdk_requests import settle
from apibase.streaming import StreamingSubscription
from apibase.streaming.connection_watch import ConnectionWatch
from apibase.threads import as_async
from apibase.topic_dispatch import TopicDispatch

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from concurrent.futures import Executor

    from apibase.events import EventContext
    from apibase.middleware.chain import Chain
    from apibase.routes import Incoming, Reader
    from apibase.settings import Settings
    from apibase.streaming.history import StreamRequest

T = TypeVar("T")

_LOOK_SECONDS = 2.0
_HEADROOM = 16
_ENVELOPE = 1024 * 1024  # what an event's attributes and extensions take beside its data
_TRUE = frozenset({"1", "t", "true"})  # as daprd reads a flag


class StreamingSubscriptions:
    """Every streaming subscription of an app, by pub/sub and topic."""

    def __init__(self, settings: Settings, routes: RouteTable, chain: Callable[[], Chain], pool: Executor) -> None:
        self._settings = settings
        self._routes = routes
        self._chain = chain
        self._pool = pool
        # A connection of their own. Events that nobody reads yet must not hold up the answers that handlers wait for; and what
        # is larger than the app takes must come through to be refused: gRPC would end the stream, and again the next one.
        most = min(settings.max_message_bytes * _HEADROOM + _ENVELOPE, 2**31 - 1)
        self._sidecar = Sidecar(settings.model_copy(update={"max_message_bytes": most}))
        self._watch = ConnectionWatch(self._sidecar.channel)
        self._open: dict[tuple[str, str], StreamingSubscription] = {}
        self._closed = False

    @property
    def all(self) -> list[StreamingSubscription]:
        """Those that are not closed, oldest first."""
        return list(self._open.values())

    async def subscribe(
        self,
        request: StreamRequest,
        handler: Callable[[T, EventContext], object],
        message: type[T] | None,
        open_within: float | None,
    ) -> StreamingSubscription:
        """Make a subscription; what for and what it raises, `App.subscribe_stream` says."""
        route = self._route(request, handler, message)
        self._check(request)
        await self._check_declared(request)
        self._check(request)  # again: another may have been made meanwhile
        table = RouteTable()
        table.add_topic(route)
        dispatch = TopicDispatch(table, self._chain(), self._settings.max_message_bytes, own=True)
        subscription = StreamingSubscription(
            request, self._sidecar.channel(), dispatch, self._watch.leave, grace=self._settings.drain_timeout
        )
        key = (request.pubsub_name, request.topic)
        self._open[key] = subscription
        subscription.on_closed(self._forget)
        try:
            if open_within is None:
                await subscription.tried(deadline.bound(self._settings.call_timeout) or 0.0)
            else:
                await subscription.opened(open_within)
        except SidecarError:
            await subscription.close(0.0)
            raise
        except asyncio.CancelledError:
            subscription.begin_close(0.0)  # who is cancelled does not wait for its end
            raise
        return subscription

    async def close(self, grace: float) -> None:
        """Close all of them within `grace` seconds, and the connection; none is made any more."""
        self._closed = True
        await asyncio.gather(*(subscription.close(grace) for subscription in self.all))
        self._watch.stop()
        await self._sidecar.close()

    def _forget(self, subscription: StreamingSubscription) -> None:
        del self._open[subscription.pubsub_name, subscription.topic]
        if not self._open:
            self._watch.stop()

    def _check(self, request: StreamRequest) -> None:
        if self._closed:
            raise RuntimeError(f"the app has stopped: {request} is not made")
        topic = f"topic {request.topic!r} of {request.pubsub_name!r}"
        both = "both would take the same events, each some of them; take one away"
        if (request.pubsub_name, request.topic) in self._open:
            raise ContractError(f"there is a streaming subscription to {topic} already; {both}")
        for route in self._routes.topics:
            if (route.pubsub_name, route.topic) == (request.pubsub_name, request.topic):
                raise ContractError(f"{route.place or route.name} listens to {topic} already; {both}")

    async def _check_declared(self, request: StreamRequest) -> None:
        """Refuse what a Subscription resource of this app names; a sidecar that can't be asked has none."""
        stub = api_service_v1.DaprStub(self._sidecar.channel())  # type: ignore[no-untyped-call]
        try:
            known = await stub.GetMetadata(api_v1.GetMetadataRequest(), timeout=_LOOK_SECONDS)
        except grpc.aio.AioRpcError as error:
            logger.debug("{} is made without a look at the sidecar: {}", request, error.details())
            return
        for declared in known.subscriptions:
            if declared.type == api_v1.PubsubSubscriptionType.DECLARATIVE and (
                declared.pubsub_name,
                declared.topic,
            ) == (request.pubsub_name, request.topic):
                raise ContractError(
                    f"a Subscription resource names topic {request.topic!r} of {request.pubsub_name!r} already; "
                    "both would take the same events, each some of them; take one away"
                )

    def _route(
        self, request: StreamRequest, handler: Callable[[T, EventContext], object], message: type[T] | None
    ) -> TopicRoute:
        call: Callable[..., Awaitable[object]] = as_async(handler, self._pool)
        raw = request.metadata.get("rawPayload", "").lower() in _TRUE

        async def behavior(event: object, context: EventContext) -> None:
            settle(await call(event, context))

        kind: type[Message] | None = None
        reader: Reader = _data
        if message is not None:
            if not issubclass(message, Message):
                raise TypeError(f"{message.__name__} is no protobuf message")
            kind = message
            reader = contract_reader(message, raw=raw)
        return TopicRoute(
            getattr(handler, "__name__", type(handler).__name__),
            behavior,
            request=kind,
            read=reader,
            pubsub_name=request.pubsub_name,
            topic=request.topic,
            event_type=kind.DESCRIPTOR.full_name if kind is not None and not raw else "",
            dead_letter_topic=request.dead_letter_topic,
            metadata=request.metadata,
        )


def _data(incoming: Incoming) -> bytes:
    return incoming.data
