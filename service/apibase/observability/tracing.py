"""Spans: OpenTelemetry's SDK, set up by its own variables, asked for a span only where a call is sampled.

A service is called far more often than it is sampled. So whether a call is sampled is decided before there is a span, by the
sampler of the SDK's provider; the others get the ids that go on and into the log, and nothing else is made for them.
"""

from __future__ import annotations

import os
import random
import socket
import threading
import time
import traceback
from functools import lru_cache
from typing import TYPE_CHECKING

from loguru import logger
from opentelemetry import trace
from opentelemetry.sdk.resources import SERVICE_INSTANCE_ID, SERVICE_NAME, OTELResourceDetector, Resource
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

from apibase.observability.log_secrets import without_secrets

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from opentelemetry.context import Context
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.trace import Link, Span, SpanContext, SpanKind
    from opentelemetry.util.types import AttributeValue

    from apibase.settings import Settings

_NAME = "apibase"
_FLUSH_SECONDS = 5.0


class Tracer:
    """Spans of calls, from one SDK provider.

    Raises nothing: a call is never worse off for being traced.
    """

    def __init__(
        self,
        provider: TracerProvider,
        ids: _PinnedIds | None,
        exports: Sequence[tuple[BatchSpanProcessor, SpanExporter]] = (),
        root_bound: int | None = None,
    ) -> None:
        self.provider = provider
        self.root_bound = root_bound
        """Below which the lower 64 bits of a root's trace id are, if it is sampled, and a caller's decision stands; None: ask `begin`."""
        self._ids = ids
        self._exports = exports
        self._tracer = provider.get_tracer(_NAME)
        self._sampler: Sampler = provider.sampler

    def begin(
        self,
        name: str,
        kind: SpanKind,
        parent: SpanContext | None,
        context: Context,
        attributes: Mapping[str, AttributeValue],
        links: Sequence[Link] = (),
        root_id: int = 0,
    ) -> Span:
        """Return a span: a recording one where the sampler says so, otherwise one that has ids only.

        `parent` is what the call came with, which `context` holds too, or None for a root, whose trace id `root_id` is if given.
        """
        ids = self._ids
        if ids is None:  # Somebody else's: its ids can't be pinned, and its sampler may count how often it is asked.
            return self._tracer.start_span(name, context, kind, attributes, links)
        trace_id = parent.trace_id if parent is not None else root_id or random.getrandbits(128) or 1
        result = self._sampler.should_sample(context, trace_id, name, kind, attributes, links)
        if result.decision is Decision.DROP:
            return trace.NonRecordingSpan(unsampled(parent, trace_id))
        if parent is None:
            ids.pin(trace_id)
        return self._tracer.start_span(name, context, kind, attributes, links)

    def flush(self) -> None:
        """Export what waits to be exported, in 5 s at most, and end; somebody else's provider goes on."""
        # In threads of their own: the SDK's ways to flush take no notice of the time that they are given.
        works: list[Callable[[], object]] = [processor.shutdown for processor, _ in self._exports]
        threads = [threading.Thread(target=work, daemon=True) for work in works or [self.provider.force_flush]]
        for thread in threads:
            thread.start()
        end = time.monotonic() + _FLUSH_SECONDS
        for thread in threads:
            thread.join(max(end - time.monotonic(), 0))
        if any(thread.is_alive() for thread in threads):
            logger.warning("not all spans could be exported within {:.0f} s; the rest is lost", _FLUSH_SECONDS)
            for _, exporter in self._exports:
                exporter.shutdown()  # Or it would go on trying.


def unsampled(parent: SpanContext | None, trace_id: int) -> SpanContext:
    """Return the ids of a call that is not sampled: those of its caller, or new ones."""
    if parent is not None:
        return parent
    return trace.SpanContext(trace_id, random.getrandbits(64) or 1, is_remote=False)


def current_tracer() -> trace.Tracer:
    """Return the tracer for spans within a span that is recorded."""
    return _tracer_of(trace.get_tracer_provider())


@lru_cache(maxsize=1)
def _tracer_of(provider: trace.TracerProvider) -> trace.Tracer:
    return provider.get_tracer(_NAME)


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

    A provider that the process has already (`opentelemetry-instrument`, a test) is used as it is. `OTEL_SDK_DISABLED` wins
    over all of it.
    """
    if os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return None
    there = trace.get_tracer_provider()
    if isinstance(there, TracerProvider):
        return Tracer(there, None)
    exporters = [_exporter(name, settings) for name in settings.traces_exporters]
    if not exporters:
        return None
    ids = _PinnedIds()
    provider = TracerProvider(
        sampler=_sampler(settings), resource=_resource(settings), id_generator=ids, shutdown_on_exit=False
    )
    exports = [(BatchSpanProcessor(exporter), exporter) for exporter in exporters]
    for processor, _ in exports:
        provider.add_span_processor(processor)
    trace.set_tracer_provider(provider)
    return Tracer(provider, ids, exports, _root_bound(settings))


def record_error(span: Span, error: BaseException) -> None:
    """Put an exception on a span, without the secrets that its text and its stack have."""
    stack = "".join(traceback.format_exception(error))
    span.record_exception(
        error,
        {"exception.message": without_secrets(str(error)), "exception.stacktrace": without_secrets(stack)},
    )


def _resource(settings: Settings) -> Resource:
    """Return who makes the spans; what OTEL_RESOURCE_ATTRIBUTES names stands, but for a name that OTEL_SERVICE_NAME gives."""
    own = {SERVICE_NAME: settings.app_id, SERVICE_INSTANCE_ID: f"{socket.gethostname()}-{os.getpid()}"}
    named = {SERVICE_NAME: settings.otel_service_name} if settings.otel_service_name else {}
    return Resource.create({**own, **OTELResourceDetector().detect().attributes, **named})


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


def _root_bound(settings: Settings) -> int | None:
    name = settings.traces_sampler
    if not name.startswith("parentbased_"):
        return None
    ratio = {"parentbased_always_on": 1.0, "parentbased_always_off": 0.0}.get(name, settings.traces_sampler_ratio)
    return TraceIdRatioBased.get_bound_for_rate(ratio)


def _sampler(settings: Settings) -> Sampler:
    name, ratio = settings.traces_sampler, settings.traces_sampler_ratio
    root: Sampler = {"always_on": ALWAYS_ON, "always_off": ALWAYS_OFF}.get(
        name.removeprefix("parentbased_"), TraceIdRatioBased(ratio)
    )
    return ParentBased(root) if name.startswith("parentbased_") else root
