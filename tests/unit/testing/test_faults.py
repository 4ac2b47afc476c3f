"""Faults on request: which operations they concern, how often, and how an operation ends."""

from __future__ import annotations

import asyncio
import time

import grpc
import pytest

from apibase.testing.faults import Faults, InjectedDisconnect, InjectedStatus

UNAVAILABLE = grpc.StatusCode.UNAVAILABLE


async def test_an_operation_without_a_fault_goes_on() -> None:
    await Faults().apply("state.get", "k")


async def test_a_status_is_raised_for_the_operation_and_the_key_that_the_patterns_name() -> None:
    faults = Faults()
    faults.add(operation="state.*", key="order-*", status=UNAVAILABLE, message="down")
    await faults.apply("pubsub.publish", "order-1")
    await faults.apply("state.get", "stock-1")
    await faults.apply("state.get")
    with pytest.raises(InjectedStatus, match="UNAVAILABLE: down") as caught:
        await faults.apply("state.get", "app||order-1", "order-1")
    assert caught.value.code is UNAVAILABLE


async def test_it_happens_as_often_as_was_asked_for() -> None:
    faults = Faults()
    fault = faults.add(status=UNAVAILABLE, times=2)
    for _ in range(2):
        with pytest.raises(InjectedStatus):
            await faults.apply("state.get")
    await faults.apply("state.get")
    assert fault.hits == 2


async def test_operations_that_come_together_share_the_number_of_times() -> None:
    faults = Faults()
    faults.add(latency=0.01)
    fault = faults.add(status=UNAVAILABLE, times=1)
    ends = await asyncio.gather(*(faults.apply("state.get") for _ in range(5)), return_exceptions=True)
    assert [type(end) for end in ends] == [InjectedStatus, *[type(None)] * 4]
    assert fault.hits == 1


async def test_the_same_seed_lets_the_same_operations_fail() -> None:
    async def pattern(seed: int) -> list[bool]:
        faults = Faults(seed)
        faults.add(status=UNAVAILABLE, rate=0.3)
        failed = await asyncio.gather(*(faults.apply("state.get") for _ in range(200)), return_exceptions=True)
        return [each is not None for each in failed]

    first = await pattern(7)
    assert first == await pattern(7)
    assert first != await pattern(8)
    assert 40 <= sum(first) <= 80


async def test_latency_passes_before_what_else_was_asked_for() -> None:
    faults = Faults()
    faults.add(latency=0.02)
    faults.add(disconnect=True)
    began = time.monotonic()
    with pytest.raises(InjectedDisconnect):
        await faults.apply("state.get")
    assert time.monotonic() - began >= 0.02


async def test_what_is_dropped_is_never_answered() -> None:
    faults = Faults()
    faults.add(drop=True)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(faults.apply("state.get"), 0.02)


async def test_a_removed_fault_happens_no_more_whichever_way_it_is_removed() -> None:
    faults = Faults()
    with faults.add(status=UNAVAILABLE), pytest.raises(InjectedStatus):
        await faults.apply("state.get")
    await faults.apply("state.get")
    fault = faults.add(status=UNAVAILABLE)
    fault.remove()
    fault.remove()
    await faults.apply("state.get")
    faults.add(status=UNAVAILABLE)
    faults.clear()
    await faults.apply("state.get")


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({}, "does nothing"),
        ({"status": UNAVAILABLE, "drop": True}, "ends in one way"),
        ({"status": grpc.StatusCode.OK}, "OK is no failure"),
        ({"drop": True, "rate": 0.0}, "rate is above 0"),
        ({"drop": True, "rate": 1.5}, "rate is above 0"),
        ({"latency": -1.0}, "latency not below 0"),
        ({"drop": True, "times": 0}, "times at least 1"),
    ],
)
def test_what_is_no_fault_is_refused(wanted: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Faults().add(**wanted)


def test_a_fault_is_read_as_a_command_line_has_it() -> None:
    fault = Faults().parse(
        "operation=state.get, key=order-*,status=unavailable,rate=0.5,times=3,latency=0.2,message=down"
    )
    assert (fault.operation, fault.key, fault.status, fault.rate) == ("state.get", "order-*", UNAVAILABLE, 0.5)
    assert (fault.times, fault.latency, fault.message) == (3, 0.2, "down")
    assert Faults().parse("drop").drop
    assert Faults().parse("disconnect,times=1").disconnect


@pytest.mark.parametrize("text", ["", "statsu=UNAVAILABLE", "status=BROKEN", "drop=yes", "times=many,drop", "status"])
def test_what_a_command_line_says_wrong_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="in the fault"):
        Faults().parse(text)
