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
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Self, TypeVar

from loguru import logger

from apibase.deduplication.record import ClaimLost, ClaimRecord, Repetition, time_text
from apibase.errors import Conflict, SidecarError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence
    from datetime import timedelta
    from types import TracebackType

    from apibase.clients.state import StateManager

T = TypeVar("T")

# How long recording and letting go may take when the store is slow or away.
_SETTLE_SECONDS = 5.0
_FIRST_PAUSE_SECONDS = 0.1


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
        self.lease = lease
        self.now = now
        self._state = state
        self._app_id = app_id
        self._pending: set[asyncio.Future[Any]] = set()

    async def claim(self, handler: str, identity: Sequence[str | int], remember_for: timedelta) -> Claim | Repetition:
        """Claim the work of `handler` on what `identity` names, to be remembered for `remember_for` once it is done.

        Returns a `Repetition` where it is done and remembered. Raises `Busy` where it is claimed, and `SidecarError` where
        the store can't be asked: then it is unknown, and must not be done.
        """
        record = ClaimRecord(self._state, self.key(handler, identity), self.lease, remember_for, self.now)
        claim = Claim(self, record)
        taking = self.spawn(record.take())
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

    def __init__(self, owner: Deduplicator, record: ClaimRecord) -> None:
        self.key = record.key
        self._owner = owner
        self._record = record
        self._lost = False
        self._settled = False
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
        await asyncio.shield(self._owner.spawn(self._remember()))

    async def abandon(self, taking: asyncio.Task[Repetition | None]) -> None:
        """Let a claim go of which nobody knows whether it was written."""
        await asyncio.wait([taking])
        with contextlib.suppress(ClaimLost, SidecarError, TimeoutError):
            await self._record.delete(_SETTLE_SECONDS)

    async def _keep(self) -> None:
        """Renew the claim until cancelled; raises `ClaimLost` when it is somebody else's."""
        beat = self._owner.lease.total_seconds() / 3
        while True:
            await asyncio.sleep(beat)
            try:
                # To its end: one that was cut short could come after the record was let go, and on Redis bring it back.
                await asyncio.shield(self._owner.spawn(self._record.renew(min(beat, _SETTLE_SECONDS / 2))))
            except (SidecarError, TimeoutError) as error:
                # Nobody is known to have taken it over. To end the work now would make it certain that it is done again.
                logger.warning("the claim {} could not be renewed: {}", self.key, str(error) or "no answer in time")

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

    async def _remember(self) -> None:
        pause = _FIRST_PAUSE_SECONDS
        trouble: object = "no answer in time"
        try:
            async with asyncio.timeout(_SETTLE_SECONDS):
                while True:
                    try:
                        await self._record.save_done()
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

    async def _let_go(self) -> None:
        try:
            await self._record.delete(_SETTLE_SECONDS)
        except (ClaimLost, Conflict):
            pass  # somebody else's by now
        except (SidecarError, TimeoutError) as error:
            logger.warning(
                "the claim {} could not be let go, so it holds until {}: {}",
                self.key,
                time_text(self._owner.now() + self._owner.lease),
                str(error) or "no answer in time",
            )
