"""An event of a binding, or a job, on its way from daprd to its handler."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

import grpc
from loguru import logger

from apibase.contract.reasons import chassis_reason
from apibase.errors import ServiceError
from apibase.middleware.call import Call, Kind, Target
from apibase.routes import Route
from apibase.settings import DEFAULT_MAX_BYTES
from apibase.topic_dispatch import delivery_handler, delivery_reader, sized
from dapr_contract.v1 import errors_pb2

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from apibase.events import EventContext
    from apibase.middleware.call import Proceed
    from apibase.middleware.chain import Chain
    from apibase.routes import Incoming

_NOBODY = "(no handler)"


class DirectDispatch:
    """Has the events of bindings, or the jobs, handled by name, through the chain."""

    def __init__(
        self, kind: Kind, routes: Mapping[str, Route], chain: Chain, max_data_bytes: int = DEFAULT_MAX_BYTES
    ) -> None:
        self._kind = kind
        self._max_data_bytes = max_data_bytes
        self._handlers = {name: self._compile(name, route, chain) for name, route in routes.items()}
        self._unhandled = self._compile("", Route(_NOBODY, _nobody), chain)

    async def dispatch(self, incoming: Incoming, remaining: float | None, token: str = "") -> Call:
        """Have it handled and return its call, which may have failed. `remaining` is the seconds that the call has."""
        event = incoming.event
        target, read, run = self._handlers.get(event.source, self._unhandled)
        call = Call(
            target,
            incoming.headers,
            event.headers,
            read,
            remaining=remaining,
            incoming=sized(incoming, self._max_data_bytes),
            event=event,
            token=token,
        )
        await run(call)
        return call

    def _compile(self, name: str, route: Route, chain: Chain) -> tuple[Target, Callable[[Call], Any], Proceed]:
        target = Target(
            self._kind, route.name, route.domain, route.request, route=route, source=name, unhandled=not name
        )
        return target, delivery_reader(target, route, chain), chain.compile(target, delivery_handler(route))


async def _nobody(_incoming: Incoming, event: EventContext) -> NoReturn:
    logger.warning("no handler listens to {} {!r}", event.kind, event.source)
    raise ServiceError(
        grpc.StatusCode.NOT_FOUND,
        chassis_reason(errors_pb2.ERROR_REASON_NO_HANDLER),
        f"no handler listens to {event.kind} {event.source!r}",
    )
