"""Locks: one holder at a time, until it lets go or its lease is over."""

from __future__ import annotations

import asyncio
import time
from datetime import timedelta

import grpc
import pytest

from apibase import LockClient, LockLost, LockNotAcquired, SidecarError
from tests.contract.sides import Side
from tests.sidecar.shop import eventually

LEASE = timedelta(seconds=30)


@pytest.fixture
def locks(side: Side) -> LockClient:
    return LockClient(side.sidecar, "locks")


async def test_a_lock_has_one_holder(side: Side, locks: LockClient) -> None:
    resource = side.key("lock")
    held = await locks.try_lock(resource, lease=LEASE)
    assert held is not None
    assert (held.lost, 29 < held.remaining <= 30) == (False, True)

    assert await locks.try_lock(resource, lease=LEASE) is None
    assert await locks.try_lock(resource, lease=LEASE, owner=held.owner) is None

    await held.release()
    assert await locks.try_lock(resource, lease=LEASE) is not None


async def test_a_lock_of_another_resource_is_another_lock(side: Side, locks: LockClient) -> None:
    for _ in range(2):
        assert await locks.try_lock(side.key("lock"), lease=LEASE) is not None


async def test_a_block_holds_the_lock_and_lets_go(side: Side, locks: LockClient) -> None:
    resource = side.key("lock")
    async with locks.lock(resource, lease=LEASE, owner="ann") as held:
        assert (held.resource, held.owner) == (resource, "ann")
        held.check()
        assert await locks.try_lock(resource, lease=LEASE) is None

    assert (held.remaining, held.lost) == (0, False)
    assert await locks.try_lock(resource, lease=LEASE) is not None


async def test_a_block_that_fails_lets_go_too(side: Side, locks: LockClient) -> None:
    resource = side.key("lock")
    with pytest.raises(ZeroDivisionError):
        async with locks.lock(resource, lease=LEASE):
            raise ZeroDivisionError

    assert await locks.try_lock(resource, lease=LEASE) is not None


async def test_a_block_that_is_cancelled_lets_go_too(side: Side, locks: LockClient) -> None:
    resource = side.key("lock")
    inside = asyncio.Event()

    async def work() -> None:
        async with locks.lock(resource, lease=LEASE):
            inside.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await inside.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert await locks.try_lock(resource, lease=LEASE) is not None


async def test_a_lock_that_somebody_holds_is_not_acquired(side: Side, locks: LockClient) -> None:
    resource = side.key("lock")
    await locks.try_lock(resource, lease=LEASE)
    began = time.monotonic()

    with pytest.raises(LockNotAcquired, match=f"somebody else holds the lock on '{resource}'") as caught:
        async with locks.lock(resource, lease=LEASE, wait=timedelta(seconds=0.3)):
            pass

    assert 0.3 <= time.monotonic() - began < 3
    assert (caught.value.code, caught.value.retryable) == (grpc.StatusCode.ABORTED, True)
    assert (caught.value.component, caught.value.resource) == ("locks", resource)


async def test_whoever_waits_gets_the_lock_when_it_is_free(side: Side, locks: LockClient) -> None:
    resource = side.key("lock")
    at_once = 0
    most = 0

    async def work() -> None:
        nonlocal at_once, most
        async with locks.lock(resource, lease=LEASE, wait=timedelta(seconds=30)):
            at_once += 1
            most = max(most, at_once)
            await asyncio.sleep(0)
            at_once -= 1

    await asyncio.gather(*(work() for _ in range(10)))

    assert most == 1


async def test_a_lock_whose_lease_is_over_is_lost_and_free(side: Side, locks: LockClient) -> None:
    resource = side.key("lock")

    async def free() -> bool:
        return await locks.try_lock(resource, lease=LEASE) is not None

    async def work() -> None:
        async with locks.lock(resource, lease=timedelta(seconds=0.2)) as held:
            assert held.remaining > 0.5  # whole seconds, rounded up
            await eventually(free, within=5, what="the lease is over")
            assert (held.lost, held.remaining) == (True, 0)
            with pytest.raises(LockLost):
                held.check()

    with pytest.raises(LockLost, match=f"the lease of the lock on '{resource}' is over") as caught:
        await work()
    assert caught.value.resource == resource

    # It is another's now, whom the loser has not robbed.
    assert await locks.try_lock(resource, lease=LEASE) is None


async def test_an_error_of_the_block_goes_before_the_loss_of_its_lock(side: Side, locks: LockClient) -> None:
    async def work() -> None:
        async with locks.lock(resource, lease=LEASE, owner="ann"):
            await locks._unlock(resource, "ann")
            raise ZeroDivisionError

    resource = side.key("lock")
    with pytest.raises(ZeroDivisionError):
        await work()


async def test_a_lock_is_released_once(side: Side, locks: LockClient) -> None:
    held = await locks.try_lock(side.key("lock"), lease=LEASE)
    assert held is not None
    await held.release()
    await held.release()


async def test_a_lock_store_that_is_not_loaded_is_an_error_that_names_it(side: Side) -> None:
    with pytest.raises(SidecarError, match="lock store nothing not found") as caught:
        await LockClient(side.sidecar, "nothing").try_lock("r", lease=LEASE)
    assert (caught.value.code, caught.value.component) == (grpc.StatusCode.INVALID_ARGUMENT, "nothing")


@pytest.mark.parametrize(("resource", "lease"), [("", LEASE), ("r", timedelta(0)), ("r", -LEASE)])
async def test_a_lock_needs_a_resource_and_a_lease(locks: LockClient, resource: str, lease: timedelta) -> None:
    with pytest.raises(ValueError, match=r"is empty|ends before it begins"):
        await locks.try_lock(resource, lease=lease)
