"""The index of the archive of dead letters: numbered pages in a state store, written by several replicas at once.

Every write names the version that it changes (etag), and one that comes too late is tried again on what is there then. A page
is kept until the last of its letters expires; what says where the pages begin and end is kept for good.
"""

from __future__ import annotations

import asyncio
import random
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from loguru import logger

from apibase.errors import Conflict, SidecarError
from dapr_contract.v1 import dead_letters_pb2

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    from apibase.clients import StateItem, StateManager

PAGE_SIZE = 100
"""Letters of a page."""
MOST_CONFLICTS = 12
"""Conflicts in a row after which a write is given up."""

_INDEX = "dead-letters/index"
_FIRST_PAUSE_SECONDS = 0.01
_LONGEST_PAUSE_SECONDS = 1.0
_PAGES_AT_ONCE = 8
_PAGES_MOVED_ON = 20

T = TypeVar("T")
Page = dead_letters_pb2.DeadLetterPage
Entry = dead_letters_pb2.DeadLetterEntry


class DeadLetterIndex:
    """What lies in the archive, in the order in which it came."""

    def __init__(self, state: StateManager) -> None:
        self._state = state

    async def append(self, entries: Sequence[Entry]) -> list[int]:
        """Add entries after all others; return the number of the page that each is on.

        Raises `SidecarError`; then some of the entries may be on a page all the same.
        """
        numbers: list[int] = []
        while left := entries[len(numbers) :]:
            numbers += await persist(partial(self._append_some, left))
        return numbers

    async def pages(self) -> AsyncIterator[tuple[int, list[Entry]]]:
        """Yield the number and the entries of each page that is there, the newest page first."""
        head = await self._head()
        index = head.value if head else _new_index()
        for last in range(index.last_page, index.first_page - 1, -_PAGES_AT_ONCE):
            numbers = range(last, max(last - _PAGES_AT_ONCE, index.first_page - 1), -1)
            for number, item in zip(numbers, await asyncio.gather(*map(self._page, numbers)), strict=True):
                if item is not None:
                    yield number, list(item.value.entries)

    async def change(self, number: int, change: Callable[[Page], bool]) -> None:
        """Change a page, if it is there; `change` returns whether it did, and may be called again. Raises `SidecarError`."""

        async def attempt() -> None:
            item = await self._page(number)
            if item is not None and change(item.value):
                await self._save(number, item.value, item.etag)

        await persist(attempt)

    async def _append_some(self, entries: Sequence[Entry]) -> list[int]:
        """Add the entries that the last page has room for, or begin the next one."""
        head = await self._head()
        number = head.value.last_page if head else 1
        try:
            item = await self._read(number)
        except SidecarError as error:
            if error.reason != "STATE_UNREADABLE":
                raise
            logger.error("page {} of the archive of dead letters can't be read; going on with the next one", number)
            await self._turn(head)
            return []
        page = item.value if item else Page()
        room = PAGE_SIZE - len(page.entries)
        if room <= 0:
            await self._turn(head)
            return []
        page.entries.extend(entries[:room])
        await self._save(number, page, item.etag if item else None)
        return [number] * min(room, len(entries))

    async def _turn(self, head: StateItem[dead_letters_pb2.DeadLetterIndex] | None) -> None:
        """Go on with a new page, and past those that have expired."""
        index = head.value if head else _new_index()
        for _ in range(_PAGES_MOVED_ON):
            if index.first_page >= index.last_page or await self._page(index.first_page) is not None:
                break
            index.first_page += 1
        index.last_page += 1
        await self._state.save(_INDEX, index, etag=head.etag if head else None, first_write=head is None)

    async def _head(self) -> StateItem[dead_letters_pb2.DeadLetterIndex] | None:
        return await self._state.get(_INDEX, dead_letters_pb2.DeadLetterIndex)

    async def _page(self, number: int) -> StateItem[Page] | None:
        """Return a page; None where it has expired, and where it can't be read: the others shall be seen all the same."""
        try:
            return await self._read(number)
        except SidecarError as error:
            if error.reason != "STATE_UNREADABLE":
                raise
            logger.error("a page of the archive of dead letters is passed over: {}", error.message)
            return None

    async def _read(self, number: int) -> StateItem[Page] | None:
        return await self._state.get(f"dead-letters/page/{number}", Page)

    async def _save(self, number: int, page: Page, etag: str | None) -> None:
        until = max((entry.summary.expires_at.ToDatetime(UTC) for entry in page.entries), default=datetime.now(UTC))
        ttl = max(until - datetime.now(UTC), timedelta(seconds=1))
        await self._state.save(f"dead-letters/page/{number}", page, etag=etag, first_write=etag is None, ttl=ttl)


async def persist(attempt: Callable[[], Awaitable[T]]) -> T:
    """Try until nobody else was first, with growing random pauses; after `MOST_CONFLICTS` raise the last `Conflict`."""
    for conflicts in range(MOST_CONFLICTS):
        try:
            return await attempt()
        except Conflict:
            await asyncio.sleep(random.uniform(0, min(_FIRST_PAUSE_SECONDS * 2**conflicts, _LONGEST_PAUSE_SECONDS)))  # noqa: S311 - no secret
    return await attempt()


def _new_index() -> dead_letters_pb2.DeadLetterIndex:
    return dead_letters_pb2.DeadLetterIndex(first_page=1, last_page=1)
