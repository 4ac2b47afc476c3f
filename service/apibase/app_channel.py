"""Dapr's app channel: what daprd asks this app, and what it brings, handed to the route table's handlers.

What an outcome means to daprd is in `delivery`.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NoReturn

import grpc
from dapr.proto.runtime.v1 import appcallback_pb2, appcallback_pb2_grpc
from grpc_status import rpc_status
from loguru import logger

from apibase.app_token import TOKEN_HEADER
from apibase.callers import CALLER_HEADER, forged, is_relayed
from apibase.contract.reasons import chassis_reason
from apibase.delivery import deliver_directly
from apibase.errors import ServiceError, to_status, too_large_request
from apibase.events import EventContext
from apibase.observability import call_context
from apibase.routes import Incoming
from apibase.settings import DEFAULT_MAX_BYTES
from apibase.topic_dispatch import TopicDispatch, log_unreadable, sized, topic_event
from dapr_contract.v1 import errors_pb2

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dapr.proto.common.v1 import common_pb2
    from google.protobuf.empty_pb2 import Empty
    from google.protobuf.message import Message

    from apibase.app_token import AppToken
    from apibase.delivery import TopicDelivery
    from apibase.invocation import Invocations
    from apibase.routes import Headers, Route, RouteTable

    Context = grpc.aio.ServicerContext[Any, Any]

_Verdict = appcallback_pb2.TopicEventResponse.TopicEventResponseStatus
_DOMAIN = "apibase"


class AppChannelServicer(appcallback_pb2_grpc.AppCallbackServicer):
    """Serves `AppCallback` from a route table."""

    def __init__(
        self,
        routes: RouteTable,
        topics: TopicDelivery,
        invocations: Invocations,
        token: AppToken,
        max_data_bytes: int = DEFAULT_MAX_BYTES,
    ) -> None:
        self._routes = routes
        self._dispatch = TopicDispatch(routes, topics, max_data_bytes)
        self._invocations = invocations
        self._token = token
        self._max_data_bytes = max_data_bytes

    async def OnInvoke(self, request: common_pb2.InvokeRequest, context: Context) -> common_pb2.InvokeResponse:
        """Answer a call of a method by its name."""
        headers, all_headers = await self._admit(context)
        with call_context(headers):
            try:
                self._check_size(request.data.value)
                return await self._invocations.answer(request, headers, all_headers, context)
            except ServiceError as error:
                await _abort(context, error)

    async def ListTopicSubscriptions(
        self, request: Empty, context: Context
    ) -> appcallback_pb2.ListTopicSubscriptionsResponse:
        """Tell daprd which topics to subscribe to."""
        return appcallback_pb2.ListTopicSubscriptionsResponse(subscriptions=self._routes.subscriptions)

    async def ListInputBindings(self, request: Empty, context: Context) -> appcallback_pb2.ListInputBindingsResponse:
        """Tell daprd which input bindings to read. Answers at once: daprd keeps an empty list when this takes 3 s."""
        return appcallback_pb2.ListInputBindingsResponse(bindings=self._routes.bindings)

    async def OnTopicEvent(
        self, request: appcallback_pb2.TopicEventRequest, context: Context
    ) -> appcallback_pb2.TopicEventResponse:
        """Handle one event and give the verdict."""
        headers, all_headers = await self._admit(context)
        event = topic_event(request, request.pubsub_name, request.topic, headers)
        incoming = Incoming(event, request.data, request, all_headers)
        return appcallback_pb2.TopicEventResponse(status=await self._deliver(incoming, request.path, context))

    async def OnUnreadableEvent(
        self, request: appcallback_pb2.TopicEventRequest, context: Context
    ) -> appcallback_pb2.TopicEventResponse:
        """Leave an event to daprd's dead letters: `request` has those of its attributes that could be read."""
        await self._admit(context)
        log_unreadable(request.id, request.topic, request.pubsub_name)
        return appcallback_pb2.TopicEventResponse(status=_Verdict.Value("DROP"))

    async def OnBulkTopicEvent(
        self, request: appcallback_pb2.TopicEventBulkRequest, context: Context
    ) -> appcallback_pb2.TopicEventBulkResponse:
        """Handle a batch concurrently, with a verdict for each entry: a missing one would count as RETRY."""
        headers, all_headers = await self._admit(context)

        async def status(
            entry: appcallback_pb2.TopicEventBulkRequestEntry,
        ) -> appcallback_pb2.TopicEventBulkResponseEntry:
            if entry.WhichOneof("event") is None:
                log_unreadable(entry.entry_id, request.topic, request.pubsub_name)
                verdict = _Verdict.Value("DROP")
            else:
                incoming = replace(_bulk_entry(entry, request, headers), headers=all_headers)
                verdict = await self._deliver(incoming, request.path, context)
            return appcallback_pb2.TopicEventBulkResponseEntry(entry_id=entry.entry_id, status=verdict)

        return appcallback_pb2.TopicEventBulkResponse(statuses=await asyncio.gather(*map(status, request.entries)))

    async def OnBindingEvent(
        self, request: appcallback_pb2.BindingEventRequest, context: Context
    ) -> appcallback_pb2.BindingEventResponse:
        """Handle one event of an input binding; an error goes back to the component."""
        headers, all_headers = await self._admit(context)
        event = EventContext(kind="binding", source=request.name, metadata=dict(request.metadata), headers=headers)
        route = self._routes.bindings.get(request.name)
        await self._handle(route, Incoming(event, request.data, request, all_headers), context)
        return appcallback_pb2.BindingEventResponse()

    async def OnJobEvent(
        self, request: appcallback_pb2.JobEventRequest, context: Context
    ) -> appcallback_pb2.JobEventResponse:
        """Run a job; an error makes the scheduler follow the job's failure policy."""
        headers, all_headers = await self._admit(context)
        event = EventContext(kind="job", source=request.name, content_type=request.content_type, headers=headers)
        route = self._routes.jobs.get(request.name)
        await self._handle(route, Incoming(event, request.data.value, request, all_headers), context)
        return appcallback_pb2.JobEventResponse()

    async def _admit(self, context: Context) -> tuple[Mapping[str, str], Headers]:
        """Check the app's token; return the text headers of daprd's call, and all of them as they came.

        Both are without the token: a handler may log them.
        """
        given = context.invocation_metadata() or ()
        headers = {key: value for key, value in given if isinstance(value, str)}
        try:
            self._token.check(headers)
        except ServiceError as error:
            await _abort(context, error)
        if headers.pop(TOKEN_HEADER, None) is None:
            return headers, tuple(given)
        return headers, tuple(header for header in given if header[0] != TOKEN_HEADER)

    def _check_size(self, data: bytes) -> None:
        if len(data) > self._max_data_bytes:
            raise too_large_request(len(data), self._max_data_bytes)

    async def _deliver(self, incoming: Incoming, path: str, context: Context) -> _Verdict.ValueType:
        event = incoming.event
        if is_relayed(event.headers):
            # A verdict, not an error: a publisher may have made a broker's headers look so, and daprd then buries the event.
            logger.bind(event_id=event.id, caller=event.headers.get(CALLER_HEADER, "")).warning(
                "another app called with an event on topic {!r} of {!r}, which only the sidecar brings; dropped",
                event.topic,
                event.pubsub_name,
            )
            return _Verdict.Value("DROP")
        return _Verdict.Value(await self._dispatch.dispatch(incoming, path, context.time_remaining()))

    async def _handle(self, route: Route | None, incoming: Incoming, context: Context) -> None:
        event = incoming.event
        with call_context(event.headers):
            failure: ServiceError | None
            if is_relayed(event.headers):
                failure = forged(event.headers, f"{event.kind} {event.source!r}")
                logger.bind(caller=event.headers.get(CALLER_HEADER, "")).warning("{}", failure.message)
            elif route is None:
                failure = ServiceError(
                    grpc.StatusCode.NOT_FOUND,
                    chassis_reason(errors_pb2.ERROR_REASON_NO_HANDLER),
                    f"no handler listens to {event.kind} {event.source!r}",
                )
                logger.warning("no handler listens to {} {!r}", event.kind, event.source)
            else:
                failure = await deliver_directly(route, sized(incoming, self._max_data_bytes), context.time_remaining())
            if failure is not None:
                await _abort(context, failure, domain=route.domain if route else _DOMAIN)


