"""Work that is not to be done twice: claimed in a state store before it begins, recorded there when it is done.

    claimed = await deduplicator.claim(handler, identity, remember_for)
    if isinstance(claimed, Repetition):
        ...  # it was done before
    async with claimed:  # renewed meanwhile; let go at the end, unless it was done
        ...  # the work
        await claimed.done()

A claim holds for the lease and is renewed at every third of it, so a crash blocks its work for one lease at most. It is
nobody's lock: a process that was paused for longer than the lease finds its claim taken over and is cancelled, but what it
did until then it did. What that means for events: docs/idempotent-consumers.md.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Self, TypeVar

from google.protobuf.timestamp_pb2 import Timestamp
from loguru import logger

from apibase.errors import Conflict, Retry, SidecarError
from dapr_contract.v1.deduplication_pb2 import HandledEvent

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence
    from types import TracebackType

    from apibase.clients.state import StateItem, StateManager

T = TypeVar("T")

# The store forgets a record only when nobody reads it any more: the times in it decide, not the store's clock.
_SLACK = timedelta(seconds=60)
# How long recording and letting go may take when the store is slow or away.
_SETTLE_SECONDS = 5.0
_FIRST_PAUSE_SECONDS = 0.1


class Busy(Retry):
    """Somebody else is at the same work, or was and crashed; `until` then. Try again."""

    def __init__(self, until: datetime | None = None) -> None:
        super().__init__(f"claimed until {_text(until)}" if until else "claimed by somebody else at the same moment")
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
        return f"done already at {_text(self.done_at)}, remembered until {_text(self.remembered_until)}"


class Deduplicator:
    """Claims in one state store, which must have etags. `lease` is how long a claim holds that nobody renews.

    Times are this machine's (`now`): see the document for what a difference between replicas' clocks does.
    """

    def __init__(
        self,
        state: StateManager,
        app_id: str,
        lease: timedelta,
        *,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.state = state
        self.lease = lease
        self.now = now
        self._app_id = app_id
        self._pending: set[asyncio.Future[Any]] = set()

    async def claim(self, handler: str, identity: Sequence[str | int], remember_for: timedelta) -> Claim | Repetition:
        """Claim the work of `handler` on what `identity` names, to be remembered for `remember_for` once it is done.

        Returns a `Repetition` where it is done and remembered. Raises `Busy` where it is claimed, and `SidecarError` where
        the store can't be asked: then it is unknown, and must not be done.
        """
        claim = Claim(self, self.key(handler, identity), remember_for)
        taking = self.spawn(claim.take())
        try:
            repetition = await asyncio.shield(taking)
        except (SidecarError, asyncio.CancelledError):
            # It may have taken effect, or still will: without this it would block the next try for a whole lease.
            self.spawn(claim.abandon(taking))
            raise
        return repetition or claim

    def key(self, handler: str, identity: Sequence[str | int]) -> str:
        """Return the key of the record. What identifies the work is in it as a digest: of one length, and not to be read.

        No `/` and no `||` in it: some stores refuse the one, Dapr the other.
        """
        digest = hashlib.sha256(json.dumps(identity, separators=(",", ":")).encode()).hexdigest()
        return f"handled:{self._app_id}:{handler}:{digest}"

    def spawn(self, work: Coroutine[object, object, T]) -> asyncio.Task[T]:
        """Run what has to come to its end, whatever becomes of the call that it is for."""
        task = asyncio.ensure_future(work)
        self.expect(task)
        return task

    def expect(self, pending: asyncio.Future[T]) -> None:
        """Have `close` wait for it."""
        self._pending.add(pending)
        pending.add_done_callback(self._pending.discard)

    async def close(self) -> None:
        """Wait until every claim is recorded or let go; some seconds at most.

        To be called when the calls have been cancelled: gRPC does not wait until their handlers have seen it.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_SETTLE_SECONDS):
                while self._pending:
                    await asyncio.wait(self._pending)


