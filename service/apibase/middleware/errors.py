"""Where errors become what a caller, or daprd, is told."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import grpc

from apibase.cancellation import is_cancelled
from apibase.delivery import deliver_directly
from apibase.failures import tell
from apibase.middleware.base import Middleware
from apibase.middleware.call import CALLS, Kind
from apibase.middleware.hooks import Hooks
from apibase.routes import TopicRoute

if TYPE_CHECKING:
    from apibase.delivery import TopicDelivery
    from apibase.middleware.call import Call, Proceed, Target


class CallOver(asyncio.CancelledError):
    """A response could not be written: the call ended while the handler was at work, mostly because its caller left."""


class Errors(Middleware):
    """Turns errors into a status (rpcs, invoked methods, bindings, jobs) or a verdict (events): see `errors` and `delivery`.

    What stands before it in the order sees how a call ended; what stands after it sees the error.
    """

    built_in = True

    def __init__(self, topics: TopicDelivery) -> None:
        self._topics = topics

    def hooks(self, target: Target) -> Hooks | None:
        """Let no error of a call pass but a cancellation."""
        return _settling(target) if target.kind in CALLS else None

    def wrap(self, target: Target, proceed: Proceed) -> Proceed:
        """Make a verdict, or a status, of what becomes of a delivery."""
        if target.kind in CALLS:
            return super().wrap(target, proceed)
        assert target.route is not None  # noqa: S101 - every delivery has one
        if target.kind is Kind.EVENT:
            assert isinstance(target.route, TopicRoute)  # noqa: S101 - for the type checker
            return self._topics.wrap(target.route, proceed)
        return deliver_directly(target.route, proceed)


def _settling(target: Target) -> Hooks:
    name = target.name

    def caught(call: Call, error: Exception | asyncio.CancelledError) -> None:
        call.error = error
        if is_cancelled() or isinstance(error, CallOver):
            call.outcome = "CANCELLED"
            raise error
        if isinstance(error, grpc.aio.AbortError):
            call.outcome = _code(call, "UNKNOWN")
            raise error
        call.failure = tell(name, error)
        call.outcome, call.reason = call.failure.code.name, call.failure.reason

    def answered(call: Call) -> None:
        code = call.context.code() if call.context is not None else None
        call.outcome = code.name if isinstance(code, grpc.StatusCode) else "OK"

    return Hooks(caught=caught, answered=answered)


def _code(call: Call, default: str) -> str:
    """Return the name of the code that a handler gave the context, by `abort` or `set_code`."""
    code = call.context.code() if call.context is not None else None
    return code.name if isinstance(code, grpc.StatusCode) else default
