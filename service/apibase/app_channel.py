"""Dapr's app channel: what daprd asks this app, and what it brings, handed to the route table's handlers.

What an outcome means to daprd is in `delivery`.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NoReturn

import grpc
from dapr.proto.runtime.v1 import appcallback_pb2, appcallback_pb2_grpc
from google.protobuf import json_format
from grpc_status import rpc_status
from loguru import logger

from apibase.app_token import TOKEN_HEADER, headers_without_token
from apibase.delivery import deliver_directly
from apibase.errors import ServiceError, to_status
from apibase.events import EventContext
from apibase.observability import call_context
from apibase.routes import Incoming

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dapr.proto.common.v1 import common_pb2
    from google.protobuf import struct_pb2
    from google.protobuf.empty_pb2 import Empty
    from google.protobuf.message import Message

    from apibase.app_token import AppToken
    from apibase.delivery import TopicDelivery
    from apibase.invocation import Invocations
    from apibase.routes import Route, RouteTable

    Context = grpc.aio.ServicerContext[Any, Any]

_Verdict = appcallback_pb2.TopicEventResponse.TopicEventResponseStatus
_TRACE_KEYS = frozenset({"traceparent", "tracestate"})
_DOMAIN = "apibase"


class AppChannelServicer(appcallback_pb2_grpc.AppCallbackServicer):
    """Serves `AppCallback` from a route table."""

    def __init__(self, routes: RouteTable, topics: TopicDelivery, invocations: Invocations, token: AppToken) -> None:
        self._routes = routes
        self._topics = topics
        self._invocations = invocations
        self._token = token

    async def OnInvoke(self, request: common_pb2.InvokeRequest, context: Context) -> common_pb2.InvokeResponse:
        """Answer a call of a method by its name."""
        headers = await self._admit(context)
        with call_context(headers):
            try:
                return await self._invocations.answer(request, context)
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
        headers = await self._admit(context)
        event = _topic_event(request, request.pubsub_name, request.topic, headers)
        incoming = Incoming(event, request.data, request, headers_without_token(context))
        return appcallback_pb2.TopicEventResponse(status=await self._deliver(incoming, request.path, context))

    async def OnBulkTopicEvent(
        self, request: appcallback_pb2.TopicEventBulkRequest, context: Context
    ) -> appcallback_pb2.TopicEventBulkResponse:
        """Handle a batch concurrently, with a verdict for each entry: a missing one would count as RETRY."""
        headers = await self._admit(context)
        all_headers = headers_without_token(context)

        async def status(
            entry: appcallback_pb2.TopicEventBulkRequestEntry,
        ) -> appcallback_pb2.TopicEventBulkResponseEntry:
            incoming = replace(_bulk_entry(entry, request, headers), headers=all_headers)
            verdict = await self._deliver(incoming, request.path, context)
            return appcallback_pb2.TopicEventBulkResponseEntry(entry_id=entry.entry_id, status=verdict)

        return appcallback_pb2.TopicEventBulkResponse(statuses=await asyncio.gather(*map(status, request.entries)))

    async def OnBindingEvent(
        self, request: appcallback_pb2.BindingEventRequest, context: Context
    ) -> appcallback_pb2.BindingEventResponse:
        """Handle one event of an input binding; an error goes back to the component."""
        headers = await self._admit(context)
        event = EventContext(kind="binding", source=request.name, metadata=dict(request.metadata), headers=headers)
        route = self._routes.bindings.get(request.name)
        await self._handle(route, Incoming(event, request.data, request, headers_without_token(context)), context)
        return appcallback_pb2.BindingEventResponse()

    async def OnJobEvent(
        self, request: appcallback_pb2.JobEventRequest, context: Context
    ) -> appcallback_pb2.JobEventResponse:
        """Run a job; an error makes the scheduler follow the job's failure policy."""
        headers = await self._admit(context)
        event = EventContext(kind="job", source=request.name, content_type=request.content_type, headers=headers)
        route = self._routes.jobs.get(request.name)
        await self._handle(route, Incoming(event, request.data.value, request, headers_without_token(context)), context)
        return appcallback_pb2.JobEventResponse()

    async def _admit(self, context: Context) -> Mapping[str, str]:
        """Check the app's token and return the text headers of daprd's call without it: a context may be logged."""
        headers = {key: value for key, value in context.invocation_metadata() or () if isinstance(value, str)}
        try:
            self._token.check(headers)
        except ServiceError as error:
            await _abort(context, error)
        headers.pop(TOKEN_HEADER, None)
        return headers

    async def _deliver(self, incoming: Incoming, path: str, context: Context) -> _Verdict.ValueType:
        event = incoming.event
        with call_context(_carrier(event)):
            route = self._routes.topic(event, path)
            if route is None and not event.type:
                logger.bind(event_id=event.id).warning(
                    "an event on topic {!r} of {!r} has no type, so no handler can be told; dropped",
                    event.topic,
                    event.pubsub_name,
                )
                return _Verdict.Value("DROP")
            if route is None:
                logger.bind(event_id=event.id).debug(
                    "no handler listens to {} on topic {!r} of {!r}; acknowledged",
                    event.type,
                    event.topic,
                    event.pubsub_name,
                )
                return _Verdict.Value("SUCCESS")
            return _Verdict.Value(await self._topics.deliver(route, incoming, context.time_remaining()))

    async def _handle(self, route: Route | None, incoming: Incoming, context: Context) -> None:
        event = incoming.event
        with call_context(event.headers):
            if route is None:
                failure: ServiceError | None = ServiceError(
                    grpc.StatusCode.NOT_FOUND, "NO_HANDLER", f"no handler listens to {event.kind} {event.source!r}"
                )
                logger.warning("no handler listens to {} {!r}", event.kind, event.source)
            else:
                failure = await deliver_directly(route, incoming, context.time_remaining())
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


