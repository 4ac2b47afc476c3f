"""A span as a receiver of any protocol has got it, and the tree that the spans of a trace make."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.trace.v1 import trace_pb2


@dataclass(frozen=True)
class SpanSeen:
    """One exported span. Ids are in hex, `parent` is "" for a root; Zipkin knows neither links nor the kind INTERNAL."""

    service: str
    name: str
    kind: str
    trace: str
    id: str
    parent: str = ""
    state: str = ""
    attributes: Mapping[str, Any] = field(default_factory=dict)
    resource: Mapping[str, Any] = field(default_factory=dict)
    links: tuple[str, ...] = ()
    exceptions: tuple[Mapping[str, Any], ...] = ()
    failed: bool = False

    def __str__(self) -> str:
        return f"{self.service} {self.kind} {self.name}"

    @classmethod
    def of_otlp(cls, request: ExportTraceServiceRequest) -> list[Self]:
        """Return the spans of an export by OTLP."""
        return [
            cls(
                service=_values(group.resource.attributes).get("service.name", ""),
                name=span.name,
                kind=trace_pb2.Span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_"),
                trace=span.trace_id.hex(),
                id=span.span_id.hex(),
                parent=span.parent_span_id.hex(),
                state=span.trace_state,
                attributes=_values(span.attributes),
                resource=_values(group.resource.attributes),
                links=tuple(link.trace_id.hex() for link in span.links),
                exceptions=tuple(_values(event.attributes) for event in span.events if event.name == "exception"),
                failed=span.status.code == trace_pb2.Status.STATUS_CODE_ERROR,
            )
            for group in request.resource_spans
            for scope in group.scope_spans
            for span in scope.spans
        ]

    @classmethod
    def of_zipkin(cls, span: Mapping[str, Any]) -> Self:
        """Return a span as Zipkin's API tells it."""
        tags = span.get("tags", {})
        return cls(
            service=span.get("localEndpoint", {}).get("serviceName", ""),
            name=span.get("name", ""),
            kind=span.get("kind", "INTERNAL"),
            trace=span["traceId"],
            id=span["id"],
            parent=span.get("parentId", ""),
            attributes=tags,
            exceptions=tuple(note for note in span.get("annotations", ()) if "exception" in note["value"]),
            failed="error" in tags,
        )


class SpanTree:
    """The spans of one trace, by their parents. `remote` is the id of a parent that no receiver gets: a caller's."""

    def __init__(self, spans: Iterable[SpanSeen], remote: str = "") -> None:
        self.spans = {span.id: span for span in spans}
        self._remote = remote
        self._children: dict[str, list[SpanSeen]] = defaultdict(list)
        for span in self.spans.values():
            self._children[span.parent].append(span)

    def __str__(self) -> str:
        lines: list[str] = []

        def add(parent: str, depth: int) -> None:
            for span in self._children[parent]:
                lines.append("  " * depth + str(span))
                add(span.id, depth + 1)

        for top in (self._remote, *("" * bool(self._remote),), *{span.parent for span in self.orphans}):
            add(top, 0)
        return "\n".join(lines)

    @property
    def roots(self) -> list[SpanSeen]:
        """The spans without a parent here, but a known one."""
        return self._children[self._remote]

    @property
    def orphans(self) -> list[SpanSeen]:
        """The spans whose parent nobody has got."""
        return [span for span in self.spans.values() if span.parent != self._remote and span.parent not in self.spans]

    def children(self, span: SpanSeen) -> list[SpanSeen]:
        return self._children[span.id]

    def path(self, span: SpanSeen) -> list[SpanSeen]:
        """Return a span's ancestors from the root on, and the span itself."""
        above = self.spans.get(span.parent)
        return [*(self.path(above) if above else []), span]

    def find(self, service: str, name: str, kind: str = "") -> list[SpanSeen]:
        """Return the spans of a service and a name, compared as Zipkin has names: in lower case."""
        return [
            span
            for span in self.spans.values()
            if (span.service, span.name.lower()) == (service, name.lower()) and kind in {"", span.kind}
        ]


def _values(pairs: Iterable[KeyValue]) -> dict[str, Any]:
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value") or "string_value") for pair in pairs}
