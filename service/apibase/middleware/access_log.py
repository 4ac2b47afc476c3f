"""One line in the log for a call: for each, or for those that one would look for."""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING

from apibase.middleware.base import Middleware
from apibase.middleware.call import CALLS, Kind
from apibase.middleware.callers import CALLER_HEADER
from apibase.middleware.hooks import Hooks
from apibase.observability import log_outcome

if TYPE_CHECKING:
    from apibase.middleware.call import Call, Target
    from apibase.observability import CallLevel

_FINE = frozenset({"OK", "SUCCESS"})


class AccessLog(Middleware):
    """Logs how each call ended; with `ratio` below 1, every error, every call slower than `slow` seconds, and that share of the rest."""

    built_in = True

    def __init__(self, ratio: float = 1.0, slow: float = 1.0) -> None:
        self._ratio = ratio
        self._slow = slow

    def hooks(self, target: Target) -> Hooks | None:
        """Log after the rest of the chain."""
        if target.unhandled:
            return None
        ratio, slow, log = self._ratio, self._slow, _call if target.kind in CALLS else _delivery
        clock, draw = time.perf_counter, random.random

        def logged(call: Call) -> None:
            seconds = clock() - call.started
            if ratio >= 1.0 or call.outcome not in _FINE or seconds >= slow or draw() < ratio:
                log(call, seconds)

        return Hooks(after=logged)


def _call(call: Call, seconds: float) -> None:
    code = call.outcome or "UNKNOWN"
    fields: dict[str, object] = {"method": call.target.name, "code": code}
    if call.reason:
        fields["reason"] = call.reason
    caller = call.headers.get(CALLER_HEADER)
    if caller:
        fields["caller"] = caller
    fields["duration_ms"] = round(seconds * 1000, 3)
    log_outcome("INFO", "apibase.call", f"{call.target.name} {code}", fields)


def _delivery(call: Call, seconds: float) -> None:
    name, event = call.target.name, call.event
    fields: dict[str, object] = {"method": name}
    level: CallLevel = "WARNING"
    if call.target.kind is Kind.EVENT:
        fields["verdict"] = call.outcome
        if event is not None:
            fields |= {"event_id": event.id, "topic": event.topic, "pubsub_name": event.pubsub_name}
        if call.outcome == "SUCCESS" and (call.repeated or not call.reason):
            level = "INFO"
        told: object = call.outcome
    else:
        fields["code"] = call.outcome
        if event is not None:
            fields["source"] = event.source
        if call.outcome == "OK":
            level = "DEBUG"
        told = call.failure or call.outcome
    if call.reason:
        fields["reason"] = call.reason
    fields["duration_ms"] = round(seconds * 1000, 3)
    log_outcome(level, "apibase.event", f"{name} {told}", fields)
