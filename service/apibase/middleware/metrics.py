"""Counts and times of every call."""

from __future__ import annotations

import functools
import time
from typing import TYPE_CHECKING

from apibase.middleware.base import Middleware
from apibase.middleware.call import CALLS, Kind

if TYPE_CHECKING:
    from prometheus_client import Counter

    from apibase.middleware.call import Call, MessageHook, Proceed, Target
    from apibase.observability.metrics import Metrics as Families

_STREAMED_IN = frozenset({Kind.CLIENT_STREAM, Kind.BIDI_STREAM})
_STREAMED_OUT = frozenset({Kind.SERVER_STREAM, Kind.BIDI_STREAM})
_INVOKE = "dapr.proto.runtime.v1.AppCallback"


class Metrics(Middleware):
    """Counts and times every call: `grpc_server_…` for what other apps call, `apibase_deliveries…` for what the sidecar brings."""

    built_in = True

    def __init__(self, families: Families) -> None:
        self._families = families
        self._at_work = dict.fromkeys(Kind, 0)
        for kind in Kind:
            families.in_flight.labels(str(kind)).set_function(functools.partial(self._at_work.__getitem__, kind))

    def wrap(self, target: Target, proceed: Proceed) -> Proceed:
        """Count and time the rest of the chain."""
        at_work, kind = self._at_work, target.kind
        families = self._families
        labels: tuple[str, ...]
        if kind in CALLS:
            labels = rpc_labels(target)
            started = families.server_started.labels(*labels).inc
            observe = families.server_seconds.labels(*labels).observe
            handled = _ByOutcome(families.server_handled, labels)
        else:
            labels = delivery_labels(target)
            started = None
            observe = families.delivery_seconds.labels(*labels).observe
            handled = _ByOutcome(families.delivered, labels)

        async def counted(call: Call) -> object:
            at_work[kind] += 1
            if started is not None:
                started()
            try:
                return await proceed(call)
            finally:
                at_work[kind] -= 1
                observe(time.perf_counter() - call.started)
                handled[call.outcome].inc()

        return counted

    def on_request(self, target: Target) -> MessageHook | None:
        """Count the messages of a stream of requests."""
        return _counting(self._families.received, target) if target.kind in _STREAMED_IN else None

    def on_response(self, target: Target) -> MessageHook | None:
        """Count the messages of a stream of answers."""
        return _counting(self._families.sent, target) if target.kind in _STREAMED_OUT else None


def rpc_labels(target: Target) -> tuple[str, str, str]:
    """Return `grpc_type`, `grpc_service` and `grpc_method`."""
    if target.kind is Kind.INVOKE:
        return "unary", _INVOKE, target.name
    service, _, method = target.name.rpartition(".")
    return str(target.kind), service, method


def delivery_labels(target: Target) -> tuple[str, str, str, str]:
    """Return `kind`, `component`, `source` (the topic, or the binding's or the job's name) and `handler`."""
    route = target.route
    component = getattr(route, "pubsub_name", "") or (target.source if target.kind is Kind.BINDING else "")
    return str(target.kind), component, target.source, target.name


class _ByOutcome(dict[str, "Counter"]):
    """The child of a counter for each outcome, made when it is first seen: `labels` takes longer than counting."""

    def __init__(self, family: Counter, labels: tuple[str, ...]) -> None:
        super().__init__()
        self._family = family
        self._labels = labels

    def __missing__(self, outcome: str) -> Counter:
        child = self[outcome] = self._family.labels(*self._labels, outcome or "UNKNOWN")
        return child


def _counting(family: Counter, target: Target) -> MessageHook:
    count = family.labels(*rpc_labels(target)).inc

    def counted(message: object) -> object:
        count()
        return message

    return counted
