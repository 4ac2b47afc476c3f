"""Handlers that wait, as those do that call a database or another service: `dapr.ext.grpc.App` and `apibase.App` in turn.

Each of 64 callers calls a method that waits 20 ms, over one connection to the app's port, as daprd would; rounds alternate
between the two, so that a busy machine slows both. `python -m tests.bench.waiting_handlers` writes docs/benchmarks/.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import statistics
import sys
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
from dapr.proto import common_v1
from dapr.proto.runtime.v1 import appcallback_pb2, appcallback_pb2_grpc
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet

from apibase.local.ports import LOOPBACK, PortPool
from tests.bench.ghz import Load, ghz, load

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from google.protobuf.descriptor import FileDescriptor

SERVERS = {"dapr.ext.grpc.App": "threaded.py", "apibase.App": "asynchronous.py"}
CALLERS = 64
RESULTS = Path(__file__).parents[2] / "docs/benchmarks"

_METHOD = "dapr.proto.runtime.v1.AppCallback/OnInvoke"
_REQUEST = common_v1.InvokeRequest(method="wait", content_type="text/plain")
_START_SECONDS = 20.0


@dataclass(frozen=True)
class Result:
    """Calls per second of each round, by server."""

    rounds: dict[str, list[Load]]

    def median(self, server: str) -> float:
        """Return the median of a server's rounds, in calls per second."""
        return statistics.median(each.per_second for each in self.rounds[server])

    @property
    def ratio(self) -> float:
        """How many times as many calls the asyncio app answers: the median of the ratios of neighbouring rounds."""
        threaded, asynchronous = (self.rounds[server] for server in SERVERS)
        return statistics.median(b.per_second / a.per_second for a, b in zip(threaded, asynchronous, strict=True))

    @property
    def failed(self) -> int:
        """How many calls of all did not end OK."""
        return sum(each.failed for rounds in self.rounds.values() for each in rounds)

    def table(self) -> str:
        """Return the rounds as a table in Markdown."""
        rows = [
            f"| `{server}` | {self.median(server):,.0f} | {min(r.per_second for r in rounds):,.0f} to "
            f"{max(r.per_second for r in rounds):,.0f} | {statistics.median(r.p50 for r in rounds):.1f} | "
            f"{statistics.median(r.p99 for r in rounds):.1f} |"
            for server, rounds in self.rounds.items()
        ]
        return "\n".join(
            ["| app | calls/s, median | spread | p50 ms | p99 ms |", "| --- | --- | --- | --- | --- |", *rows]
        )


async def measure(rounds: int, seconds: float, folder: Path) -> Result:
    """Start both apps, load them in turn, and end them."""
    ghz()
    protoset = folder / "callback.binpb"
    protoset.write_bytes(FileDescriptorSet(file=_with_imports(appcallback_pb2.DESCRIPTOR)).SerializeToString())
    request = _REQUEST.SerializeToString()
    result: dict[str, list[Load]] = {server: [] for server in SERVERS}
    async with AsyncExitStack() as stack:
        addresses = {
            server: await stack.enter_async_context(_running(file, folder)) for server, file in SERVERS.items()
        }
        for number in range(-1, rounds):
            for server, address in addresses.items():
                length = 1.0 if number < 0 else seconds  # the first warms both up
                found = await load(address, _METHOD, request, protoset=protoset, callers=CALLERS, seconds=length)
                if number >= 0:
                    result[server].append(found)
                    sys.stderr.write(f"round {number + 1} of {rounds}: {server} {found.per_second:,.0f} calls/s\n")
    return Result(result)


@asynccontextmanager
async def _running(file: str, folder: Path) -> AsyncIterator[str]:
    """Run a server while it is used, with the settings as shipped; there is no sidecar, which its port does not wait for."""
    pool = PortPool()
    port, nobody = pool.take(), pool.take()
    pool.release(port)
    # The chassis listens before it waits for its sidecar, and waits longer than a benchmark takes.
    environment = {**os.environ, "APIBASE_SIDECAR_TIMEOUT": "3600", "DAPR_GRPC_PORT": str(nobody)}
    script = Path(__file__).parent / "servers" / file
    with (folder / f"{file}.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            sys.executable, script, str(port), env=environment, stdout=log, stderr=log
        )
        try:
            await _answers(f"{LOOPBACK}:{port}")
            yield f"{LOOPBACK}:{port}"
        finally:
            process.terminate()
            try:
                await asyncio.wait_for(process.wait(), 5)
            except TimeoutError:
                process.kill()  # the SDK's app ends at once or never
                await process.wait()
            pool.close()


async def _answers(address: str) -> None:
    async with grpc.aio.insecure_channel(address) as channel:
        stub = appcallback_pb2_grpc.AppCallbackStub(channel)
        await stub.OnInvoke(_REQUEST, wait_for_ready=True, timeout=_START_SECONDS)


def _with_imports(file: FileDescriptor) -> list[FileDescriptorProto]:
    found: dict[str, FileDescriptorProto] = {}

    def add(each: FileDescriptor) -> None:
        for dependency in each.dependencies:
            add(dependency)
        if each.name not in found:
            found[each.name] = FileDescriptorProto()
            each.CopyToProto(found[each.name])

    add(file)
    return list(found.values())


def main() -> None:
    """Measure and write the result down."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=10.0)
    arguments = parser.parse_args()
    RESULTS.mkdir(parents=True, exist_ok=True)
    folder = RESULTS.parents[1] / ".apibase/bench"
    folder.mkdir(parents=True, exist_ok=True)
    result = asyncio.run(measure(arguments.rounds, arguments.seconds, folder))
    machine = f"{os.cpu_count()} cores, {platform.machine()}, {platform.system()}, Python {platform.python_version()}"
    packages = {name: version(name) for name in ("grpcio", "dapr", "uvloop", "protobuf")}
    now = datetime.now(UTC).date().isoformat()
    facts = {"date": now, "machine": machine, "packages": packages, "callers": CALLERS, **vars(arguments)}
    rounds = {server: [asdict(each) for each in each_round] for server, each_round in result.rounds.items()}
    (RESULTS / "waiting-handlers.json").write_text(
        json.dumps({**facts, "ratio": round(result.ratio, 2), "failed": result.failed, "rounds": rounds}, indent=2)
        + "\n"
    )
    text = (
        "# Handlers that wait\n\n"
        f"{__doc__ and ' '.join(__doc__.split('`python')[0].split())}\n\n"
        f"{now}; {machine}; load on the same machine by ghz; {arguments.rounds} interleaved rounds of {arguments.seconds:.0f} s; "
        f"{', '.join(f'{name} {number}' for name, number in packages.items())}; both apps as they come.\n\n"
        f"{result.table()}\n\nRatio, median of neighbouring rounds: **{result.ratio:.2f}**. Calls that did not end OK: {result.failed}.\n\n"
        "The SDK's app has ten threads, so with such handlers it can't answer more than 500 calls a second; `make bench` "
        "measures again.\n"
    )
    (RESULTS / "waiting-handlers.md").write_text(text)
    sys.stdout.write(text)


if __name__ == "__main__":
    main()
