"""Which calls get a span, what the spans say of who made them, where they go, and what becomes of them at the end."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, ParentBased, TraceIdRatioBased
from opentelemetry.trace import SpanKind

from apibase import Settings
from apibase.observability import tracing
from apibase.observability.context import extract
from apibase.observability.tracing import Tracer, configure_tracing, current_tracer
from tests.telemetry.otlp import arrived, receiving_grpc, receiving_http
from tests.telemetry.spans import SpanSeen
from tests.unit.conftest import Log
from tests.unit.traced import Recorded, forget_provider

TRACE, CALLER = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@pytest.fixture(autouse=True)
def _no_provider(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody has set anything up."""
    forget_provider(monkeypatch)
    for name in ("OTEL_SDK_DISABLED", "OTEL_RESOURCE_ATTRIBUTES", "OTEL_SERVICE_NAME"):
        monkeypatch.delenv(name, raising=False)


def begun(tracer: Tracer, flags: str | None = None, name: str = "call") -> trace.Span:
    """Begin the span of a call whose caller sends these flags, or of a root."""
    parent, context = extract({"traceparent": f"00-{TRACE}-{CALLER}-{flags}"} if flags else {})
    return tracer.begin(name, SpanKind.SERVER, parent, context, {})


def configured(**settings: Any) -> Tracer:
    tracer = configure_tracing(Settings(app_id="desk", **settings))
    assert tracer is not None
    return tracer


def test_without_an_exporter_there_is_no_tracer(monkeypatch: pytest.MonkeyPatch) -> None:
    assert configure_tracing(Settings()) is None
    assert configure_tracing(Settings(traces_exporter="none")) is None
    monkeypatch.setenv("OTEL_SDK_DISABLED", "True")
    assert configure_tracing(Settings(traces_exporter="otlp")) is None


@pytest.mark.req("R10.1")
@pytest.mark.parametrize(
    ("sampler", "ratio", "of_root", "of_sampled", "of_unsampled"),
    [
        ("parentbased_always_on", 0.0, True, True, False),
        ("parentbased_always_off", 1.0, False, True, False),
        ("parentbased_traceidratio", 1.0, True, True, False),
        ("parentbased_traceidratio", 0.0, False, True, False),
        ("always_on", 0.0, True, True, True),
        ("always_off", 1.0, False, False, False),
        ("traceidratio", 0.0, False, False, False),
    ],
)
def test_the_caller_decides_where_the_sampler_is_based_on_the_parent_and_the_sampler_decides_on_roots(
    sampler: Any, ratio: float, of_root: bool, of_sampled: bool, of_unsampled: bool
) -> None:
    tracer = configured(traces_exporter="otlp", traces_sampler=sampler, traces_sampler_ratio=ratio)

    assert begun(tracer).is_recording() == of_root
    assert begun(tracer, "01").is_recording() == of_sampled
    assert begun(tracer, "00").is_recording() == of_unsampled

    tracer.provider.shutdown()


@pytest.mark.req("R10.1")
def test_the_share_of_the_roots_that_are_sampled_is_the_ratio_and_one_decision_holds_for_id_and_flag(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sampler = ParentBased(TraceIdRatioBased(0.25))
    recorded = Recorded(monkeypatch, sampler)

    spans = [begun(recorded.tracer) for _ in range(4000)]

    sampled = [span for span in spans if span.is_recording()]
    assert 850 < len(sampled) < 1150
    for span in spans:
        ids = span.get_span_context()
        assert ids.is_valid
        assert ids.trace_flags.sampled == span.is_recording()
        assert sampler.should_sample(None, ids.trace_id, "call").decision.is_sampled() == span.is_recording()
    assert len({span.get_span_context().trace_id for span in spans}) == 4000


def test_what_is_not_sampled_goes_by_the_ids_of_its_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    span = begun(Recorded(monkeypatch).tracer, "00").get_span_context()

    assert (trace.format_trace_id(span.trace_id), trace.format_span_id(span.span_id)) == (TRACE, CALLER)
    assert not span.trace_flags.sampled


def test_a_roots_trace_id_is_never_left_for_the_next_span_of_the_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    recorded = Recorded(monkeypatch)

    first = begun(recorded.tracer).get_span_context()
    second = current_tracer().start_span("the handler's own", trace.context_api.Context()).get_span_context()

    assert first.trace_id != second.trace_id


class Counting(TraceIdRatioBased):
    """A sampler that may keep count."""

    asked = 0

    def should_sample(self, *arguments: Any, **named: Any) -> Any:
        self.asked += 1
        return super().should_sample(*arguments, **named)


def test_somebody_elses_provider_is_used_as_it_is_and_is_not_ended() -> None:
    sampler, exporter = Counting(1.0), InMemorySpanExporter()
    provider = TracerProvider(sampler=sampler, shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)

    tracer = configured()
    begun(tracer, name="first").end()
    begun(tracer, "01", name="second").end()
    tracer.flush()
    current_tracer().start_span("after").end()

    assert tracer.provider is provider
    assert [span.name for span in exporter.get_finished_spans()] == ["first", "second", "after"]
    assert sampler.asked == 3


@pytest.mark.parametrize(
    ("variables", "settings", "name", "zone"),
    [
        ({}, {}, "desk", None),
        ({}, {"otel_service_name": "front-desk"}, "front-desk", None),
        ({"OTEL_RESOURCE_ATTRIBUTES": "zone=a"}, {}, "desk", "a"),
        ({"OTEL_RESOURCE_ATTRIBUTES": "service.name=named,zone=a"}, {}, "named", "a"),
        ({"OTEL_RESOURCE_ATTRIBUTES": "service.name=named"}, {"otel_service_name": "front-desk"}, "front-desk", None),
    ],
)
def test_spans_say_whose_they_are(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], settings: Any, name: str, zone: str | None
) -> None:
    for variable, value in variables.items():
        monkeypatch.setenv(variable, value)

    tracer = configured(traces_exporter="otlp", **settings)
    attributes = tracer.provider.resource.attributes
    tracer.provider.shutdown()

    assert (attributes["service.name"], attributes.get("zone")) == (name, zone)
    assert attributes["service.instance.id"]


