"""How much an app takes: calls a second, calls at once, bytes in a message."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import grpc

from apibase.contract.reasons import chassis_reason
from apibase.errors import ServiceError, TooLarge
from apibase.middleware.base import Middleware
from apibase.middleware.call import CALLS, DELIVERIES
from apibase.middleware.hooks import Hooks
from dapr_contract.v1 import errors_pb2

if TYPE_CHECKING:
    from collections.abc import Callable

    from apibase.middleware.call import Call, Target

_RATE = chassis_reason(errors_pb2.ERROR_REASON_RATE_LIMIT_EXCEEDED)
_CONCURRENCY = chassis_reason(errors_pb2.ERROR_REASON_CONCURRENCY_LIMIT_EXCEEDED)
_ROUNDING = 1e-6  # seconds: sums of intervals are not exact
_RETRY_SECONDS = 0.1  # when a place may be free again is not known


class RateLimit(Middleware):
    """Takes `per_second` calls of other apps, and `burst` at one instant; refuses the rest with RESOURCE_EXHAUSTED.

    All methods share it. The answer says in a `RetryInfo` when the next call would be taken. 0 is no limit. Events, bindings and jobs pass:
    the sidecar would bring them again and, by its policy, bury them.
    """

    kinds = CALLS
    built_in = True

    def __init__(self, per_second: float, burst: int = 0, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._interval = 1 / per_second if per_second else 0.0
        self._ahead = self._interval * max((burst or per_second) - 1, 0) + _ROUNDING
        self._clock = clock
        self._due = 0.0
        """When the next call would be due, were they to come evenly (GCRA: one number instead of a bucket)."""

    def hooks(self, target: Target) -> Hooks | None:
        """Count each call before the rest of the chain, if there is a limit."""
        if not self._interval:
            return None
        clock, ahead, interval = self._clock, self._ahead, self._interval

        def counted(_call: Call) -> None:
            now = clock()
            due = self._due
            if due < now:
                due = now
            elif due - now > ahead:
                raise _exhausted(_RATE, "more calls a second than this app takes", due - now - ahead)
            self._due = due + interval

        return Hooks(before=counted)


class ConcurrencyLimit(Middleware):
    """Takes `most` calls of other apps at once; refuses the rest with RESOURCE_EXHAUSTED. 0 is no limit.

    All methods share it. Events, bindings and jobs pass: how many of them come at once is their component's setting.
    """

    kinds = CALLS
    built_in = True

    def __init__(self, most: int) -> None:
        self._most = most
        self._at_work = 0

    def hooks(self, target: Target) -> Hooks | None:
        """Count each call while the rest of the chain is at work, if there is a limit."""
        most = self._most
        if not most:
            return None

        def begin(_call: Call) -> None:
            if self._at_work >= most:
                raise _exhausted(_CONCURRENCY, "more calls at once than this app takes", _RETRY_SECONDS)
            self._at_work += 1

        def end(_call: Call) -> None:
            self._at_work -= 1

        return Hooks(before=begin, after=end)


class SizeLimit(Middleware):
    """Refuses deliveries whose data is larger than the app takes. Requests of other apps are refused when they are decoded."""

    kinds = DELIVERIES
    built_in = True

    def hooks(self, target: Target) -> Hooks:
        """Look before the rest of the chain."""

        def sized(call: Call) -> None:
            if call.incoming is not None and call.incoming.too_large:
                raise TooLarge(len(call.incoming.data))

        return Hooks(before=sized)


def _exhausted(reason: str, message: str, seconds: float) -> ServiceError:
    return ServiceError(grpc.StatusCode.RESOURCE_EXHAUSTED, reason, message, retry_after=seconds)
