"""Counts and times of outbound calls: of the sidecar's own API by building block, of other apps by method."""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING

from dapr.proto.runtime.v1 import dapr_pb2

from apibase.clients.outbound import OutboundMiddleware
from apibase.observability.series import OTHER, BoundedLabel

if TYPE_CHECKING:
    from collections.abc import Callable

    import grpc

    from apibase.clients.outbound import OutboundCall, OutboundTarget, Start
    from apibase.observability.metrics import Metrics as Families
    from apibase.observability.series import Count, Timing

_DAPR = dapr_pb2.DESCRIPTOR.services_by_name["Dapr"]
_MOST_METHODS = 500
_UNKNOWN = "UNKNOWN"
# The first that a method's name contains decides.
_BLOCK_BY_WORD = {
    "Workflow": "workflow",
    "Actor": "actors",
    "State": "state",
    "Publish": "pubsub",
    "TopicEvents": "pubsub",
    "Binding": "bindings",
    "Secret": "secrets",
    "Configuration": "configuration",
    "Lock": "lock",
    "lock": "lock",
    "Job": "jobs",
    "crypt": "cryptography",
    "Subtle": "cryptography",
    "Converse": "conversation",
    "InvokeService": "invocation",
    "Metadata": "sidecar",
    "Shutdown": "sidecar",
}


def building_block(operation: str) -> str:
    """Return the building block that a method of the sidecar's API belongs to."""
    return next((block for word, block in _BLOCK_BY_WORD.items() if word in operation), OTHER)


class Metrics(OutboundMiddleware):
    """Counts and times calls: of the sidecar's API as `apibase_building_block_…`, of other apps as `grpc_client_…`."""

    def __init__(self, families: Families) -> None:
        self._families = families
        self._methods = BoundedLabel(_MOST_METHODS)
        self._measures: dict[tuple[str, str], _Measure] = {}

    def wrap(self, target: OutboundTarget, start: Start) -> Start:
        """Measure the calls of a method; nothing is counted before it is called."""
        method, kind = self._methods.value(target.method), str(target.kind)
        measure = self._measures.get((method, kind))
        if measure is None:
            measure = self._measures[method, kind] = _measure(self._families, method, kind)
        begin, end = measure.begin, measure.end

        def measured(call: OutboundCall) -> grpc.aio.Call:
            began = time.perf_counter()
            made = start(call)
            begin()
            made.add_done_callback(partial(end, began))
            return made

        return measured


class _Measure:
    """What is counted of one method."""

    def __init__(self, started: Count | None, seconds: Timing, ended: Callable[[str], Count]) -> None:
        self._started = started
        self._seconds = seconds
        self._ended = ended
        self._by_code: dict[grpc.StatusCode | None, Count] = {}

    def begin(self) -> None:
        """Count a call that was made."""
        if self._started is not None:
            self._started.value += 1

    def end(self, began: float, call: grpc.aio.Call) -> None:
        """Count a call that is over."""
        self._seconds.observe(time.perf_counter() - began)
        code = status_of(call)
        count = self._by_code.get(code)
        if count is None:
            count = self._by_code[code] = self._ended(code.name if code is not None else _UNKNOWN)
        count.value += 1


def _measure(families: Families, path: str, kind: str) -> _Measure:
    service, _, method = path.lstrip("/").rpartition("/")
    if service == _DAPR.full_name:
        labels = (building_block(method), method) if method in _DAPR.methods_by_name else (OTHER, OTHER)
        return _Measure(None, families.block_seconds.labels(*labels), partial(families.block_calls.labels, *labels))
    rpc = (kind, service or OTHER, method)
    return _Measure(
        families.client_started.labels(*rpc),
        families.client_seconds.labels(*rpc),
        partial(families.client_handled.labels, *rpc),
    )


def status_of(call: grpc.aio.Call) -> grpc.StatusCode | None:
    """Return the status of a call that is over, which gRPC has behind a coroutine that need not wait; None where it is not over."""
    answer = call.code()
    try:
        answer.send(None)
    except StopIteration as done:
        code: grpc.StatusCode = done.value
        return code
    answer.close()
    return None
