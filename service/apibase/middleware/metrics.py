"""Counts and times of every inbound call."""

from __future__ import annotations

import functools
import re
import time
from datetime import datetime
from typing import TYPE_CHECKING

import grpc

from apibase.contract.reasons import chassis_reason
from apibase.errors import Drop
from apibase.middleware.base import Middleware
from apibase.middleware.call import CALLS, Kind
from apibase.middleware.hooks import Hooks
from apibase.observability.series import OTHER, BoundedLabel, Count
from apibase.routes import TopicRoute
from dapr_contract.v1 import errors_pb2

if TYPE_CHECKING:
    from apibase.events import EventContext
    from apibase.middleware.call import Call, Target
    from apibase.observability.metrics import Metrics as Families
    from apibase.observability.series import Counts

_STREAMED_IN = frozenset({Kind.CLIENT_STREAM, Kind.BIDI_STREAM})
_STREAMED_OUT = frozenset({Kind.SERVER_STREAM, Kind.BIDI_STREAM})
_INVOKE = "dapr.proto.runtime.v1.AppCallback"
_VERDICTS = ("SUCCESS", "RETRY", "DROP")
_OUTCOMES = frozenset({*(code.name for code in grpc.StatusCode), *_VERDICTS})
_TAKEN_OFF = frozenset({"SUCCESS", "DROP", "OK"})
"""The outcomes of an event that does not come again."""
_NOT_THE_SIDECARS = frozenset(
    map(chassis_reason, (errors_pb2.ERROR_REASON_APP_TOKEN_REFUSED, errors_pb2.ERROR_REASON_CALLER_NOT_ALLOWED))
)
_CODE = re.compile(r"[A-Z][A-Z0-9_]{0,62}")
_MOST_CODES = 100
_MOST_TOPICS = 200


class _AtWork:
    """How many calls of a kind are at work."""

    __slots__ = ("now",)

    def __init__(self) -> None:
        self.now = 0


class Metrics(Middleware):
    """Counts and times every call: `grpc_server_…` for what other apps call, `apibase_deliveries…` for what the sidecar brings."""

    built_in = True

    def __init__(self, families: Families) -> None:
        self._families = families
        self._at_work = {kind: _AtWork() for kind in Kind}
        self._codes = BoundedLabel(_MOST_CODES)
        self._topics = BoundedLabel(_MOST_TOPICS)
        for kind, at_work in self._at_work.items():
            families.in_flight.labels(str(kind)).set_function(functools.partial(getattr, at_work, "now"))

    def hooks(self, target: Target) -> Hooks:
        """Count and time the rest of the chain."""
        return self._of_calls(target) if target.kind in CALLS else self._of_deliveries(target)

    def _of_calls(self, target: Target) -> Hooks:
        families, at_work = self._families, self._at_work[target.kind]
        labels = rpc_labels(target)
        started = families.server_started.labels(*labels)
        observe = families.server_seconds.labels(*labels).observe
        handled = ByOutcome(families.server_handled, labels)
        received = families.received.labels(*labels) if target.kind in _STREAMED_IN else None
        sent = families.sent.labels(*labels) if target.kind in _STREAMED_OUT else None

        clock = time.perf_counter

        def begin(call: Call) -> None:
            at_work.now += 1
            started.value += 1
            if received is not None:
                call.received = received
            if sent is not None:
                call.sent = sent

        def end(call: Call) -> None:
            at_work.now -= 1
            observe(clock() - call.started)
            handled[call.outcome].value += 1

        return Hooks(before=begin, after=end)

    def _of_deliveries(self, target: Target) -> Hooks:
        families, at_work = self._families, self._at_work[target.kind]
        labels = self._delivery_labels(target)
        _, component, source, handler = labels
        observe = families.delivery_seconds.labels(*labels).observe
        delivered = ByOutcome(families.delivered, labels, _VERDICTS if target.kind is Kind.EVENT else ("OK",))

        def begin(call: Call) -> None:
            at_work.now += 1
            call.came = time.time()

        def end(call: Call) -> None:
            at_work.now -= 1
            observe(time.perf_counter() - call.started)
            delivered[call.outcome].value += 1
            if component and call.event is not None and call.reason not in _NOT_THE_SIDECARS:
                published = publication_time(call.event)
                if published is not None:
                    families.event_age.labels(component, source).observe(max(call.came - published, 0.0))
            if call.repeated:
                families.repeated.labels(component, source, handler).inc()
            elif call.error is not None and call.outcome in _TAKEN_OFF:
                code = self._code(call.error)
                families.dead_letters.labels(component, source, handler, code, _end(call)).inc()

        return Hooks(before=begin, after=end)

    def _delivery_labels(self, target: Target) -> tuple[str, str, str, str]:
        """Return `kind`, `component`, `source` (the topic, or the binding's or the job's name) and `handler`."""
        route = target.route
        component = target.source if target.kind is Kind.BINDING else ""
        if isinstance(route, TopicRoute):
            component = route.pubsub_name
        # A contract's topics are as many as they are; those of streaming subscriptions are made up as the app runs.
        source = self._topics.value(target.source) if target.own else target.source
        return str(target.kind), component, source, target.name

    def _code(self, error: BaseException) -> str:
        """Return the code of a death; one that is no constant, or one too many, is `(other)`."""
        code = error.code if isinstance(error, Drop) else getattr(error, "reason", "")
        return self._codes.value(code) if isinstance(code, str) and _CODE.fullmatch(code) else OTHER


def rpc_labels(target: Target) -> tuple[str, str, str]:
    """Return `grpc_type`, `grpc_service` and `grpc_method`."""
    if target.kind is Kind.INVOKE:
        return "unary", _INVOKE, target.name
    service, _, method = target.name.rpartition(".")
    return str(target.kind), service, method


def publication_time(event: EventContext) -> float | None:
    """Return when an event was published, in seconds since 1970; None where nothing tells.

    Kafka's own time (in milliseconds) comes before the CloudEvent's, which daprd writes in whole seconds, rounded down.
    """
    kafka = event.metadata.get("__timestamp") or event.headers.get("__timestamp")
    if kafka:
        try:
            return int(kafka) / 1000
        except (ValueError, OverflowError):
            return None
    stamp = event.extensions.get("time")
    if not isinstance(stamp, str):
        return None
    try:
        moment = datetime.fromisoformat(stamp)
        return moment.timestamp() if moment.tzinfo is not None else None
    except (ValueError, OverflowError):
        return None


def _end(call: Call) -> str:
    """Return where an event ended that died: as a dead letter of ours, with the sidecar, or nowhere."""
    if call.outcome == "SUCCESS":
        return "dead_letter"
    route = call.target.route
    kept = call.outcome == "DROP" and isinstance(route, TopicRoute) and route.dead_letter_topic
    return "sidecar" if kept else "lost"


class ByOutcome(dict[str, Count]):
    """The series of a counter for each outcome, made when it is first seen, or before for those that are to be 0 until then."""

    def __init__(self, family: Counts, labels: tuple[str, ...], expected: tuple[str, ...] = ("OK",)) -> None:
        super().__init__((outcome, family.labels(*labels, outcome)) for outcome in expected)
        self._family = family
        self._labels = labels

    def __missing__(self, outcome: str) -> Count:
        if outcome not in _OUTCOMES:
            return self["UNKNOWN"]
        series = self[outcome] = self._family.labels(*self._labels, outcome)
        return series
