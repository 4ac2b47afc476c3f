"""What publishing in bulk is worth."""

from __future__ import annotations

import pytest

from tests.bench.publish_bulk import measure


@pytest.mark.full
@pytest.mark.req("R3.5")
async def test_a_hundred_events_in_one_call_are_at_least_eight_times_as_many_in_a_second_as_one_by_one(tmp_path):
    report = await measure("1.18", 9, tmp_path)

    assert report.ratio >= 8, report.text()
