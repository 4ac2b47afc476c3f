"""The benchmark of `StateManager.get`, short."""

from __future__ import annotations

import pytest

from tests.bench.state_get import BYTES, measure
from tests.contract.sides import real

MOST_RATIO = 1.25


@pytest.mark.full
@pytest.mark.req("R4.2")
async def test_a_get_takes_at_most_a_quarter_longer_than_the_generated_stub(tmp_path):
    async with real("1.18", tmp_path) as side:
        result = await measure(side, "postgres", calls=800, rounds=3)

    # Of bytes, as the stub returns them; a message is decoded besides.
    assert result.ratio(BYTES) <= MOST_RATIO, f"\n{result.text()}"
