"""The process' provider of spans, replaced for a test: none, or one that keeps what it gets."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, ParentBased, Sampler
from opentelemetry.util._once import Once

from apibase.observability.tracing import Tracer, _PinnedIds


def forget_provider(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the process be one in which nobody has set a provider yet, until the test ends."""
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", None)
    monkeypatch.setattr(trace, "_TRACER_PROVIDER_SET_ONCE", Once())


class Recorded:
    """A tracer that is the process', and its finished spans in the order in which they ended."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, sampler: Sampler | None = None) -> None:
        ids = _PinnedIds()
        provider = TracerProvider(
            sampler=sampler or ParentBased(ALWAYS_ON), id_generator=ids, shutdown_on_exit=False
        )  # fmt: skip
        self._exporter = InMemorySpanExporter()
        provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        forget_provider(monkeypatch)
        trace.set_tracer_provider(provider)
        self.tracer = Tracer(provider, ids)

    @property
    def spans(self) -> Sequence[ReadableSpan]:
        return self._exporter.get_finished_spans()

    def one(self) -> ReadableSpan:
        assert len(self.spans) == 1, [span.name for span in self.spans]
        return self.spans[0]
