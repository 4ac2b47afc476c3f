"""Limits: how many calls are taken, what the others are told, and whom a limit does not concern."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from hypothesis import given
from hypothesis import strategies as st

from apibase import App, ServiceError
from apibase.error_status import to_status
from apibase.middleware import CALLS, DELIVERIES, Call, Kind, Target
from apibase.middleware.limits import ConcurrencyLimit, RateLimit
from tests.unit.conftest import Desk
from tests.unit.status import refused

TARGET = Target(Kind.UNARY, "desk.v1.Desk.Ask")


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def call() -> Call:
    return Call(TARGET, (), {}, lambda _call: None)


async def handle(_call: Call) -> str:
    return "handled"


async def taken(limited: Any, calls: int) -> int:
    """Return how many of so many calls at one instant are taken."""
    count = 0
    for _ in range(calls):
        try:
            count += await limited(call()) == "handled"
        except ServiceError as error:
            assert error.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    return count


@pytest.mark.req("R16.4")
async def test_a_rate_limit_takes_its_burst_and_then_its_rate() -> None:
    clock = Clock()
    limited = RateLimit(10, burst=5, clock=clock).wrap(TARGET, handle)

    assert await taken(limited, 100) == 5
    clock.now += 0.1
    assert await taken(limited, 100) == 1
    clock.now += 0.35
    assert await taken(limited, 100) == 3
    clock.now += 3600
    assert await taken(limited, 100) == 5


@given(st.lists(st.floats(0, 3), min_size=1, max_size=60), st.integers(1, 50), st.integers(1, 20))
def test_whatever_comes_when_no_more_than_rate_and_burst_are_taken(pauses: list[float], rate: int, burst: int) -> None:
    clock = Clock()
    limited = RateLimit(rate, burst=burst, clock=clock).wrap(TARGET, handle)

    async def all_of_them() -> int:
        count = 0
        for pause in pauses:
            clock.now += pause
            count += await taken(limited, burst + 1)
        return count

    assert asyncio.run(all_of_them()) <= burst + rate * sum(pauses) + 1e-6


@pytest.mark.req("R16.4")
async def test_who_is_refused_is_told_when_the_next_call_is_taken() -> None:
    clock = Clock()
    limited = RateLimit(10, burst=1, clock=clock).wrap(TARGET, handle)
    await limited(call())

    with pytest.raises(ServiceError) as caught:
        await limited(call())

    status = to_status(caught.value, domain="desk.v1")
    info = error_details_pb2.RetryInfo()
    assert any(detail.Unpack(info) for detail in status.details)
    wait = info.retry_delay.ToTimedelta().total_seconds()
    assert wait == pytest.approx(0.1, abs=1e-4)
    assert (caught.value.reason, caught.value.retryable) == ("RATE_LIMIT_EXCEEDED", True)
    clock.now += wait + 1e-4
    assert await limited(call()) == "handled"


@pytest.mark.req("R16.4")
async def test_a_concurrency_limit_takes_so_many_at_once_however_they_end() -> None:
    go_on = asyncio.Event()

    async def work(_call: Call) -> None:
        await go_on.wait()
        raise ZeroDivisionError

    limited = ConcurrencyLimit(2).wrap(TARGET, work)
    first, second = (asyncio.ensure_future(limited(call())) for _ in range(2))  # type: ignore[arg-type]
    await asyncio.sleep(0)
    with pytest.raises(ServiceError, match="more calls at once") as caught:
        await limited(call())
    assert (caught.value.reason, caught.value.retry_after) == ("CONCURRENCY_LIMIT_EXCEEDED", 0.1)

    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    third = asyncio.ensure_future(limited(call()))  # type: ignore[arg-type]
    go_on.set()
    for task in (second, third):
        with pytest.raises(ZeroDivisionError):
            await task


def test_without_a_limit_there_is_nothing_in_the_way() -> None:
    assert RateLimit(0).wrap(TARGET, handle) is handle
    assert ConcurrencyLimit(0).wrap(TARGET, handle) is handle


def test_what_the_sidecar_brings_is_not_limited() -> None:
    for limit in (RateLimit(1), ConcurrencyLimit(1)):
        assert set(limit.kinds) == CALLS
        assert not DELIVERIES & set(limit.kinds)


@pytest.mark.req("R16.4")
async def test_a_caller_above_the_limit_is_refused_and_the_app_goes_on(desk: Desk, settings: Any, dapr: Any) -> None:
    class DeskService(desk.grpc.DeskServicer):  # type: ignore[misc]
        async def Ask(self, request: Any, context: Any) -> Any:
            return desk.pb2.Answer(text="because")

    app = App(settings.model_copy(update={"rate_limit": 5.0, "rate_burst": 1}))
    app.add_servicer(DeskService())
    await app.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{app.port}") as channel:
            stub = desk.grpc.DeskStub(channel)
            question = desk.pb2.Question(text="why")
            assert (await stub.Ask(question)).text == "because"
            with refused() as told:
                await stub.Ask(question)
            assert (told.code, told.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "RATE_LIMIT_EXCEEDED")

            answered: list[str] = []

            async def ask() -> None:
                with contextlib.suppress(grpc.aio.AioRpcError):
                    answered.append((await stub.Ask(question)).text)

            async def until_taken() -> None:
                while not answered:
                    await ask()
                    await asyncio.sleep(0.02)

            await asyncio.wait_for(until_taken(), 5)
    finally:
        await app.stop()
