"""Hooks of the built-in middleware, several in a row in one coroutine: each has its turn, whatever becomes of the others."""

from __future__ import annotations

import asyncio

import pytest

from apibase.middleware import Call, Kind, Target
from apibase.middleware.hooks import Hooks, around

TARGET = Target(Kind.UNARY, "desk.v1.Desk.Ask")


class Broken(Exception):
    pass


def call() -> Call:
    return Call(TARGET, (), {}, lambda _call: None)


def noting(name: str, seen: list[str]) -> Hooks:
    return Hooks(before=lambda _call: seen.append(f"{name}>"), after=lambda _call: seen.append(f"<{name}"))


def breaking(_call: Call) -> None:
    raise Broken


async def handler(_call: Call) -> str:
    return "answer"


async def broken(_call: Call) -> str:
    raise Broken


def errors(seen: list[str]) -> Hooks:
    def caught(call: Call, error: BaseException) -> None:
        call.outcome = type(error).__name__
        seen.append("caught")

    def answered(call: Call) -> None:
        call.outcome = "OK"
        seen.append("answered")

    return Hooks(caught=caught, answered=answered)


async def test_the_first_to_begin_is_the_last_to_end() -> None:
    seen: list[str] = []

    assert await around([noting("a", seen), noting("b", seen)], handler)(call()) == "answer"

    assert seen == ["a>", "b>", "<b", "<a"]


async def test_only_those_that_let_a_call_pass_have_a_turn_at_its_end() -> None:
    seen: list[str] = []
    chain = [noting("a", seen), Hooks(before=lambda _call: True), noting("b", seen)]

    assert await around(chain, handler)(call()) is None

    assert seen == ["a>", "<a"]


@pytest.mark.parametrize("place", [0, 1, 2])
async def test_one_that_raises_at_the_end_takes_no_other_its_turn(place: int) -> None:
    seen: list[str] = []
    chain = [noting("a", seen), noting("b", seen)]
    chain.insert(place, Hooks(after=breaking))

    with pytest.raises(Broken):
        await around(chain, handler)(call())

    assert seen == ["a>", "b>", "<b", "<a"]


async def test_two_that_raise_at_the_end_take_no_other_its_turn() -> None:
    seen: list[str] = []

    with pytest.raises(Broken):
        await around([noting("a", seen), Hooks(after=breaking), Hooks(after=breaking)], handler)(call())

    assert seen == ["a>", "<a"]


async def test_what_stands_behind_errors_ends_before_the_error_is_settled() -> None:
    seen: list[str] = []
    made = call()

    assert await around([noting("a", seen), errors(seen), noting("b", seen)], broken)(made) is None

    assert seen == ["a>", "b>", "<b", "caught", "<a"]
    assert made.outcome == "Broken"


async def test_a_call_that_is_refused_behind_errors_is_no_success() -> None:
    seen: list[str] = []
    made = call()

    def refused(call: Call) -> bool:
        call.outcome = "PERMISSION_DENIED"
        return True

    assert await around([errors(seen), Hooks(before=refused)], handler)(made) is None

    assert (made.outcome, seen) == ("PERMISSION_DENIED", [])


async def test_a_failure_is_told_to_those_that_have_begun() -> None:
    told: list[BaseException] = []
    chain = [Hooks(failed=lambda _call, error: told.append(error)), Hooks(before=breaking)]

    with pytest.raises(Broken) as caught:
        await around(chain, handler)(call())

    assert told == [caught.value]


async def test_a_cancellation_ends_each() -> None:
    seen: list[str] = []
    waiting = asyncio.Event()

    async def waits(_call: Call) -> None:
        waiting.set()
        await asyncio.Event().wait()

    running = asyncio.ensure_future(around([noting("a", seen), noting("b", seen)], waits)(call()))
    await waiting.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running

    assert seen == ["a>", "b>", "<b", "<a"]
