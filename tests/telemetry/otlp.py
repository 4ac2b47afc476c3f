"""Receivers of OTLP in this process: by gRPC, and by HTTP."""

from __future__ import annotations

import asyncio
import gzip
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc

from tests.telemetry.spans import SpanSeen, SpanTree

Request = trace_service_pb2.ExportTraceServiceRequest
Response = trace_service_pb2.ExportTraceServiceResponse


@dataclass
class Received:
    """What a receiver at `address` (`host:port`) has got so far."""

    address: str
    spans: list[SpanSeen] = field(default_factory=list)

    def tree(self, trace_id: str, remote: str = "") -> SpanTree:
        """Return the tree of a trace, as far as it has arrived."""
        return SpanTree((span for span in self.spans if span.trace == trace_id), remote)


class _Servicer(trace_service_pb2_grpc.TraceServiceServicer):
    def __init__(self, take: Callable[[Request], None]) -> None:
        self._take = take

    async def Export(self, request: Request, context: grpc.aio.ServicerContext[Any, Any]) -> Response:
        self._take(request)
        return Response()


@asynccontextmanager
async def receiving_grpc() -> AsyncIterator[Received]:
    """Receive by gRPC, on the running loop."""
    server = grpc.aio.server()
    received = Received(f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}")
    servicer = _Servicer(lambda request: received.spans.extend(SpanSeen.of_otlp(request)))
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(servicer, server)
    await server.start()
    try:
        yield received
    finally:
        await server.stop(None)


@contextmanager
def receiving_http() -> Iterator[Received]:
    """Receive protobuf by HTTP, in a thread."""
    received = Received("")

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            if self.headers.get("content-encoding") == "gzip":
                body = gzip.decompress(body)
            assert (self.path, self.headers["content-type"]) == ("/v1/traces", "application/x-protobuf")
            received.spans.extend(SpanSeen.of_otlp(Request.FromString(body)))
            self.send_response(200)
            self.send_header("content-type", "application/x-protobuf")
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    received.address = f"127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield received
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


async def arrived(probe: Callable[[], Any], *, within: float, what: str) -> Any:
    """Ask again until the probe returns something true; fail after `within` seconds."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + within
    while not (found := probe()):
        if loop.time() > deadline:
            raise AssertionError(f"{what}: not within {within:.0f} s")
        await asyncio.sleep(0.02)
    return found