@contextmanager
def zipkin() -> Iterator[tuple[str, list[SpanSeen]]]:
    """Receive what Zipkin's collector would, in a thread."""
    spans: list[SpanSeen] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            spans.extend(SpanSeen.of_zipkin(span) for span in body)
            self.send_response(202)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/api/v2/spans", spans
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.req("R10.2")
async def test_spans_go_to_otlp_by_grpc(monkeypatch: pytest.MonkeyPatch) -> None:
    async with receiving_grpc() as received:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://{received.address}")
        tracer = configured(traces_exporter="otlp")
        begun(tracer, "01").end()
        await asyncio.to_thread(tracer.flush)

    (span,) = received.spans
    assert (span.service, span.name, span.trace, span.parent) == ("desk", "call", TRACE, CALLER)


@pytest.mark.req("R10.2")
def test_spans_go_to_otlp_by_http_and_to_zipkin_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with receiving_http() as received, zipkin() as (endpoint, spans):
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://{received.address}")
        monkeypatch.setenv("OTEL_EXPORTER_ZIPKIN_ENDPOINT", endpoint)
        tracer = configured(traces_exporter="otlp, zipkin", otlp_protocol="http/protobuf")
        begun(tracer, "01").end()
        tracer.flush()

    for span in (*received.spans, *spans):
        assert (span.service, span.name, span.trace, span.parent) == ("desk", "call", TRACE, CALLER)
    assert (len(received.spans), len(spans)) == (1, 1)


async def test_a_collector_that_is_away_delays_the_end_by_a_bounded_time_and_keeps_nothing_from_another(
    monkeypatch: pytest.MonkeyPatch, log: Log
) -> None:
    monkeypatch.setattr(tracing, "_FLUSH_SECONDS", 0.5)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    with zipkin() as (endpoint, spans):
        monkeypatch.setenv("OTEL_EXPORTER_ZIPKIN_ENDPOINT", endpoint)
        tracer = configured(traces_exporter="otlp,zipkin")
        begun(tracer, "01").end()
        started = time.monotonic()
        await asyncio.to_thread(tracer.flush)
        assert time.monotonic() - started < 3
        await arrived(lambda: spans, within=2, what="the other exporter's span")

    assert log.of(level="WARNING", logger="apibase.observability.tracing")


def test_spans_that_end_after_the_flush_are_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    with receiving_http() as received:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://{received.address}")
        tracer = configured(traces_exporter="otlp", otlp_protocol="http/protobuf")
        late = begun(tracer, "01")
        tracer.flush()
        late.end()

    assert received.spans == []


def test_the_samplers_of_the_sdk_are_those_that_the_settings_name() -> None:
    def description(**settings: Any) -> str:
        return tracing._sampler(Settings(**settings)).get_description()

    assert description() == ParentBased(TraceIdRatioBased(0.01)).get_description()
    assert description(traces_sampler="always_on") == ALWAYS_ON.get_description()
    assert description(traces_sampler="parentbased_always_off") == ParentBased(ALWAYS_OFF).get_description()
    assert "0.5" in description(traces_sampler="traceidratio", traces_sampler_ratio=0.5)
