"""Ten times as many calls as the rate limit takes: how many are taken, how fast, and what it costs in memory.

`python -m tests.bench.overload` prints it; the test is `tests/bench/test_overload.py`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from tests.bench.chain.rounds import REQUEST
from tests.bench.chain.servers import HEADERS, SERVERS, SERVICE, running, surroundings
from tests.bench.ghz import ghz

if TYPE_CHECKING:
    from tests.bench.chain.servers import Surroundings

LIMIT = 100
TIMES = 10
_CALLERS = 32
_SLICES = 6


@dataclass(frozen=True)
class Overload:
    """What became of the calls; latencies in milliseconds of those that were taken, a median for each part of the time."""

    seconds: float
    by_code: Counter[str]
    latencies: tuple[float, ...]
    resident: tuple[int, ...]

    @property
    def accepted_per_second(self) -> float:
        """How many were taken in a second; what warms the server up has used the burst."""
        return self.by_code["OK"] / self.seconds

    def text(self) -> str:
        """Return it in a few lines."""
        medians = ", ".join(f"{each:.1f}" for each in self.latencies)
        memory = ", ".join(f"{each / 2**20:.1f}" for each in self.resident)
        return (
            f"{self.seconds:.1f} s, limit {LIMIT}/s, offered {sum(self.by_code.values()) / self.seconds:,.0f}/s: "
            f"{self.accepted_per_second:.1f}/s taken; {dict(self.by_code)}\n"
            f"p50 of those taken, by sixths of the time: {medians} ms\nmemory: {memory} MiB"
        )


async def overload(around: Surroundings, seconds: float) -> Overload:
    """Call a server at production settings, with a rate limit, for so long."""
    ghz()
    name = "limited"
    limited = replace(
        SERVERS["production"], environment={**SERVERS["production"].environment, "APIBASE_RATE_LIMIT": str(LIMIT)}
    )
    SERVERS[name] = limited
    try:
        async with running(name, around, None) as process:
            await _load(process.address, around.protoset, 2.0)  # warm
            resident = [process.resident_bytes()]
            calls = await _load(process.address, around.protoset, seconds)
            resident.append(process.resident_bytes())
    finally:
        del SERVERS[name]
    took = max(at for at, _, _ in calls)
    slices: list[list[float]] = [[] for _ in range(_SLICES)]
    for at, code, latency in calls:
        if code == "OK":
            slices[min(int(at / took * _SLICES), _SLICES - 1)].append(latency)
    return Overload(
        took,
        Counter(code for _, code, _ in calls),
        tuple(statistics.median(each) for each in slices),
        tuple(resident),
    )


async def _load(address: str, protoset: Path, seconds: float) -> list[tuple[float, str, float]]:
    """Offer the calls and return each: when it ended in seconds from the start, its status, and its latency in milliseconds."""
    process = await asyncio.create_subprocess_exec(
        ghz(),
        *("--insecure", "--protoset", str(protoset), "--call", f"{SERVICE}/Echo", "--binary"),
        *("--concurrency", str(_CALLERS), "--connections", "1", "--timeout", "20s"),
        *("--rps", str(LIMIT * TIMES), "--duration", f"{seconds}s", "--duration-stop", "wait"),
        *("--metadata", json.dumps(HEADERS), "--format", "json", address),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    printed, errors = await process.communicate(REQUEST)
    if process.returncode:
        raise RuntimeError(f"ghz ended with {process.returncode}: {errors.decode()}")
    report = json.loads(printed)
    details = report["details"]
    first = min(_seconds(each["timestamp"]) for each in details)
    return [
        (_seconds(each["timestamp"]) - first + each["latency"] / 1e9, each["status"], each["latency"] / 1e6)
        for each in details
    ]


def _seconds(stamp: str) -> float:
    """Return a time of Go's, which has nanoseconds, as seconds."""
    whole, _, rest = stamp.partition(".")
    digits = rest.rstrip("Z").split("+")[0].split("-")[0]
    return datetime.fromisoformat(f"{whole}+00:00").timestamp() + float(f"0.{digits or 0}")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=30.0)
    arguments = parser.parse_args()

    async def run() -> Overload:
        with tempfile.TemporaryDirectory() as folder:
            async with surroundings(Path(folder)) as around:
                return await overload(around, arguments.seconds)

    sys.stdout.write(f"{asyncio.run(run()).text()}\n")


if __name__ == "__main__":
    main()
