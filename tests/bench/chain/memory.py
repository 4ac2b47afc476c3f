"""A million calls at production settings: the memory that the server has while they come."""

from __future__ import annotations

import statistics
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.bench.chain.rounds import LOAD_CORE, REQUEST, SERVER_CORE
from tests.bench.chain.servers import HEADERS, SERVICE, running
from tests.bench.ghz import ghz, load

if TYPE_CHECKING:
    from tests.bench.chain.servers import Surroundings

SAMPLES = 20
_CALLERS = 32
_MEGABYTE = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Sample:
    """How many calls had ended, and how much memory the server had, in bytes."""

    calls: int
    resident: int


@dataclass(frozen=True, slots=True)
class Memory:
    """The samples in their order: the first before any call."""

    samples: tuple[Sample, ...]
    failed: int

    @property
    def growth(self) -> float:
        """By how many bytes the last quarter of the samples is above the second; what a server fills first is in the first."""
        resident = [each.resident for each in self.samples[1:]]
        quarter = max(len(resident) // 4, 1)
        return statistics.median(resident[-quarter:]) - statistics.median(resident[quarter : 2 * quarter])

    @property
    def bytes_per_call(self) -> float:
        """The growth for each call that lies between those quarters."""
        return self.growth / (self.samples[-1].calls / 2)

    def table(self) -> str:
        """Return the samples as a table in Markdown."""
        rows = [f"| {each.calls:,} | {each.resident / _MEGABYTE:.1f} |" for each in self.samples]
        return "\n".join(["| calls | MiB |", "| ---: | ---: |", *rows])


async def watch(around: Surroundings, calls: int, server: str = "production") -> Memory:
    """Call a server so often, and look at its memory in between, while nobody calls."""
    ghz()
    each = calls // SAMPLES
    failed = 0
    async with running(server, around, SERVER_CORE) as process:
        samples = [Sample(0, process.resident_bytes())]
        for number in range(1, SAMPLES + 1):
            seen = await load(
                process.address,
                f"{SERVICE}/Echo",
                REQUEST,
                protoset=around.protoset,
                callers=_CALLERS,
                calls=each,
                headers=HEADERS,
                core=LOAD_CORE,
            )
            failed += seen.failed
            samples.append(Sample(number * each, process.resident_bytes()))
            sys.stderr.write(f"{samples[-1].calls:,} calls: {samples[-1].resident / _MEGABYTE:.1f} MiB\n")
    return Memory(tuple(samples), failed)
