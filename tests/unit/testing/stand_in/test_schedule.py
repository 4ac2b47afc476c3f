"""Schedules and spans of time, as Dapr writes them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from apibase.testing.stand_in.durations import moment_of, seconds_of
from apibase.testing.stand_in.schedule import Schedule

NOW = datetime(2026, 2, 27, 23, 59, 30, tzinfo=UTC)  # a Friday


@pytest.mark.parametrize(
    ("text", "times"),
    [
        ("@every 90s", ["2026-02-28 00:01:00", "2026-02-28 00:02:30"]),
        ("0 * * * * *", ["2026-02-28 00:00:00", "2026-02-28 00:01:00"]),
        ("*/20 * * * * *", ["2026-02-27 23:59:40", "2026-02-28 00:00:00"]),
        ("@daily", ["2026-02-28 00:00:00", "2026-03-01 00:00:00"]),
        ("@hourly", ["2026-02-28 00:00:00", "2026-02-28 01:00:00"]),
        ("0 30 9 * * mon-fri", ["2026-03-02 09:30:00", "2026-03-03 09:30:00"]),
        ("0 0 12 1 jan,jul *", ["2026-07-01 12:00:00", "2027-01-01 12:00:00"]),
        ("0 0 0 29 2 *", ["2028-02-29 00:00:00"]),
        ("0 0 0 13 * fri", ["2026-03-06 00:00:00", "2026-03-13 00:00:00", "2026-03-20 00:00:00"]),
        ("5 10-12/2 0 * * *", ["2026-02-28 00:10:05", "2026-02-28 00:12:05", "2026-03-01 00:10:05"]),
    ],
)
def test_the_next_times(text: str, times: list[str]) -> None:
    schedule, moment, found = Schedule.parse(text), NOW.timestamp(), []
    for _ in times:
        following = schedule.after(moment)
        assert following is not None
        moment = following
        found.append(f"{datetime.fromtimestamp(moment, UTC):%Y-%m-%d %H:%M:%S}")
    assert found == times


def test_a_day_that_never_comes_is_none() -> None:
    assert Schedule.parse("0 0 0 30 2 *").after(NOW.timestamp()) is None


def test_a_cron_binding_may_leave_the_seconds_out() -> None:
    assert Schedule.parse("5 * * * *", seconds_optional=True) == Schedule.parse("0 5 * * * *")


@pytest.mark.parametrize(
    "text",
    ["", "every now and then", "@never", "@every soon", "* * * * *", "60 * * * * *", "1-70 * * * * *", "x * * * * *"],
)
def test_what_is_no_schedule_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"\S"):
        Schedule.parse(text)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("500ms", 0.5), ("1h30m", 5400), ("1.5s", 1.5), ("PT5M", 300), ("P1DT1H", 90000), ("P2W", 1209600), ("1µs", 1e-6)],
)
def test_spans(text: str, seconds: float) -> None:
    assert seconds_of(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "5", "s", "1h x", "P", "-1s", "soon"])
def test_what_is_no_span_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no span of time"):
        seconds_of(text)


def test_moments() -> None:
    assert moment_of("10s", 5.0) == 15.0
    assert moment_of("2026-02-27T23:59:40Z", 0) == (NOW + timedelta(seconds=10)).timestamp()
    with pytest.raises(ValueError, match="no time zone"):
        moment_of("2026-02-27T23:59:40", 0)
