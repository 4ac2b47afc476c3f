"""Dapr's app channel: what daprd asks this app, and the events that it brings.

Verdicts on a topic event: a handler that returns is SUCCESS; `Drop`, an undecodable or an invalid event is DROP (daprd
sends it to the subscription's dead-letter topic); anything else is RETRY. UNIMPLEMENTED never leaves for an event, because
daprd would acknowledge and lose it. A binding event that fails answers with the error's status, which daprd hands to the component.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import grpc
from dapr.proto.runtime.v1 import appcallback_pb2, appcallback_pb2_grpc
from google.protobuf import json_format
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import DecodeError, Message
from grpc_status import rpc_status
from loguru import logger

from apibase.cancellation import is_cancelled
from apibase.deadline import deadline
from apibase.errors import Drop, InvalidRequest, Retry, ServiceError, to_status
from apibase.events import EventContext
from apibase.failures import tell
from apibase.message_json import from_json
from apibase.observability import call_context
from apibase.validation import validate

if TYPE_CHECKING:
    from collections.abc import Mapping

    from apibase.routes import Route, RouteTable

    Context = grpc.aio.ServicerContext[Any, Any]

_Verdict = appcallback_pb2.TopicEventResponse
SUCCESS = appcallback_pb2.TopicEventResponse.SUCCESS
RETRY = appcallback_pb2.TopicEventResponse.RETRY
DROP = appcallback_pb2.TopicEventResponse.DROP

_TOKEN_HEADER = "dapr-api-token"  # noqa: S105 - the name of it
_TRACE_KEYS = frozenset({"traceparent", "tracestate"})
_PROTOBUF_TYPES = frozenset({"application/protobuf", "application/x-protobuf", "application/vnd.google.protobuf"})


class AppChannelServicer(appcallback_pb2_grpc.AppCallbackServicer):
    """Serves `AppCallback` from a route table."""

    def __init__(self, routes: RouteTable) -> None:
        self._routes = routes

    async def ListTopicSubscriptions(
        self, request: Empty, context: Context
    ) -> appcallback_pb2.ListTopicSubscriptionsResponse:
        """Tell daprd which topics to subscribe to."""
        return appcallback_pb2.ListTopicSubscriptionsResponse(
            subscriptions=[
                appcallback_pb2.TopicSubscription(
                    pubsub_name=listener.pubsub_name,
                    topic=listener.topic,
                    dead_letter_topic=listener.dead_letter_topic,
                )
                for listener in self._routes.subscriptions
            ]
        )

    async def ListInputBindings(self, request: Empty, context: Context) -> appcallback_pb2.ListInputBindingsResponse:
        """Tell daprd which input bindings to read. Answers at once: daprd keeps an empty list when this takes 3 s."""
        return appcallback_pb2.ListInputBindingsResponse(bindings=self._routes.bindings)

    async def OnTopicEvent(
        self, request: appcallback_pb2.TopicEventRequest, context: Context
    ) -> appcallback_pb2.TopicEventResponse:
        """Handle one event and give the verdict."""
        event = _topic_event(request, request.pubsub_name, request.topic, _headers(context))
        return appcallback_pb2.TopicEventResponse(status=await self._deliver(event, request.data, context))

    async def OnBulkTopicEvent(
        self, request: appcallback_pb2.TopicEventBulkRequest, context: Context
    ) -> appcallback_pb2.TopicEventBulkResponse:
        """Handle a batch concurrently, with a verdict for each entry: a missing one would count as RETRY."""
        headers = _headers(context)

        async def entry_status(
            entry: appcallback_pb2.TopicEventBulkRequestEntry,
        ) -> appcallback_pb2.TopicEventBulkResponseEntry:
            if entry.HasField("cloud_event"):
                event = _topic_event(entry.cloud_event, request.pubsub_name, request.topic, headers, entry.metadata)
                status = await self._deliver(event, entry.cloud_event.data, context)
            else:
                logger.warning(
                    "dropped a raw entry of topic {!r} of {!r}: no CloudEvent", request.topic, request.pubsub_name
                )
                status = DROP
            return appcallback_pb2.TopicEventBulkResponseEntry(entry_id=entry.entry_id, status=status)

        return appcallback_pb2.TopicEventBulkResponse(
            statuses=await asyncio.gather(*map(entry_status, request.entries))
        )

    async def _deliver(
        self, event: EventContext, data: bytes, context: Context
    ) -> _Verdict.TopicEventResponseStatus.ValueType:
        with call_context(_carrier(event)):
            route = self._routes.topic(event.pubsub_name, event.topic, event.type)
            if route is None:
                logger.bind(event_id=event.id).debug(
                    "no handler listens to {} on topic {!r} of {!r}; acknowledged",
                    event.type,
                    event.topic,
                    event.pubsub_name,
                )
                return SUCCESS
            return await self._verdict(route, data, event, context)

    async def _verdict(
        self, route: Route, data: bytes, event: EventContext, context: Context
    ) -> _Verdict.TopicEventResponseStatus.ValueType:
        started = time.perf_counter()
        token = deadline.set_remaining(context.time_remaining())
        verdict: _Verdict.TopicEventResponseStatus.ValueType = RETRY
        reason = "cancelled"
        try:
            await route.handler(_decode(route, data, event.content_type), event)
        except (Drop, InvalidRequest) as error:
            verdict, reason = DROP, str(error)
        except (Retry, ServiceError) as error:
            verdict, reason = RETRY, str(error) or "asked for"
        except (Exception, asyncio.CancelledError) as error:
            if is_cancelled():
                raise
            verdict, reason = RETRY, f"unexpected {type(error).__name__}"
            logger.opt(exception=error).error("{} failed with an unexpected {}", route.name, type(error).__name__)
        else:
            verdict, reason = SUCCESS, ""
        finally:
            deadline.reset(token)
            logger.bind(
                logger="apibase.event",
                method=route.name,
                verdict=_Verdict.TopicEventResponseStatus.Name(verdict),
                event_id=event.id,
                topic=event.topic,
                pubsub_name=event.pubsub_name,
                **({"reason": reason} if reason else {}),
                duration_ms=round((time.perf_counter() - started) * 1000, 3),
            ).log(
                "INFO" if verdict == SUCCESS else "WARNING",
                "{} {}",
                route.name,
                _Verdict.TopicEventResponseStatus.Name(verdict),
            )
        return verdict

    async def OnBindingEvent(
        self, request: appcallback_pb2.BindingEventRequest, context: Context
    ) -> appcallback_pb2.BindingEventResponse:
        """Handle one event of an input binding; an error goes back to the component."""
        headers = _headers(context)
        with call_context(headers):
            route = self._routes.binding(request.name)
            if route is None:
                await context.abort(grpc.StatusCode.NOT_FOUND, f"no handler listens to binding {request.name!r}")
                raise AssertionError  # unreachable: abort raises
            event = EventContext(kind="binding", source=request.name, metadata=dict(request.metadata), headers=headers)
            await self._handle_binding(route, request.data, event, context)
            return appcallback_pb2.BindingEventResponse()

    async def _handle_binding(self, route: Route, data: bytes, event: EventContext, context: Context) -> None:
        started = time.perf_counter()
        token = deadline.set_remaining(context.time_remaining())
        failure: ServiceError | None = None
        try:
            await route.handler(_decode(route, data, "application/json"), event)
        except Drop as error:
            logger.warning("{} dropped an event of binding {!r}: {}", route.name, event.source, error.reason)
        except Retry as error:
            failure = ServiceError(grpc.StatusCode.ABORTED, "RETRY", str(error) or "the event is to be delivered again")
        except (Exception, asyncio.CancelledError) as error:
            if is_cancelled():
                raise
            failure = tell(route.name, error)
        finally:
            deadline.reset(token)
        code = failure.code if failure else grpc.StatusCode.OK
        logger.bind(
            logger="apibase.event",
            method=route.name,
            code=code.name,
            binding=event.source,
            duration_ms=round((time.perf_counter() - started) * 1000, 3),
        ).log("WARNING" if failure else "DEBUG", "{} {}", route.name, failure or code.name)
        if failure:
            status = rpc_status.to_status(to_status(failure, domain=route.name.rpartition(".")[0].rpartition(".")[0]))
            await context.abort(status.code, status.details, status.trailing_metadata)


class AppChannelAlphaServicer(appcallback_pb2_grpc.AppCallbackAlphaServicer):
    """Serves `AppCallbackAlpha`, the names under which Dapr 1.14 makes the same calls."""

    def __init__(self, stable: AppChannelServicer) -> None:
        self._stable = stable

    async def OnBulkTopicEventAlpha1(
        self, request: appcallback_pb2.TopicEventBulkRequest, context: Context
    ) -> appcallback_pb2.TopicEventBulkResponse:
        """Do what `OnBulkTopicEvent` does."""
        return await self._stable.OnBulkTopicEvent(request, context)


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
        extensions=json_format.MessageToDict(request.extensions),
        metadata=dict(metadata or {}),
        headers=headers,
    )


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


def _headers(context: Context) -> Mapping[str, str]:
    """Return the text headers of daprd's call, without the token: an `EventContext` may be logged."""
    return {
        key: value
        for key, value in context.invocation_metadata() or ()
        if isinstance(value, str) and key != _TOKEN_HEADER
    }


def _decode(route: Route, data: bytes, content_type: str) -> Message:
    """Return the event's message, valid by its contract; `Drop` says why it can't be had."""
    if route.request is Empty:
        return Empty()
    media_type = content_type.partition(";")[0].strip().lower()
    try:
        message = route.request.FromString(data) if media_type in _PROTOBUF_TYPES else from_json(data, route.request)
    except (DecodeError, ValueError) as error:
        reason = f"the data ({media_type or 'no content type'}) is no {route.request.DESCRIPTOR.full_name}: {error}"
        raise Drop(reason) from error
    validate(message)
    return message
