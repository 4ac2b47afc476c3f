"""The benchmark of waiting handlers, short."""

from __future__ import annotations

import pytest

from tests.bench.waiting_handlers import measure

LEAST_RATIO = 5.5


@pytest.mark.full
async def test_handlers_that_wait_are_answered_five_and_a_half_times_as_often_as_by_the_sdks_threads(tmp_path):
    result = await measure(rounds=5, seconds=4, folder=tmp_path)

    assert result.failed == 0
    assert result.ratio >= LEAST_RATIO, f"\n{result.table()}\nratio {result.ratio:.2f}"