class Claim:
    """The right to do a piece of work, while the `async with` block lasts.

    The block ends with `ClaimLost` when somebody else has taken the claim over. At its end the claim is let go, so that the
    next try need not wait, unless `done` was awaited in it. Recording and letting go are finished even when the call is
    cancelled meanwhile.
    """

    def __init__(self, owner: Deduplicator, key: str, remember_for: timedelta) -> None:
        self.key = key
        self._owner = owner
        self._state = owner.state
        self._id = uuid.uuid4().hex
        self._remember_for = remember_for
        self._lost = False
        self._settled = False
        self._writing = asyncio.Lock()
        self._task: asyncio.Task[object] | None = None
        self._cancelling = 0
        self._keeping: asyncio.Task[None] | None = None
        self._over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def __aenter__(self) -> Self:
        self._owner.expect(self._over)
        self._task = asyncio.current_task()
        self._cancelling = self._task.cancelling() if self._task else 0
        self._keeping = asyncio.ensure_future(self._keep())
        self._keeping.add_done_callback(self._kept)
        return self

    async def __aexit__(
        self, _kind: type[BaseException] | None, error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        try:
            await self._leave(error)
        finally:
            self._over.set_result(None)

    async def _leave(self, error: BaseException | None) -> None:
        self._stop_keeping()
        if self._lost:
            # Ours is one cancellation; where there is another one, the call itself is to end.
            assert self._task is not None  # noqa: S101 - it was cancelled
            if self._task.uncancel() <= self._cancelling and error is not None:
                raise ClaimLost from error
        elif not self._settled:
            await asyncio.shield(self._owner.spawn(self._let_go()))

    async def done(self) -> None:
        """Record that the work is done. Never raises for the store: what is done is done, recorded or not."""
        self._stop_keeping()
        self._settled = True
        await asyncio.shield(self._owner.spawn(self._record()))

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
        record, now = item.value, self._owner.now()
        if record.claim == self._id:
            return None  # the sidecar tried twice (a retry policy may say so), and told us of the second time
        if record.HasField("done_at"):
            remembered_until = record.remembered_until.ToDatetime(UTC)
            if now < remembered_until:
                return Repetition(record.done_at.ToDatetime(UTC), remembered_until)
        elif now < (claimed_until := record.claimed_until.ToDatetime(UTC)):
            raise Busy(claimed_until)
        else:
            logger.warning("the claim {} lapsed at {}: taken over", self.key, _text(claimed_until))
        try:
            await self._save(self._claimed(), etag=item.etag)
        except Conflict as error:
            item = await self._state.get(self.key, HandledEvent)
            if item is None or item.value.claim != self._id:
                raise Busy from error
        return None

    async def abandon(self, taking: asyncio.Task[Repetition | None]) -> None:
        """Let a claim go of which nobody knows whether it was written."""
        await asyncio.wait([taking])
        with contextlib.suppress(ClaimLost, SidecarError, TimeoutError):
            await self._delete()

    async def _keep(self) -> None:
        """Renew the claim until cancelled; raises `ClaimLost` when it is somebody else's."""
        beat = self._owner.lease.total_seconds() / 3
        while True:
            await asyncio.sleep(beat)
            try:
                # To its end: one that was cut short could come after the record was let go, and on Redis bring it back.
                await asyncio.shield(self._owner.spawn(self._renew(min(beat, _SETTLE_SECONDS / 2))))
            except (SidecarError, TimeoutError) as error:
                # Nobody is known to have taken it over. To end the work now would make it certain that it is done again.
                logger.warning("the claim {} could not be renewed: {}", self.key, str(error) or "no answer in time")

    async def _renew(self, seconds: float) -> None:
        async with asyncio.timeout(seconds), self._writing:
            item = await self._mine()
            try:
                await self._save(self._claimed(), etag=item.etag)
            except Conflict:
                await self._mine()

    def _kept(self, keeping: asyncio.Task[None]) -> None:
        """End the work when its claim is lost."""
        if keeping is not self._keeping or keeping.cancelled():
            return
        error = keeping.exception()
        if not isinstance(error, ClaimLost):
            logger.opt(exception=error).error("the claim {} is renewed no more", self.key)
        elif self._task is not None:
            self._lost = True
            self._task.cancel()

    def _stop_keeping(self) -> None:
        keeping, self._keeping = self._keeping, None
        if keeping is not None:
            keeping.cancel()

    async def _record(self) -> None:
        pause = _FIRST_PAUSE_SECONDS
        trouble: object = "no answer in time"
        try:
            async with asyncio.timeout(_SETTLE_SECONDS), self._writing:
                while True:
                    try:
                        await self._save_done()
                    except SidecarError as error:
                        trouble = error
                    else:
                        return
                    await asyncio.sleep(pause)
                    pause *= 2
        except ClaimLost:
            logger.warning("the claim {} was taken over before its work was done: it may be done twice", self.key)
        except TimeoutError:
            logger.warning(
                "what was done under {} is not recorded, so a repetition is done again: {}", self.key, trouble
            )

    async def _save_done(self) -> None:
        now = self._owner.now()
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

    async def _let_go(self) -> None:
        try:
            await self._delete()
        except (ClaimLost, Conflict):
            pass  # somebody else's by now
        except (SidecarError, TimeoutError) as error:
            logger.warning(
                "the claim {} could not be let go, so it holds until {}: {}",
                self.key,
                _text(self._owner.now() + self._owner.lease),
                str(error) or "no answer in time",
            )

    async def _delete(self) -> None:
        async with asyncio.timeout(_SETTLE_SECONDS), self._writing:
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
        return HandledEvent(claim=self._id, claimed_until=_timestamp(self._owner.now() + self._owner.lease))

    async def _save(self, record: HandledEvent, *, etag: str | None = None, first_write: bool = False) -> None:
        ttl = (self._remember_for if record.HasField("done_at") else self._owner.lease) + _SLACK
        await self._state.save(self.key, record, etag=etag, first_write=first_write, ttl=ttl)


def _timestamp(moment: datetime) -> Timestamp:
    made = Timestamp()
    made.FromDatetime(moment)
    return made


def _text(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
