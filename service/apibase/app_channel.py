"""Dapr's app channel: what daprd asks this app, and what it brings, handed to the route table's handlers.

What an outcome means to daprd is in `delivery`.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from dapr.proto.runtime.v1 import appcallback_pb2, appcallback_pb2_grpc

from apibase.direct_dispatch import DirectDispatch
from apibase.events import EventContext
from apibase.invocation import Invocations
from apibase.middleware.call import TOKEN_HEADER, Kind
from apibase.routes import Incoming
from apibase.rpc import abort
from apibase.settings import DEFAULT_MAX_BYTES
from apibase.topic_dispatch import TopicDispatch, topic_event

if TYPE_CHECKING:
    from collections.abc import Mapping

    import grpc
    from dapr.proto.common.v1 import common_pb2
    from google.protobuf.empty_pb2 import Empty
    from google.protobuf.message import Message

    from apibase.middleware.call import Call
    from apibase.middleware.chain import Chain
    from apibase.routes import Headers, RouteTable

    Context = grpc.aio.ServicerContext[Any, Any]

_Verdict = appcallback_pb2.TopicEventResponse.TopicEventResponseStatus


class AppChannelServicer(appcallback_pb2_grpc.AppCallbackServicer):
    """Serves `AppCallback` from a route table, through the chain."""

    def __init__(self, routes: RouteTable, chain: Chain, max_data_bytes: int = DEFAULT_MAX_BYTES) -> None:
        self._routes = routes
        self._topics = TopicDispatch(routes, chain, max_data_bytes)
        self._invocations = Invocations(routes.methods, chain, max_data_bytes)
        self._bindings = DirectDispatch(Kind.BINDING, routes.bindings, chain, max_data_bytes)
        self._jobs = DirectDispatch(Kind.JOB, routes.jobs, chain, max_data_bytes)

    async def OnInvoke(self, request: common_pb2.InvokeRequest, context: Context) -> common_pb2.InvokeResponse:
        """Answer a call of a method by its name."""
        headers, all_headers, token = _headers(context)
        call, response = await self._invocations.answer(request, headers, all_headers, context, token)
        await _end(call, context)
        return response

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
        headers, all_headers, token = _headers(context)
        event = topic_event(request, request.pubsub_name, request.topic, headers)
        incoming = Incoming(event, request.data, request, all_headers)
        call = await self._topics.dispatch(incoming, request.path, context.time_remaining(), token)
        await _end(call, context)
        return appcallback_pb2.TopicEventResponse(status=_Verdict.Value(call.outcome))

    async def OnUnreadableEvent(
        self, request: appcallback_pb2.TopicEventRequest, context: Context
    ) -> appcallback_pb2.TopicEventResponse:
        """Leave an event to daprd's dead letters: `request` has those of its attributes that could be read."""
        headers, all_headers, token = _headers(context)
        event = topic_event(request, request.pubsub_name, request.topic, headers)
        incoming = Incoming(event, b"", request, all_headers, unreadable=True)
        call = await self._topics.dispatch(incoming, "", context.time_remaining(), token)
        await _end(call, context)
        return appcallback_pb2.TopicEventResponse(status=_Verdict.Value(call.outcome))

    async def OnBulkTopicEvent(
        self, request: appcallback_pb2.TopicEventBulkRequest, context: Context
    ) -> appcallback_pb2.TopicEventBulkResponse:
        """Handle a batch concurrently, with a verdict for each entry: a missing one would count as RETRY."""
        headers, all_headers, token = _headers(context)
        remaining = context.time_remaining()

        async def handled(entry: appcallback_pb2.TopicEventBulkRequestEntry) -> Call:
            incoming = replace(_bulk_entry(entry, request, headers), headers=all_headers)
            return await self._topics.dispatch(incoming, request.path, remaining, token)

        calls = await asyncio.gather(*map(handled, request.entries))
        for call in calls:
            await _end(call, context)  # What is no verdict concerns the sidecar's call, and so all of them.
        return appcallback_pb2.TopicEventBulkResponse(
            statuses=[
                appcallback_pb2.TopicEventBulkResponseEntry(
                    entry_id=entry.entry_id, status=_Verdict.Value(call.outcome)
                )
                for entry, call in zip(request.entries, calls, strict=True)
            ]
        )

    async def OnBindingEvent(
        self, request: appcallback_pb2.BindingEventRequest, context: Context
    ) -> appcallback_pb2.BindingEventResponse:
        """Handle one event of an input binding; an error goes back to the component."""
        headers, all_headers, token = _headers(context)
        event = EventContext(kind="binding", source=request.name, metadata=dict(request.metadata), headers=headers)
        incoming = Incoming(event, request.data, request, all_headers)
        await _end(await self._bindings.dispatch(incoming, context.time_remaining(), token), context)
        return appcallback_pb2.BindingEventResponse()

    async def OnJobEvent(
        self, request: appcallback_pb2.JobEventRequest, context: Context
    ) -> appcallback_pb2.JobEventResponse:
        """Run a job; an error makes the scheduler follow the job's failure policy."""
        headers, all_headers, token = _headers(context)
        event = EventContext(kind="job", source=request.name, content_type=request.content_type, headers=headers)
        incoming = Incoming(event, request.data.value, request, all_headers)
        await _end(await self._jobs.dispatch(incoming, context.time_remaining(), token), context)
        return appcallback_pb2.JobEventResponse()


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


def _headers(context: Context) -> tuple[Mapping[str, str], Headers, str]:
    """Return the text headers of daprd's call, all of them as they came, and the app's token.

    The token is in neither: a handler may log them.
    """
    given = context.invocation_metadata() or ()
    headers = {key: value for key, value in given if isinstance(value, str)}
    token = headers.pop(TOKEN_HEADER, "")
    return headers, tuple(header for header in given if header[0] != TOKEN_HEADER), token


async def _end(call: Call, context: Context) -> None:
    """End daprd's call with what it is told, where that is an error."""
    if call.failure is not None:
        await abort(context, call.failure, call.target.domain)


def _bulk_entry(
    entry: appcallback_pb2.TopicEventBulkRequestEntry,
    batch: appcallback_pb2.TopicEventBulkRequest,
    headers: Mapping[str, str],
) -> Incoming:
    """Return an entry of a batch as if it had come alone; a raw one has no attributes but the batch's."""
    unreadable = entry.WhichOneof("event") is None
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
    return Incoming(event, data, request, unreadable=unreadable)
