"""Locks whose store or sidecar fails; what the real ones do is in the contract suite."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import grpc
import pytest
from dapr.proto import api_v1

from apibase import LockClient, LockLost, LockNotAcquired, Settings, Sidecar, SidecarError
from apibase.deadline import deadline
from tests.unit.conftest import Log
from tests.unit.fake_dapr import FakeDapr, eventually

LEASE = timedelta(seconds=30)
STATUS = api_v1.UnlockResponse.Status


class Locks(FakeDapr):
    """Gives every lock that is `free`, and answers `status` to whoever releases one."""

    free = True
    status = STATUS.SUCCESS
    hangs = False

    async def TryLockAlpha1(self, request: Any, context: Any) -> Any:
        await self._take("TryLockAlpha1", request, context)
        if self.hangs:
            await asyncio.Event().wait()
        return api_v1.TryLockResponse(success=self.free)

    async def UnlockAlpha1(self, request: Any, context: Any) -> Any:
        await self._take("UnlockAlpha1", request, context)
        return api_v1.UnlockResponse(status=self.status)


@pytest.fixture
async def store(settings: Settings) -> AsyncIterator[Locks]:
    async with Locks(settings.sidecar_address) as locks:
        yield locks


@pytest.fixture
async def locks(store: Locks, settings: Settings) -> AsyncIterator[LockClient]:
    sidecar = Sidecar(settings)
    yield LockClient(sidecar, "locks")
    await sidecar.close()


async def test_a_lease_is_asked_for_in_whole_seconds_rounded_up(store: Locks, locks: LockClient) -> None:
    first = await locks.try_lock("r", lease=timedelta(seconds=1.2), owner="ann")
    second = await locks.try_lock("r", lease=timedelta(seconds=2))

    requests = [call.request for call in store.calls]
    assert [request.expiry_in_seconds for request in requests] == [2, 2]
    assert first is not None
    assert second is not None
    assert [request.lock_owner for request in requests] == ["ann", second.owner]
    assert second.owner != first.owner


async def test_a_lock_that_is_left_to_its_lease_fails_no_work_that_is_done(
    store: Locks, locks: LockClient, log: Log
) -> None:
    store.fail("UnlockAlpha1", grpc.StatusCode.UNAVAILABLE, "the store is away")
    done = False
    async with locks.lock("r", lease=LEASE):
        done = True

    assert done
    assert "the lock on 'r' is left to its lease, of which 30.0 s remain" in log.one(level="WARNING")["message"]


async def test_a_lock_that_can_not_be_released_after_an_error_does_not_hide_that_error(
    store: Locks, locks: LockClient, log: Log
) -> None:
    store.fail("UnlockAlpha1", grpc.StatusCode.INTERNAL, "the store is away")
    with pytest.raises(ZeroDivisionError):
        async with locks.lock("r", lease=LEASE):
            raise ZeroDivisionError
    assert "the lock on 'r' was not released" in log.one(level="WARNING")["message"]


@pytest.mark.parametrize("status", [STATUS.LOCK_DOES_NOT_EXIST, STATUS.LOCK_BELONGS_TO_OTHERS])
async def test_a_lock_that_the_store_says_is_not_ours_is_lost(store: Locks, locks: LockClient, status: Any) -> None:
    store.status = status
    held = await locks.try_lock("r", lease=LEASE)
    assert held is not None
    with pytest.raises(LockLost) as caught:
        await held.release()
    assert (caught.value.code, caught.value.component) == (grpc.StatusCode.ABORTED, "locks")


async def test_a_store_that_can_not_release_is_an_error(store: Locks, locks: LockClient) -> None:
    store.status = STATUS.INTERNAL_ERROR
    held = await locks.try_lock("r", lease=LEASE)
    assert held is not None
    with pytest.raises(SidecarError, match="could not release the lock on 'r'") as caught:
        await held.release()
    assert caught.value.code is grpc.StatusCode.INTERNAL

    store.status = STATUS.SUCCESS
    await held.release()


async def test_waiting_ends_with_the_inbound_calls_time(store: Locks, locks: LockClient) -> None:
    store.free = False
    token = deadline.set_remaining(0.2)
    try:
        with pytest.raises((LockNotAcquired, SidecarError)):
            async with locks.lock("r", lease=LEASE, wait=timedelta(hours=1)):
                pass
    finally:
        deadline.reset(token)
    assert len(store.calls) >= 2


async def test_a_lock_is_asked_for_once_where_nobody_waits(store: Locks, locks: LockClient) -> None:
    store.free = False
    with pytest.raises(LockNotAcquired):
        async with locks.lock("r", lease=LEASE):
            pass
    assert len(store.calls) == 1


async def test_a_lock_that_may_be_held_is_not_asked_for_again(store: Locks, locks: LockClient) -> None:
    store.fail("TryLockAlpha1", grpc.StatusCode.UNAVAILABLE)
    with pytest.raises(SidecarError):
        await locks.try_lock("r", lease=LEASE)
    assert len(store.calls) == 1


async def test_a_lock_is_released_though_the_inbound_calls_time_is_over(store: Locks, locks: LockClient) -> None:
    async with locks.lock("r", lease=LEASE) as held:
        token = deadline.set_remaining(0.0)
    try:
        assert deadline.bound(None) == 0.0
    finally:
        deadline.reset(token)

    assert [call.method for call in store.calls] == ["TryLockAlpha1", "UnlockAlpha1"]
    assert store.calls[1].request.lock_owner == held.owner
    assert (store.calls[1].seconds_left or 0.0) > 1.0


async def _cancelled_while_asking(store: Locks, locks: LockClient, owner: str | None) -> None:
    store.hangs = True
    asking = asyncio.create_task(locks.try_lock("r", lease=LEASE, owner=owner))
    await eventually(lambda: store.calls)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking


@pytest.mark.parametrize("status", [STATUS.SUCCESS, STATUS.LOCK_DOES_NOT_EXIST])
async def test_a_lock_that_a_cancelled_call_may_have_got_is_given_back(
    store: Locks, locks: LockClient, status: Any, log: Log
) -> None:
    store.status = status
    await _cancelled_while_asking(store, locks, None)

    asked, given_back = store.calls
    assert given_back.method == "UnlockAlpha1"
    assert given_back.request.lock_owner == asked.request.lock_owner
    assert log.of(level="WARNING") == []


async def test_a_lock_that_can_not_be_given_back_is_still_a_call_that_was_cancelled(
    store: Locks, locks: LockClient, log: Log
) -> None:
    store.fail("UnlockAlpha1", grpc.StatusCode.UNAVAILABLE)
    await _cancelled_while_asking(store, locks, None)

    assert "the lock on 'r' may be left to its lease" in log.one(level="WARNING")["message"]


async def test_a_named_owners_lock_is_not_given_back_which_it_may_hold_from_before(
    store: Locks, locks: LockClient
) -> None:
    await _cancelled_while_asking(store, locks, "ann")

    assert [call.method for call in store.calls] == ["TryLockAlpha1"]
