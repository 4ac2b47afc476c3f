"""The record of a claim in the state store: written, renewed, done or gone, and only ever by whoever has it."""

from __future__ import annotations

import asyncio
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from google.protobuf.timestamp_pb2 import Timestamp
from loguru import logger

from apibase.errors import Conflict, Retry
from dapr_contract.v1.deduplication_pb2 import HandledEvent

if TYPE_CHECKING:
    from collections.abc import Callable

    from apibase.clients.state import StateItem, StateManager

# The store forgets a record only when nobody reads it any more: the times in it decide, not the store's clock.
_SLACK = timedelta(seconds=60)


class Busy(Retry):
    """Somebody else is at the same work, or was and crashed; `until` then. Try again."""

    def __init__(self, until: datetime | None = None) -> None:
        super().__init__(
            f"claimed until {time_text(until)}" if until else "claimed by somebody else at the same moment"
        )
        self.until = until


class ClaimLost(Retry):
    """Somebody else has taken the claim over, for it was not renewed in time."""

    def __init__(self) -> None:
        super().__init__("the claim was not renewed in time and somebody else has taken it over")


@dataclass(frozen=True, slots=True)
class Repetition:
    """Work that was done before: `done_at` then, recognised until `remembered_until`."""

    done_at: datetime
    remembered_until: datetime

    def __str__(self) -> str:
        return f"done already at {time_text(self.done_at)}, remembered until {time_text(self.remembered_until)}"


class ClaimRecord:
    """One record. Every method raises `SidecarError` where the store fails; all but `take`, `ClaimLost` where it is not ours."""

    def __init__(
        self, state: StateManager, key: str, lease: timedelta, remember_for: timedelta, now: Callable[[], datetime]
    ) -> None:
        self.key = key
        self._state = state
        self._lease = lease
        self._remember_for = remember_for
        self._now = now
        self._id = uuid.uuid4().hex
        self._writing = asyncio.Lock()

    async def take(self) -> Repetition | None:
        """Write the claim; a `Repetition` instead where the work is done. Raises `Busy` and `SidecarError`."""
        try:
            await self._save(self._claimed(), first_write=True)
        except Conflict:
            return await self._take_over()
        return None

    async def _take_over(self) -> Repetition | None:
        """Take what a crash, or a time that is over, has left."""
        item = await self._state.get(self.key, HandledEvent)
        if item is None:
            raise Busy  # let go or forgotten just now
        record, now = item.value, self._now()
        if record.claim == self._id:
            return None  # the sidecar tried twice (a retry policy may say so), and told us of the second time
        if record.HasField("done_at"):
            remembered_until = record.remembered_until.ToDatetime(UTC)
            if now < remembered_until:
                return Repetition(record.done_at.ToDatetime(UTC), remembered_until)
        elif now < (claimed_until := record.claimed_until.ToDatetime(UTC)):
            raise Busy(claimed_until)
        else:
            logger.warning("the claim {} lapsed at {}: taken over", self.key, time_text(claimed_until))
        try:
            await self._save(self._claimed(), etag=item.etag)
        except Conflict as error:
            item = await self._state.get(self.key, HandledEvent)
            if item is None or item.value.claim != self._id:
                raise Busy from error
        return None

    async def renew(self, seconds: float) -> None:
        """Claim it for another lease; `TimeoutError` after `seconds`."""
        async with asyncio.timeout(seconds), self._writing:
            item = await self._mine()
            try:
                await self._save(self._claimed(), etag=item.etag)
            except Conflict:
                await self._mine()

    async def save_done(self) -> None:
        """Record that the work is done."""
        async with self._writing:
            now = self._now()
            done = HandledEvent(
                claim=self._id, done_at=_timestamp(now), remembered_until=_timestamp(now + self._remember_for)
            )
            item = await self._state.get(self.key, HandledEvent)
            if item is None:
                await self._save(done, first_write=True)
            elif item.value.claim != self._id:
                raise ClaimLost
            elif not item.value.HasField("done_at"):
                await self._save(done, etag=item.etag)

    async def delete(self, seconds: float) -> None:
        """Let the claim go; `TimeoutError` after `seconds`."""
        async with asyncio.timeout(seconds), self._writing:
            item = await self._mine()
            await self._state.delete(self.key, etag=item.etag)

    async def _mine(self) -> StateItem[HandledEvent]:
        """Return the record while it is our claim; `ClaimLost` when it is not. Only then may it be written.

        The etag alone does not tell: Redis counts it from 1 again when a key was gone, and saves over a key that is gone
        whatever the etag.
        """
        item = await self._state.get(self.key, HandledEvent)
        if item is None or item.value.claim != self._id or item.value.HasField("done_at"):
            raise ClaimLost
        return item

    def _claimed(self) -> HandledEvent:
        return HandledEvent(claim=self._id, claimed_until=_timestamp(self._now() + self._lease))

    async def _save(self, record: HandledEvent, *, etag: str | None = None, first_write: bool = False) -> None:
        ttl = (self._remember_for if record.HasField("done_at") else self._lease) + _SLACK
        await self._state.save(self.key, record, etag=etag, first_write=first_write, ttl=ttl)


def _timestamp(moment: datetime) -> Timestamp:
    made = Timestamp()
    made.FromDatetime(moment)
    return made


def time_text(moment: datetime) -> str:
    """Return a moment as a log line has it."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