class AppChannelAlphaServicer(appcallback_pb2_grpc.AppCallbackAlphaServicer):
    """Serves `AppCallbackAlpha`, the names under which Dapr 1.14 makes the same calls."""

    def __init__(self, stable: AppChannelServicer) -> None:
        self._stable = stable

    async def OnBulkTopicEventAlpha1(
        self, request: appcallback_pb2.TopicEventBulkRequest, context: Context
    ) -> appcallback_pb2.TopicEventBulkResponse:
        """Do what `OnBulkTopicEvent` does."""
        return await self._stable.OnBulkTopicEvent(request, context)

    async def OnJobEventAlpha1(
        self, request: appcallback_pb2.JobEventRequest, context: Context
    ) -> appcallback_pb2.JobEventResponse:
        """Do what `OnJobEvent` does."""
        return await self._stable.OnJobEvent(request, context)


async def _abort(context: Context, error: ServiceError, *, domain: str = _DOMAIN) -> NoReturn:
    status = rpc_status.to_status(to_status(error, domain=domain))
    await context.abort(status.code, status.details, status.trailing_metadata)
    raise AssertionError  # unreachable: abort raises


def _bulk_entry(
    entry: appcallback_pb2.TopicEventBulkRequestEntry,
    batch: appcallback_pb2.TopicEventBulkRequest,
    headers: Mapping[str, str],
) -> Incoming:
    """Return an entry of a batch as if it had come alone; a raw one has no attributes but the batch's."""
    if entry.HasField("cloud_event"):
        cloud_event = entry.cloud_event
        event = topic_event(cloud_event, batch.pubsub_name, batch.topic, headers, entry.metadata)
        return Incoming(event, cloud_event.data, cloud_event)
    event = EventContext(
        kind="topic",
        source=batch.pubsub_name,
        id=entry.entry_id,
        pubsub_name=batch.pubsub_name,
        topic=batch.topic,
        content_type=entry.content_type,
        metadata=dict(entry.metadata),
        headers=headers,
    )
    data: bytes = entry.bytes
    request: Message = entry
    return Incoming(event, data, request)
