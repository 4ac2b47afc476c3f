"""`OnInvoke`: methods without a contract, called by their name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

import grpc
from dapr.proto import common_v1

from apibase.contract.reasons import chassis_reason
from apibase.errors import ServiceError, too_large_request
from apibase.events import EventContext
from apibase.middleware.call import Call, Kind, Target
from apibase.routes import Incoming, Route
from apibase.settings import DEFAULT_MAX_BYTES
from apibase.topic_dispatch import delivery_handler, delivery_reader
from dapr_contract.v1 import errors_pb2

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from dapr.proto.common.v1 import common_pb2

    from apibase.middleware.call import Proceed
    from apibase.middleware.chain import Chain
    from apibase.routes import Headers

    Context = grpc.aio.ServicerContext[Any, Any]

_UNKNOWN = "(no such method)"


@dataclass(frozen=True, slots=True)
class Answer:
    """What a method's handler answers; any other answer is an empty one."""

    response: common_pb2.InvokeResponse
    headers: Headers = ()


class Invocations:
    """Answers calls of methods from the route table, through the chain."""

    def __init__(self, methods: Mapping[str, Route], chain: Chain, max_data_bytes: int = DEFAULT_MAX_BYTES) -> None:
        self._max_data_bytes = max_data_bytes
        self._methods = {name: self._compile(name, route, chain) for name, route in methods.items()}
        self._unknown = self._compile(_UNKNOWN, Route(_UNKNOWN, _nobody), chain)

    def _compile(self, name: str, route: Route, chain: Chain) -> tuple[Target, Callable[[Call], Any], Proceed]:
        target = Target(Kind.INVOKE, name, route.domain, route=route)
        read = delivery_reader(target, route, chain)

        def sized(call: Call) -> object:
            incoming = call.incoming
            if incoming is not None and len(incoming.data) > self._max_data_bytes:
                raise too_large_request(len(incoming.data), self._max_data_bytes)
            return read(call)

        return target, sized, chain.compile(target, delivery_handler(route))

    async def answer(
        self,
        request: common_pb2.InvokeRequest,
        headers: Mapping[str, str],
        all_headers: Headers,
        context: Context,
        token: str = "",
    ) -> tuple[Call, common_pb2.InvokeResponse]:
        """Call the method that the request names; return the call, which may have failed, and its answer.

        `headers` are the text ones among `all_headers`; neither has the app's token.
        """
        event = EventContext(
            kind="method",
            source=headers.get("dapr-caller-app-id", ""),
            content_type=request.content_type,
            headers=headers,
        )
        target, read, run = self._methods.get(request.method, self._unknown)
        call = Call(
            target,
            all_headers,
            headers,
            read,
            context=context,
            remaining=context.time_remaining(),
            incoming=Incoming(event, request.data.value, request, all_headers),
            event=event,
            token=token,
        )
        answer = await run(call)
        if not isinstance(answer, Answer):
            return call, common_v1.InvokeResponse()
        if answer.headers:
            await context.send_initial_metadata(answer.headers)
        return call, answer.response


async def _nobody(incoming: Incoming, _event: EventContext) -> NoReturn:
    request = incoming.request
    name = getattr(request, "method", "")
    reason = chassis_reason(errors_pb2.ERROR_REASON_NO_SUCH_METHOD)
    raise ServiceError(grpc.StatusCode.UNIMPLEMENTED, reason, f"this app has no method {name!r}")
