"""Rounds: in each, every server of a cell is loaded once, in an order drawn anew, so that a busy machine slows all of them."""

from __future__ import annotations

import os
import random
import sys
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.bench.chain.servers import HEADERS, SERVERS, SERVICE, running
from tests.bench.chain.statistic import Ratio, ratio
from tests.bench.ghz import ghz, load

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tests.bench.chain.servers import Running, Surroundings

SERVER_CORE, LOAD_CORE = 0, 1
REQUEST = b"\x0a\x62" + b"x" * 98
"""An `EchoRequest` of 100 bytes."""
_WARM_UP_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Cell:
    """One case: a method, so many callers at once, and where the server and the load run."""

    title: str
    method: str
    callers: int
    one_core: bool
    """Whether the server has one core and the load the other; otherwise both have both."""
    servers: tuple[str, ...] = tuple(SERVERS)
    messages: int = 1
    """How many messages of the stream a call has; each counts as one."""
    streams_in: bool = False


_STREAMING = ("raw", "raw-batch", "bare", "production", "everything")
CELLS = {
    "one-core": Cell("Trivial handler, one core", "Echo", 32, one_core=True),
    "two-cores": Cell("Trivial handler, two cores", "Echo", 32, one_core=False),
    "waiting-one-core": Cell("Handler that waits 20 ms, one core", "EchoLater", 64, one_core=True),
    "waiting-two-cores": Cell("Handler that waits 20 ms, two cores", "EchoLater", 64, one_core=False),
    "answers-stream": Cell(
        "100 answers to a request, one core", "EchoOften", 32, one_core=True, servers=_STREAMING, messages=100
    ),
    "both-stream": Cell(
        "100 requests, each answered, one core",
        "EchoEach",
        32,
        one_core=True,
        servers=_STREAMING,
        messages=100,
        streams_in=True,
    ),
}


@dataclass(frozen=True, slots=True)
class Round:
    """What one server did in one round. Latencies are of calls, in milliseconds; the rest is of messages where they stream."""

    per_second: float
    cpu_microseconds: float
    """What the server's process used of the processor for each."""
    busy: float
    """How much of one core its process used."""
    calls: int
    failed: int
    p50: float
    p99: float


@dataclass(frozen=True, slots=True)
class Result:
    """The rounds of a cell, by server, and the share of the calls of each that a span came of."""

    cell: Cell
    rounds: dict[str, list[Round]]
    spans: dict[str, float]

    def values(self, server: str, field: str = "per_second") -> list[float]:
        """Return one figure of all rounds."""
        return [getattr(each, field) for each in self.rounds[server]]

    def ratio(self, server: str, base: str) -> Ratio:
        """Return how many times as much as `base` a server did in the same round."""
        return ratio(self.values(server), self.values(base))

    @property
    def failed(self) -> int:
        """How many calls did not end OK."""
        return sum(each.failed for rounds in self.rounds.values() for each in rounds)


async def measure(
    cell: Cell, around: Surroundings, *, rounds: int, seconds: float, seed: int, servers: Sequence[str] = ()
) -> Result:
    """Start the servers of a cell, or those of them that are named, load them round by round, and end them.

    Raises `RuntimeError` where a core is wanted that there is not, or a server or the load generator fails.
    """
    if cell.one_core and (os.cpu_count() or 1) < 2:
        raise RuntimeError("two cores are needed: one for the server, one for the load")
    ghz()
    order = [name for name in cell.servers if not servers or name in servers]
    found: dict[str, list[Round]] = {name: [] for name in order}
    drawn = random.Random(seed)
    around.collector.spans.clear()
    calls = dict.fromkeys(order, 0)
    async with AsyncExitStack() as stack:
        if cell.one_core:
            stack.enter_context(_beside_the_load())
        core = SERVER_CORE if cell.one_core else None
        processes = {name: await stack.enter_async_context(running(name, around, core)) for name in order}
        for number in range(-1, rounds):
            for name in drawn.sample(order, len(order)):
                length = min(seconds, _WARM_UP_SECONDS) if number < 0 else seconds
                one = await _one(cell, processes[name], around, length)
                calls[name] += one.calls
                if number >= 0:
                    found[name].append(one)
                    sys.stderr.write(f"{cell.title}, round {number + 1} of {rounds}: {name} {one.per_second:,.0f}/s\n")
    spans = {name: around.collector.spans[name] / calls[name] for name in order}
    return Result(cell, found, spans)


@contextmanager
def _beside_the_load() -> Iterator[None]:
    """Keep the harness itself, with its collector, off the server's core."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {LOAD_CORE})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


async def _one(cell: Cell, server: Running, around: Surroundings, seconds: float) -> Round:
    before = server.cpu_seconds()
    seen = await load(
        server.address,
        f"{SERVICE}/{cell.method}",
        REQUEST,
        protoset=around.protoset,
        callers=cell.callers,
        seconds=seconds,
        messages=cell.messages if cell.streams_in else 0,
        headers=HEADERS,
        core=LOAD_CORE if cell.one_core else None,
    )
    used = server.cpu_seconds() - before
    calls = round(seen.per_second * seen.seconds)
    return Round(
        per_second=seen.per_second * cell.messages,
        cpu_microseconds=used / max(calls * cell.messages, 1) * 1e6,
        busy=used / seen.seconds,
        calls=calls,
        failed=seen.failed,
        p50=seen.p50,
        p99=seen.p99,
    )
