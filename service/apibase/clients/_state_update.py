"""Read, change, save, and again where somebody else was faster."""

from __future__ import annotations

import asyncio
import inspect
import random
import time
from typing import TYPE_CHECKING, TypeVar, cast
from weakref import WeakKeyDictionary, WeakValueDictionary

from apibase.clients.state_items import StateItem
from apibase.deadline import deadline
from apibase.errors import Conflict

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from datetime import timedelta

    from apibase.clients._values import Value
    from apibase.clients.state import StateManager

V = TypeVar("V")

_FIRST_PAUSE_SECONDS = 0.005
_LONGEST_PAUSE_SECONDS = 0.5


class Updates:
    """Updates of one store's keys. Those of one key that meet in this process take turns; with those of others, etags decide."""

    def __init__(self, state: StateManager) -> None:
        self._state = state
        self._turns: WeakKeyDictionary[asyncio.AbstractEventLoop, WeakValueDictionary[str, asyncio.Lock]] = (
            WeakKeyDictionary()
        )

    async def update(
        self,
        key: str,
        kind: type[V],
        change: Callable[[V | None], V | Awaitable[V]],
        *,
        ttl: timedelta | None,
        within: float,
    ) -> StateItem[V]:
        """Change what is under a key; no try begins later than `within` seconds from now, or than the inbound call's time ends."""
        end = time.monotonic() + (deadline.bound(within) or 0.0)
        turn = self._turn(key)
        try:
            async with asyncio.timeout(end - time.monotonic()):
                await turn.acquire()
        except TimeoutError:
            raise Conflict(key, component=self._state.store_name) from None
        try:
            return await self._until_saved(key, kind, change, ttl, end)
        finally:
            turn.release()

    def _turn(self, key: str) -> asyncio.Lock:
        turns = self._turns.setdefault(asyncio.get_running_loop(), WeakValueDictionary())
        # Held by those who wait for it only.
        turn = turns.get(key)
        if turn is None:
            turn = turns[key] = asyncio.Lock()
        return turn

    async def _until_saved(
        self,
        key: str,
        kind: type[V],
        change: Callable[[V | None], V | Awaitable[V]],
        ttl: timedelta | None,
        end: float,
    ) -> StateItem[V]:
        pause = _FIRST_PAUSE_SECONDS
        while True:
            item = await self._state.get(key, kind)
            changed = change(None if item is None else item.value)
            value = cast("V", await changed if inspect.isawaitable(changed) else changed)
            try:
                await self._state.save(
                    key,
                    cast("Value", value),
                    etag=None if item is None else item.etag,
                    first_write=item is None,
                    ttl=ttl,
                )
            except Conflict:
                # Anywhere within the pause, so that those who met don't meet again.
                wait = random.uniform(0, pause)  # noqa: S311 - no secret
                if end - time.monotonic() <= wait:
                    raise
                await asyncio.sleep(wait)
                pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)
            else:
                return StateItem(key, value, "")
