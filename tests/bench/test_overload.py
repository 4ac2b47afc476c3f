"""The rate limit under ten times its load."""

from __future__ import annotations

import pytest

from tests.bench.chain.servers import surroundings
from tests.bench.overload import LIMIT, overload

_MEBIBYTE = 2**20


@pytest.mark.full
@pytest.mark.timeout(200)
@pytest.mark.req("R16.4")
async def test_ten_times_the_limit_for_thirty_seconds_is_taken_at_the_limit_evenly_and_without_growth(tmp_path):
    async with surroundings(tmp_path) as around:
        found = await overload(around, 30.0)

    assert set(found.by_code) == {"OK", "ResourceExhausted"}, found.text()
    assert found.accepted_per_second == pytest.approx(LIMIT, rel=0.05), found.text()
    # The median of calls that are taken stays where it was in the first sixth of the time: nothing queues up.
    assert max(found.latencies) <= 3 * found.latencies[0] + 5, found.text()
    assert found.resident[1] - found.resident[0] <= 3 * _MEBIBYTE, found.text()
