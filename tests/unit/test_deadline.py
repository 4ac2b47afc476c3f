"""What is left of a call's time."""

from __future__ import annotations

import asyncio

import pytest

from apibase.deadline import Budget, deadline


def test_without_a_call_a_bound_is_what_was_asked_for() -> None:
    assert deadline.bound(None) is None
    assert deadline.bound(3.0) == 3.0


def test_a_call_bounds_what_is_asked_for_by_what_it_has_left() -> None:
    token = deadline.set_remaining(10.0)

    assert deadline.bound(None) == pytest.approx(10, abs=0.5)
    assert deadline.bound(60.0) == pytest.approx(10, abs=0.5)
    assert deadline.bound(1.0) == 1.0

    deadline.reset(token)
    assert deadline.bound(None) is None


def test_a_call_that_is_over_leaves_nothing_and_never_less() -> None:
    token = deadline.set_remaining(-5.0)

    assert deadline.bound(None) == 0.0
    assert deadline.bound(3.0) == 0.0

    deadline.reset(token)


def test_a_call_without_a_deadline_hides_that_of_the_call_around_it() -> None:
    outer = deadline.set_remaining(1.0)
    inner = deadline.set_remaining(None)

    assert deadline.bound(60.0) == 60.0

    deadline.reset(inner)
    assert deadline.bound(60.0) == pytest.approx(1, abs=0.5)
    deadline.reset(outer)


async def test_calls_at_once_have_deadlines_of_their_own() -> None:
    async def call(seconds: float) -> float | None:
        token = deadline.set_remaining(seconds)
        await asyncio.sleep(0)
        left = deadline.bound(None)
        deadline.reset(token)
        return left

    assert await asyncio.gather(call(10), call(20)) == [pytest.approx(10, abs=0.5), pytest.approx(20, abs=0.5)]


async def test_work_that_outlives_its_call_has_no_deadline_of_it() -> None:
    budget = Budget(lambda: 2.0)
    deadline.follow(budget)
    over = asyncio.Event()

    async def background() -> tuple[float | None, float | None]:
        during = deadline.bound(None)
        await over.wait()
        return during, deadline.bound(None)

    working = asyncio.ensure_future(background())
    await asyncio.sleep(0)
    budget.end()
    over.set()

    assert await working == (2.0, None)
