"""The benchmark of the chain, short."""

from __future__ import annotations

import pytest

from tests.bench.chain import memory
from tests.bench.chain.report import table
from tests.bench.chain.rounds import CELLS, measure
from tests.bench.chain.servers import surroundings

ROUNDS = 7
SECONDS = 2.0
SHORT_CALLS = 100_000
MOST_BYTES_PER_CALL = (
    16  # what a list entry and a number take; the allocator's own changes of mind are less, over so many calls
)

pytestmark = [pytest.mark.full, pytest.mark.timeout(400)]


async def held_against_raw(folder, cell, *servers):
    async with surroundings(folder) as around:
        result = await measure(CELLS[cell], around, rounds=ROUNDS, seconds=SECONDS, seed=1, servers=("raw", *servers))
    assert result.failed == 0
    return result


async def test_a_call_costs_little_at_production_settings_and_when_each_has_a_span_and_a_line(tmp_path):
    result = await held_against_raw(tmp_path, "one-core", "production", "everything")

    assert result.ratio("production", "raw").median >= 0.85, f"\n{table(result)}"
    assert result.ratio("everything", "raw").median >= 0.55, f"\n{table(result)}"
    assert result.spans["everything"] > 0.95, "spans were lost on their way, or not made"
    assert 0.001 < result.spans["production"] < 0.03


@pytest.mark.parametrize("cell", ["answers-stream", "both-stream"])
async def test_a_message_of_a_stream_costs_next_to_nothing_at_production_settings(cell, tmp_path):
    result = await held_against_raw(tmp_path, cell, "production")

    assert result.ratio("production", "raw").median >= 0.90, f"\n{table(result)}"


async def test_memory_stays_level_over_a_hundred_thousand_calls(tmp_path):
    async with surroundings(tmp_path) as around:
        found = await memory.watch(around, SHORT_CALLS)

    assert found.failed == 0
    assert found.bytes_per_call <= MOST_BYTES_PER_CALL, f"\n{found.table()}"
