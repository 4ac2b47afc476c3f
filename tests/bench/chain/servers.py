"""The servers that are held side by side, and the collector that their spans go to."""

from __future__ import annotations

import asyncio
import os
import sys
from collections import Counter
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc

from apibase.contract.codegen import generate
from apibase.local.binaries.child import tail
from apibase.local.errors import with_tail
from apibase.local.ports import LOOPBACK, PortPool
from tests.bench.ghz import pinned
from tests.unit.fake_dapr import FakeDapr

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

SERVICE = "bench.v1.EchoService"
TOKEN = "a-token-as-long-as-daprs-own-tokens-are"
HEADERS = {"dapr-caller-app-id": "caller", "dapr-api-token": TOKEN}
"""What a call through two sidecars has at least; all servers get the same."""

_HERE = Path(__file__).parent
_START_SECONDS = 30.0
_STOP_SECONDS = 10.0
_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")
_HIGH = "1000000"  # a limit that is kept, and never reached
_PRODUCTION = {
    "APP_API_TOKEN": TOKEN,
    "OTEL_TRACES_EXPORTER": "otlp",
    "APIBASE_METRICS_PORT": "0",
    "APIBASE_RATE_LIMIT": _HIGH,
    "APIBASE_CONCURRENCY_LIMIT": _HIGH,
}
_SAMPLED = {"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.01"}
_ALWAYS = {"OTEL_TRACES_SAMPLER": "parentbased_always_on"}


@dataclass(frozen=True, slots=True)
class Server:
    """A program of `tests/bench/servers`, the settings that it runs with, and what it is called in tables."""

    title: str
    script: str
    environment: Mapping[str, str] = field(default_factory=dict)


SERVERS = {
    "raw": Server("raw `grpc.aio` + uvloop", "echo_raw.py"),
    "raw-batch": Server("the same, threads in batch", "echo_raw.py", {"GRPC_THREADS": "batch"}),
    "sdk": Server("`dapr.ext.grpc.App`, bare", "echo_sdk.py"),
    "sdk-sampled": Server(
        "`dapr.ext.grpc.App` + metrics, 1 % of spans and lines",
        "echo_sdk_observed.py",
        {**_SAMPLED, "LOG_SHARE": "0.01"},
    ),
    "sdk-everything": Server(
        "`dapr.ext.grpc.App` + metrics, every span and line", "echo_sdk_observed.py", {**_ALWAYS, "LOG_SHARE": "1"}
    ),
    "bare": Server("`apibase.App`, errors only", "echo_apibase.py", {"APIBASE_MIDDLEWARE": "errors"}),
    "observed": Server(
        "`apibase.App`, traces, metrics and log alone",
        "echo_apibase.py",
        {**_PRODUCTION, "APIBASE_MIDDLEWARE": "tracing,metrics,access_log,errors"},
    ),
    "production": Server("`apibase.App`, production settings", "echo_apibase.py", _PRODUCTION),
    "everything": Server(
        "`apibase.App`, every span and line", "echo_apibase.py", {**_PRODUCTION, **_ALWAYS, "APIBASE_ACCESS_LOG": "1"}
    ),
}


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """An OTLP receiver that counts spans, by the name of their service."""

    def __init__(self) -> None:
        self.spans: Counter[str] = Counter()

    async def Export(self, request, context):
        for each in request.resource_spans:
            names = [a.value.string_value for a in each.resource.attributes if a.key == "service.name"]
            self.spans[names[0] if names else ""] += sum(len(scope.spans) for scope in each.scope_spans)
        return trace_service_pb2.ExportTraceServiceResponse()


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What servers find around them: generated code, a sidecar, a collector. `folder` takes their logs."""

    folder: Path
    collector: Collector
    variables: Mapping[str, str]

    @property
    def protoset(self) -> Path:
        """The contract, for the load generator."""
        return self.folder / "generated/descriptors.binpb"


@asynccontextmanager
async def surroundings(folder: Path) -> AsyncIterator[Surroundings]:
    """Generate the code, and run a sidecar that only answers and a collector."""
    generate([_HERE.parent / "protos"], folder / "generated")
    pool = PortPool()
    ports = pool.take(), pool.take()
    pool.release(*ports)
    sidecar, collects = (f"{LOOPBACK}:{port}" for port in ports)
    collector, server = Collector(), grpc.aio.server()
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(collector, server)
    server.add_insecure_port(collects)
    await server.start()
    variables = {
        "PYTHONPATH": str(folder / "generated"),
        "DAPR_GRPC_PORT": str(ports[0]),
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://{collects}",
        "OTEL_EXPORTER_OTLP_INSECURE": "true",
    }
    try:
        async with FakeDapr(sidecar):
            yield Surroundings(folder, collector, variables)
    finally:
        await server.stop(None)
        pool.close()


@dataclass(frozen=True, slots=True)
class Running:
    """A server that answers."""

    address: str
    pid: int

    def cpu_seconds(self) -> float:
        """Return what it has used of all cores, in its own code and in the kernel."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS

    def resident_bytes(self) -> int:
        """Return how much memory it has."""
        return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * _PAGE


@asynccontextmanager
async def running(name: str, around: Surroundings, core: int | None) -> AsyncIterator[Running]:
    """Run a server while it is used, on one core if that is given; its log is kept where it fails."""
    server = SERVERS[name]
    pool = PortPool()
    port = pool.take()
    pool.release(port)
    log = around.folder / f"{name}.log"
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            *(*pinned(core), sys.executable, str(_HERE.parent / "servers" / server.script), str(port)),
            env={**_plain_environment(), **around.variables, "OTEL_SERVICE_NAME": name, **server.environment},
            stdout=output,
            stderr=output,
        )
        try:
            await _answers(f"{LOOPBACK}:{port}", process, log)
            yield Running(f"{LOOPBACK}:{port}", process.pid)
        finally:
            if process.returncode is None:
                process.terminate()
                try:
                    await asyncio.wait_for(process.wait(), _STOP_SECONDS)
                except TimeoutError:
                    process.kill()  # the SDK's app ends at once or never
                    await process.wait()
            pool.close()
    log.unlink()  # megabytes of lines; kept where something went wrong


async def _answers(address: str, process: asyncio.subprocess.Process, log: Path) -> None:
    async with grpc.aio.insecure_channel(address) as channel:
        echo = channel.unary_unary(f"/{SERVICE}/Echo")
        request = b"\x0a\x01x"
        calling = asyncio.ensure_future(
            echo(request, metadata=tuple(HEADERS.items()), wait_for_ready=True, timeout=_START_SECONDS)
        )
        ended = asyncio.ensure_future(process.wait())
        await asyncio.wait({calling, ended}, return_when=asyncio.FIRST_COMPLETED)
        ended.cancel()
        if not calling.done():
            calling.cancel()
            raise RuntimeError(with_tail(f"the server ended with {process.returncode}", log, tail(log)))
        await calling


def _plain_environment() -> dict[str, str]:
    """Return this process's environment without settings, of whichever layer."""
    prefixes = ("APIBASE_", "APP_", "DAPR_", "OTEL_")
    return {key: value for key, value in os.environ.items() if not key.startswith(prefixes)}
