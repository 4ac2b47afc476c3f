"""Locks across processes, held for a lease.

Dapr's API has no way to renew a lease: a lock is lost when its lease is over, whoever still works under it. So a lease is to be longer
than the work; `remaining` and `lost` say where it stands, by this process' clock and a little on the safe side. A lock keeps others
from working at the same time as a rule, and is no proof: what must not happen twice is to be guarded by an etag as well.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
import uuid
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

import grpc
from dapr.proto import api_v1
from loguru import logger

from apibase.contract.reasons import chassis_reason
from apibase.deadline import deadline
from apibase.errors import LockLost, LockNotAcquired, SidecarError
from dapr_contract.v1 import errors_pb2

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from apibase.clients._transport import Sidecar

_FIRST_PAUSE_SECONDS = 0.05
_LONGEST_PAUSE_SECONDS = 0.5
_GIVE_BACK_SECONDS = 1.0  # for how long a cancelled call is kept by it, at most
_Status = api_v1.UnlockResponse.Status


class Lock:
    """A lock that is held until it is released or its lease is over."""

    def __init__(self, client: LockClient, resource: str, owner: str, until: float) -> None:
        self._client = client
        self._until = until
        self._released = False
        self.resource = resource
        self.owner = owner

    @property
    def remaining(self) -> float:
        """Seconds of the lease that are left, counted from before it was asked for; 0 where it is over or released."""
        return 0.0 if self._released else max(self._until - time.monotonic(), 0.0)

    @property
    def lost(self) -> bool:
        """Whether the lease is over though the lock was not released: others may hold it now."""
        return not self._released and self.remaining <= 0

    def check(self) -> None:
        """Raise `LockLost` where the lease is over; for before each step that is to happen under the lock only."""
        if self.lost:
            raise LockLost(self.resource, component=self._client.store_name)

    async def release(self) -> None:
        """Release it; a second time does nothing. Raises `LockLost` where it was held no longer, `SidecarError` where that can't be told.

        It has the setting `call_timeout`, also where the inbound call's time is over. Where the sidecar can't be reached, the lock is free
        when its lease is over.
        """
        if self._released:
            return
        await self._client._unlock(self.resource, self.owner)  # noqa: SLF001 - its own
        self._released = True


class LockClient:
    """A lock store component."""

    def __init__(self, sidecar: Sidecar, store_name: str) -> None:
        self._sidecar = sidecar
        self.store_name = store_name

    async def try_lock(self, resource: str, *, lease: timedelta, owner: str | None = None) -> Lock | None:
        """Return the lock on `resource`, or None where somebody holds it, at once.

        `lease` is rounded up to whole seconds. `owner` names who holds it, this call if nobody is named; the same owner does not get it
        twice. After `SidecarUnavailable` or a deadline it may be held, until the lease is over. A call that is cancelled gives back what it
        may have got, unless an owner is named, who may hold it from before. Raises `ValueError` for an empty resource, or a lease that is
        not longer than nothing.
        """
        if not resource:
            raise ValueError("the resource of a lock is empty")
        if lease <= timedelta(0):
            raise ValueError(f"a lease of {lease} ends before it begins")
        holder = owner or str(uuid.uuid4())
        seconds = math.ceil(lease.total_seconds())
        request = api_v1.TryLockRequest(
            store_name=self.store_name, resource_id=resource, lock_owner=holder, expiry_in_seconds=seconds
        )
        began = time.monotonic()
        try:
            answer = await self._sidecar.call(
                lambda: self._sidecar.stub.TryLockAlpha1(request), component=self.store_name
            )
        except asyncio.CancelledError:
            if not owner:
                await self._give_back(resource, holder)
            raise
        return Lock(self, resource, holder, began + seconds) if answer.success else None

    @asynccontextmanager
    async def lock(
        self, resource: str, *, lease: timedelta, owner: str | None = None, wait: timedelta = timedelta(0)
    ) -> AsyncIterator[Lock]:
        """Hold the lock on `resource` for the block, having waited for it for up to `wait`, or the inbound call's time if that is less.

        Raises `LockNotAcquired` where somebody else held it all the while, and `LockLost` at the block's end where the lease was over
        before; an error of the block's own goes before that. Where the sidecar can't be reached at the end, the lock is left to
        its lease. Whoever waits asks again and again: there is no queue, and no order.
        """
        held = await self._wait_for(resource, lease, owner, wait.total_seconds())
        try:
            yield held
        except BaseException:
            await self._release_quietly(held)
            raise
        try:
            await held.release()
        except LockLost:
            raise
        except SidecarError as error:
            logger.warning(
                "the lock on {!r} is left to its lease, of which {:.1f} s remain: {}", resource, held.remaining, error
            )

    async def _wait_for(self, resource: str, lease: timedelta, owner: str | None, wait: float) -> Lock:
        until = time.monotonic() + (deadline.bound(wait) or 0.0)
        pause = _FIRST_PAUSE_SECONDS
        while True:
            held = await self.try_lock(resource, lease=lease, owner=owner)
            if held is not None:
                return held
            left = until - time.monotonic()
            if left <= 0:
                raise LockNotAcquired(resource, component=self.store_name)
            await asyncio.sleep(min(random.uniform(pause / 2, pause), left))  # noqa: S311 - so that waiters don't come at one instant
            pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)

    async def _release_quietly(self, held: Lock) -> None:
        try:
            await held.release()
        except SidecarError as error:
            logger.warning("the lock on {!r} was not released: {}", held.resource, error)

    async def _give_back(self, resource: str, owner: str) -> None:
        """Release a lock of which nobody knows whether it was got."""
        try:
            await self._unlock(resource, owner, within=_GIVE_BACK_SECONDS)
        except LockLost:
            pass  # it was not
        except SidecarError as error:
            logger.warning("the lock on {!r} may be left to its lease: {}", resource, error)

    async def _unlock(self, resource: str, owner: str, *, within: float | None = None) -> None:
        request = api_v1.UnlockRequest(store_name=self.store_name, resource_id=resource, lock_owner=owner)
        # Not made twice: a second answer would say that there is no such lock, after the first has released it.
        token = deadline.set_remaining(
            within
        )  # not the inbound call's: when that is over, the lock is to be free all the same
        try:
            answer = await self._sidecar.call(
                lambda: self._sidecar.stub.UnlockAlpha1(request), component=self.store_name
            )
        finally:
            deadline.reset(token)
        if answer.status in {_Status.LOCK_DOES_NOT_EXIST, _Status.LOCK_BELONGS_TO_OTHERS}:
            raise LockLost(resource, component=self.store_name)
        if answer.status != _Status.SUCCESS:
            raise SidecarError(
                grpc.StatusCode.INTERNAL,
                chassis_reason(errors_pb2.ERROR_REASON_SIDECAR_ERROR),
                f"the lock store could not release the lock on {resource!r}",
                component=self.store_name,
            )
