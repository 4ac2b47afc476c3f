"""The echo service on `dapr.ext.grpc.App` with the traces, metrics and log that its user adds: `python echo_sdk_observed.py PORT`.

Traces by opentelemetry-instrumentation-grpc, sampled as OpenTelemetry's variables say; every call is counted and timed for
Prometheus; a share of the calls, `LOG_SHARE`, gets a line of JSON by loguru.
"""

import os
import random
import sys
import time
from concurrent import futures

import grpc
from bench.v1 import echo_pb2_grpc
from dapr.ext.grpc import App
from echo_handlers import ThreadedEcho
from loguru import logger
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.instrumentation.grpc import server_interceptor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from prometheus_client import Counter, Gauge, Histogram, start_http_server

LOG_SHARE = float(os.environ["LOG_SHARE"])
LABELS = ("grpc_service", "grpc_method")
STARTED = Counter("grpc_server_started", "Calls that began.", LABELS)
HANDLED = Counter("grpc_server_handled", "Calls that ended.", (*LABELS, "grpc_code"))
SECONDS = Histogram("grpc_server_handling_seconds", "How long calls took.", LABELS)
IN_FLIGHT = Gauge("in_flight", "Calls at work.")


class Observed(grpc.ServerInterceptor):
    """Counts, times and logs unary calls."""

    def intercept_service(self, continuation, handler_call_details):
        handler = continuation(handler_call_details)
        if handler is None or handler.unary_unary is None:
            return handler
        _, service, method = handler_call_details.method.split("/")

        def observed(request, context):
            STARTED.labels(service, method).inc()
            IN_FLIGHT.inc()
            code, began = "OK", time.perf_counter()
            try:
                return handler.unary_unary(request, context)
            except Exception:
                code = "UNKNOWN"
                raise
            finally:
                seconds = time.perf_counter() - began
                IN_FLIGHT.dec()
                SECONDS.labels(service, method).observe(seconds)
                HANDLED.labels(service, method, code).inc()
                if code != "OK" or LOG_SHARE >= 1 or random.random() < LOG_SHARE:
                    ids = trace.get_current_span().get_span_context()
                    logger.bind(
                        method=method,
                        code=code,
                        duration_ms=round(seconds * 1000, 3),
                        trace_id=trace.format_trace_id(ids.trace_id),
                        span_id=trace.format_span_id(ids.span_id),
                    ).info("{}/{} {}", service, method, code)

        return grpc.unary_unary_rpc_method_handler(observed, handler.request_deserializer, handler.response_serializer)


logger.remove()
logger.add(sys.stderr, serialize=True)
provider = TracerProvider()
provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
start_http_server(0, addr="127.0.0.1")
app = App(
    thread_pool=futures.ThreadPoolExecutor(max_workers=10),
    interceptors=(server_interceptor(tracer_provider=provider), Observed()),
)
app.add_external_service(echo_pb2_grpc.add_EchoServiceServicer_to_server, ThreadedEcho())
app.run(int(sys.argv[1]), "127.0.0.1")
