"""Spans: OpenTelemetry's SDK, set up by its own variables, asked for a span only where a call is sampled.

A service is called far more often than it is sampled. So whether a call is sampled is decided before there is a span, by the
sampler of the SDK's provider; the others get the ids that go on and into the log, and nothing else is made for them.
"""

from __future__ import annotations

import os
import random
import socket
import threading
from typing import TYPE_CHECKING

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.sdk.resources import SERVICE_INSTANCE_ID, SERVICE_NAME, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.id_generator import IdGenerator, RandomIdGenerator
from opentelemetry.sdk.trace.sampling import (
    ALWAYS_OFF,
    ALWAYS_ON,
    Decision,
    ParentBased,
    Sampler,
    TraceIdRatioBased,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.trace import Link, Span, SpanContext, SpanKind
    from opentelemetry.util.types import AttributeValue

    from apibase.settings import Settings

_NAME = "apibase"


class Tracer:
    """Spans of calls, from one SDK provider.

    Raises nothing: a call is never worse off for being traced.
    """

    def __init__(self, provider: TracerProvider, ids: _PinnedIds | None) -> None:
        self.provider = provider
        self._ids = ids
        self._tracer = provider.get_tracer(_NAME)
        self._sampler: Sampler = provider.sampler

    def begin(
        self,
        name: str,
        kind: SpanKind,
        parent: SpanContext | None,
        context: otel_context.Context,
        attributes: Mapping[str, AttributeValue],
        links: Sequence[Link] = (),
    ) -> Span:
        """Return a span: a recording one where the sampler says so, otherwise one that has ids only.

        `parent` is what the call came with, which `context` holds too, or None for a root.
        """
        trace_id = parent.trace_id if parent is not None else random.getrandbits(128) or 1
        result = self._sampler.should_sample(context, trace_id, name, kind, attributes, links)
        if result.decision is Decision.DROP:
            return trace.NonRecordingSpan(unsampled(parent, trace_id))
        if parent is None and self._ids is not None:
            self._ids.pin(trace_id)
        return self._tracer.start_span(name, context, kind, attributes, links, record_exception=False)

    def flush(self) -> None:
        """Export what waits to be exported, in a few seconds at most, and end."""
        self.provider.force_flush(5000)
        self.provider.shutdown()


def unsampled(parent: SpanContext | None, trace_id: int) -> SpanContext:
    """Return the ids of a call that is not sampled: those of its caller, or new ones."""
    if parent is not None:
        return parent
    return trace.SpanContext(trace_id, random.getrandbits(64) or 1, is_remote=False)


class _PinnedIds(IdGenerator):
    """Gives the next root of this thread the trace id that its sampling was decided by."""

    def __init__(self) -> None:
        self._random = RandomIdGenerator()
        self._next = threading.local()

    def pin(self, trace_id: int) -> None:
        self._next.trace_id = trace_id

    def generate_trace_id(self) -> int:
        pinned: int | None = self._next.__dict__.pop("trace_id", None)
        return pinned or self._random.generate_trace_id()

    def generate_span_id(self) -> int:
        return self._random.generate_span_id()


def configure_tracing(settings: Settings) -> Tracer | None:
    """Make a tracer as the settings say; None where no exporter is named, nor a provider was set by somebody else.

    A provider that the process has already (`opentelemetry-instrument`, a test) is used as it is.
    """
    there = trace.get_tracer_provider()
    if isinstance(there, TracerProvider):
        return Tracer(there, there.id_generator if isinstance(there.id_generator, _PinnedIds) else None)
    exporters = [_exporter(name, settings) for name in settings.traces_exporters]
    if not exporters:
        return None
    ids = _PinnedIds()
    resource = Resource.create(
        {
            SERVICE_NAME: settings.otel_service_name or settings.app_id,
            SERVICE_INSTANCE_ID: f"{socket.gethostname()}-{os.getpid()}",
        }
    )
    provider = TracerProvider(sampler=_sampler(settings), resource=resource, id_generator=ids, shutdown_on_exit=False)
    for exporter in exporters:
        provider.add_span_processor(BatchSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    return Tracer(provider, ids)


def _exporter(name: str, settings: Settings) -> SpanExporter:
    """Return an exporter; its endpoint and the like are in OpenTelemetry's own variables, which it reads itself."""
    # Each is loaded where it is named: they take longer to load than all of the rest.
    if name == "zipkin":
        from opentelemetry.exporter.zipkin.json import ZipkinExporter  # noqa: PLC0415

        return ZipkinExporter()
    if settings.otlp_protocol == "grpc":
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as Grpc  # noqa: PLC0415

        return Grpc()
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as Http  # noqa: PLC0415

    return Http()


def _sampler(settings: Settings) -> Sampler:
    name, ratio = settings.traces_sampler, settings.traces_sampler_ratio
    root: Sampler = {"always_on": ALWAYS_ON, "always_off": ALWAYS_OFF}.get(
        name.removeprefix("parentbased_"), TraceIdRatioBased(ratio)
    )
    return ParentBased(root) if name.startswith("parentbased_") else root
