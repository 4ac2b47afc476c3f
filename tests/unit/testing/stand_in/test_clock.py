"""The clock of the stand-in: it stands, or runs, and does what falls due in order, with all that comes of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest

from apibase.testing.stand_in.clock import Clock
from apibase.testing.stand_in.work import Work


@pytest.fixture
async def work() -> AsyncIterator[Work]:
    work = Work()
    yield work
    await work.close()


async def test_what_falls_due_is_done_in_order_and_at_its_time(work: Work) -> None:
    clock, seen = Clock(work, runs=False), []
    began = clock.seconds

    def note(name: str) -> object:
        async def action() -> None:
            seen.append((name, clock.seconds - began))

        return action

    for name, after in (("b", 2.0), ("a", 1.0), ("c", 9.0)):
        clock.call_later(after, note(name))  # type: ignore[arg-type]
    await clock.advance(5)

    assert seen == [("a", 1.0), ("b", 2.0)]
    assert clock.seconds - began == 5.0
    await clock.advance(timedelta(seconds=4))
    assert [name for name, _ in seen] == ["a", "b", "c"]


async def test_what_comes_of_it_is_done_too_where_it_falls_due_meanwhile(work: Work) -> None:
    clock, seen = Clock(work, runs=False), []

    async def again() -> None:
        seen.append(clock.seconds)
        clock.call_later(10, again)

    clock.call_later(10, again)
    await clock.advance(35)

    assert len(seen) == 3


async def test_work_that_sleeps_goes_on_when_its_time_has_come(work: Work) -> None:
    clock, seen = Clock(work, runs=False), []

    async def sleeper() -> None:
        for turn in range(3):
            await clock.sleep(1)
            await asyncio.sleep(0)  # as a call of the app would
            seen.append(turn)

    work.start(sleeper())
    await clock.advance(2.5)
    assert seen == [0, 1]
    assert work.busy
    await clock.advance(1)
    assert seen == [0, 1, 2]
    assert not work.busy


async def test_a_timer_that_is_cancelled_does_nothing(work: Work) -> None:
    clock = Clock(work, runs=False)

    async def never() -> None:
        raise AssertionError

    clock.call_later(1, never).cancel()
    await clock.advance(2)


async def test_a_clock_that_stands_begins_at_the_same_time_in_every_test(work: Work) -> None:
    assert Clock(work, runs=False).now == datetime(2030, 1, 1, tzinfo=UTC)


async def test_a_clock_that_runs_goes_by_itself_and_can_be_moved(work: Work) -> None:
    clock, done = Clock(work, runs=True), asyncio.Event()

    async def ring() -> None:
        done.set()

    clock.call_later(0.01, ring)
    await asyncio.wait_for(done.wait(), 5)
    done.clear()
    clock.call_later(3600, ring)
    before = clock.seconds
    await clock.advance(3600)
    assert done.is_set()
    assert clock.seconds - before >= 3600
    clock.close()
