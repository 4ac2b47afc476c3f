"""Dapr's app channel: what daprd asks this app, and the events that it brings.

Verdicts on a topic event: a handler that returns is SUCCESS; `Drop`, an undecodable or an invalid event is DROP (daprd
sends it to the subscription's dead-letter topic); anything else is RETRY. UNIMPLEMENTED never leaves for an event, because
daprd would acknowledge and lose it. A binding event that fails answers with the error's status, which daprd hands to the component.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import grpc
from dapr.proto.runtime.v1 import appcallback_pb2, appcallback_pb2_grpc
from google.protobuf import json_format
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import DecodeError, Message
from grpc_status import rpc_status
from loguru import logger

from apibase.deadline import deadline
from apibase.errors import Drop, InvalidRequest, Retry, ServiceError, internal_error, to_status
from apibase.events import EventContext
from apibase.observability import call_context
from apibase.validation import validate

if TYPE_CHECKING:
    from collections.abc import Mapping

    from apibase.routes import Route, RouteTable

    Context = grpc.aio.ServicerContext[Any, Any]

_Verdict = appcallback_pb2.TopicEventResponse.TopicEventResponseStatus
SUCCESS = appcallback_pb2.TopicEventResponse.SUCCESS
RETRY = appcallback_pb2.TopicEventResponse.RETRY
DROP = appcallback_pb2.TopicEventResponse.DROP

_PROTOBUF_TYPES = frozenset({"application/protobuf", "application/x-protobuf", "application/vnd.google.protobuf"})


class AppChannelServicer(appcallback_pb2_grpc.AppCallbackServicer):
    """Serves `AppCallback` from a route table."""

    def __init__(self, routes: RouteTable) -> None:
        self._routes = routes

    async def ListTopicSubscriptions(  # noqa: N802 - Dapr's name
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

    async def ListInputBindings(  # noqa: N802 - Dapr's name
        self, request: Empty, context: Context
    ) -> appcallback_pb2.ListInputBindingsResponse:
        """Tell daprd which input bindings to read. Answers at once: daprd keeps an empty list when this takes 3 s."""
        return appcallback_pb2.ListInputBindingsResponse(bindings=self._routes.bindings)

    async def OnTopicEvent(  # noqa: N802 - Dapr's name
        self, request: appcallback_pb2.TopicEventRequest, context: Context
    ) -> appcallback_pb2.TopicEventResponse:
        """Handle one event and give the verdict."""
        extensions = json_format.MessageToDict(request.extensions)
        headers = _headers(context)
        # daprd's own header carries the span of its delivery; the event's extension that of its publisher.
        carrier = {**headers, **{key: value for key, value in extensions.items() if isinstance(value, str)}}
        event = EventContext(
            kind="topic",
            source=request.source,
            id=request.id,
            type=request.type,
            pubsub_name=request.pubsub_name,
            topic=request.topic,
            content_type=request.data_content_type,
            extensions=extensions,
            headers=headers,
        )
        with call_context(carrier):
            route = self._routes.topic(request.pubsub_name, request.topic, request.type)
            if route is None:
                logger.bind(event_id=request.id).debug(
                    "no handler listens to {} on topic {!r} of {!r}; acknowledged", request.type, request.topic, request.pubsub_name
                )
                return appcallback_pb2.TopicEventResponse(status=SUCCESS)
            return appcallback_pb2.TopicEventResponse(status=await self._topic_verdict(route, request.data, event, context))

    async def _topic_verdict(self, route: Route, data: bytes, event: EventContext, context: Context) -> _Verdict:
        started = time.perf_counter()
        token = deadline.set_remaining(context.time_remaining())
        verdict, reason = RETRY, "cancelled"
        try:
            verdict, reason = SUCCESS, ""
            await route.handler(_decode(route, data, event.content_type), event)
        except Drop as error:
            verdict, reason = DROP, error.reason
        except InvalidRequest as error:
            verdict, reason = DROP, str(error)
        except Retry as error:
            verdict, reason = RETRY, str(error) or "asked for"
        except ServiceError as error:
            verdict, reason = RETRY, str(error)
        except Exception as error:  # noqa: BLE001 - the border: an event never fails the call
            verdict, reason = RETRY, f"unexpected {type(error).__name__}"
            logger.opt(exception=error).error("{} failed with an unexpected {}", route.name, type(error).__name__)
        finally:
            deadline.reset(token)
            logger.bind(
                logger="apibase.event",
                method=route.name,
                verdict=_Verdict.Name(verdict),
                event_id=event.id,
                topic=event.topic,
                pubsub_name=event.pubsub_name,
                **({"reason": reason} if reason else {}),
                duration_ms=round((time.perf_counter() - started) * 1000, 3),
            ).log("INFO" if verdict == SUCCESS else "WARNING", "{} {}", route.name, _Verdict.Name(verdict))
        return verdict

    async def OnBindingEvent(  # noqa: N802 - Dapr's name
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
        except ServiceError as error:
            failure = error
        except Drop as error:
            logger.warning("{} dropped an event of binding {!r}: {}", route.name, event.source, error.reason)
        except Exception as error:  # noqa: BLE001 - the border: nothing passes it but a status
            failure = internal_error()
            logger.bind(error_id=failure.metadata["error_id"]).opt(exception=error).error(
                "{} failed with an unexpected {}", route.name, type(error).__name__
            )
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


def _headers(context: Context) -> Mapping[str, str]:
    return {key: value for key, value in context.invocation_metadata() or () if isinstance(value, str)}


def _decode(route: Route, data: bytes, content_type: str) -> Message:
    """Return the event's message, valid by its contract; `Drop` says why it can't be had."""
    message = route.request()
    media_type = content_type.partition(";")[0].strip().lower()
    if isinstance(message, Empty):
        return message
    try:
        if media_type in _PROTOBUF_TYPES:
            message.ParseFromString(data)
        else:
            json_format.Parse(data, message, ignore_unknown_fields=True)
    except (DecodeError, json_format.ParseError, UnicodeDecodeError) as error:
        reason = f"the data ({media_type or 'no content type'}) is no {message.DESCRIPTOR.full_name}: {error}"
        raise Drop(reason) from error
    validate(message)
    return message
