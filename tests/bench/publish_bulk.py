"""Publishing 100 events in one call against publishing each and waiting for it, through the real daprd on Redis.

`python -m tests.bench.publish_bulk` prints it; the test is `tests/bench/test_publish_bulk.py`. Rounds of both take turns, so that what else the
machine does hits them alike; the ratio is the median of the rounds' ratios.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from apibase import Publication, PubSubPublisher
from tests.contract.sides import real

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

EVENTS = 100
_TOPIC = "bench.bulk"
_DATA = {"order_id": "4711", "customer_id": "ann", "lines": [{"sku": "MUG-RED", "quantity": 2}]}


@dataclass(frozen=True)
class Round:
    """Events that were published in a second, each way, one after the other."""

    bulk: float
    one_by_one: float


@dataclass(frozen=True)
class Report:
    """All rounds."""

    rounds: tuple[Round, ...]

    @property
    def ratio(self) -> float:
        """How many times as many events were published in bulk: the median of the rounds."""
        return statistics.median(each.bulk / each.one_by_one for each in self.rounds)

    def text(self) -> str:
        """Return it in a few lines."""
        bulk = statistics.median(each.bulk for each in self.rounds)
        single = statistics.median(each.one_by_one for each in self.rounds)
        ratios = ", ".join(f"{each.bulk / each.one_by_one:.1f}" for each in self.rounds)
        return (
            f"{EVENTS} events, {len(self.rounds)} interleaved rounds, Redis through daprd:\n"
            f"publish_bulk {bulk:,.0f}/s, publish one by one {single:,.0f}/s: {self.ratio:.1f} times (rounds: {ratios})"
        )


async def measure(series: str, rounds: int, folder: Path) -> Report:
    """Publish both ways in turn."""
    async with real(series, folder) as side:
        publisher = PubSubPublisher(side.sidecar)

        async def bulk() -> None:
            result = await publisher.publish_bulk([_event()] * EVENTS)
            result.raise_for_failed()

        async def one_by_one() -> None:
            for _ in range(EVENTS):
                await publisher.publish(_event())

        for way in (bulk, one_by_one):  # connections, and the component's first call
            await way()
        # About as long each, for what else the machine does hits what is short harder.
        found = [Round(await _rate(bulk, 24), await _rate(one_by_one, 3)) for _ in range(rounds)]
    return Report(tuple(found))


def _event() -> Publication:
    return Publication(_DATA, pubsub_name="events", topic=_TOPIC)


async def _rate(way: Callable[[], Awaitable[None]], times: int) -> float:
    """Return the events in a second, of so many times in a row."""
    began = time.perf_counter()
    for _ in range(times):
        await way()
    return times * EVENTS / (time.perf_counter() - began)


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="publish_bulk against publish, on Redis")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--dapr", default="1.18")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print(asyncio.run(measure(given.dapr, given.rounds, Path(folder))).text())  # noqa: T201 - what it is for
    return 0


if __name__ == "__main__":
    sys.exit(main())
