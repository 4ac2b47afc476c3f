"""`OnInvoke`: methods without a contract, called by their name."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import grpc
from dapr.proto import common_v1

from apibase.contract.reasons import chassis_reason
from apibase.delivery import call
from apibase.errors import ServiceError
from apibase.events import EventContext
from apibase.failures import tell
from apibase.observability import log_outcome
from apibase.routes import Incoming
from dapr_contract.v1 import errors_pb2

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dapr.proto.common.v1 import common_pb2

    from apibase.routes import Headers, Route

    Context = grpc.aio.ServicerContext[Any, Any]


@dataclass(frozen=True, slots=True)
class Answer:
    """What a method's handler answers; any other answer is an empty one."""

    response: common_pb2.InvokeResponse
    headers: Headers = ()


class Invocations:
    """Answers calls of methods from the route table."""

    def __init__(self, methods: Mapping[str, Route]) -> None:
        self._methods = methods

    async def answer(
        self, request: common_pb2.InvokeRequest, headers: Mapping[str, str], all_headers: Headers, context: Context
    ) -> common_pb2.InvokeResponse:
        """Call the method that the request names and return its answer. Raises what the caller is told, as `ServiceError`.

        `headers` are the text ones among `all_headers`; neither has the app's token.
        """
        started = time.perf_counter()
        route = self._methods.get(request.method)
        if route is None:
            reason = chassis_reason(errors_pb2.ERROR_REASON_NO_SUCH_METHOD)
            raise ServiceError(grpc.StatusCode.UNIMPLEMENTED, reason, f"this app has no method {request.method!r}")
        event = EventContext(
            kind="method",
            source=headers.get("dapr-caller-app-id", ""),
            content_type=request.content_type,
            headers=headers,
        )
        code = grpc.StatusCode.CANCELLED
        try:
            incoming = Incoming(event, request.data.value, request, all_headers)
            outcome = await call(route, incoming, context.time_remaining())
            told = tell(route.name, outcome.error) if outcome.error is not None else None
            code = told.code if told else grpc.StatusCode.OK
        finally:
            fields = {
                "method": request.method,
                "code": code.name,
                "caller": event.source,
                "duration_ms": round((time.perf_counter() - started) * 1000, 3),
            }
            log_outcome("INFO", "apibase.call", f"{request.method} {code.name}", fields)
        if told is not None:
            raise told
        answer = outcome.answer
        if not isinstance(answer, Answer):
            return common_v1.InvokeResponse()
        if answer.headers:
            await context.send_initial_metadata(answer.headers)
        return answer.response