def _topic_event(
    request: appcallback_pb2.TopicEventRequest | appcallback_pb2.TopicEventCERequest,
    pubsub_name: str,
    topic: str,
    headers: Mapping[str, str],
    metadata: Mapping[str, str] | None = None,
) -> EventContext:
    return EventContext(
        kind="topic",
        source=request.source,
        id=request.id,
        type=request.type,
        pubsub_name=pubsub_name,
        topic=topic,
        content_type=request.data_content_type,
        extensions={key: _plain(value) for key, value in request.extensions.fields.items()},
        metadata=dict(metadata or {}),
        headers=headers,
    )


def _plain(value: struct_pb2.Value) -> object:
    """Return an extension's value as JSON has it; one that holds a number which JSON doesn't have, as text."""
    try:
        return json_format.MessageToDict(value)
    except (json_format.Error, ValueError):
        return str(value).strip()


def _bulk_entry(
    entry: appcallback_pb2.TopicEventBulkRequestEntry,
    batch: appcallback_pb2.TopicEventBulkRequest,
    headers: Mapping[str, str],
) -> Incoming:
    """Return an entry of a batch as if it had come alone; a raw one has no attributes but the batch's."""
    if entry.HasField("cloud_event"):
        cloud_event = entry.cloud_event
        event = _topic_event(cloud_event, batch.pubsub_name, batch.topic, headers, entry.metadata)
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


def _carrier(event: EventContext) -> Mapping[str, str]:
    """Return the headers that hold the event's trace.

    The event's own `traceparent` names its publisher; daprd's header, where it continues that trace, the delivery.
    """
    published = event.extensions.get("traceparent")
    if not isinstance(published, str) or not _trace_id(published).strip("0"):
        return event.headers
    if _trace_id(event.headers.get("traceparent", "")) == _trace_id(published):
        return event.headers
    return {
        **event.headers,
        **{key: value for key, value in event.extensions.items() if key in _TRACE_KEYS and isinstance(value, str)},
    }


def _trace_id(traceparent: str) -> str:
    return traceparent[3:35]
