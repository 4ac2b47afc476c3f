"""The archive of dead letters: what died, why, and its data, kept in a state store for a time.

A letter stands under a key of its own (see `letter_store`), and in an index of pages (see `index`). The page is written first:
what breaks off in between leaves an entry without its letter, and the broker brings the letter again. A letter that comes
again, or dies again after a replay, has the same id: it is one letter, listed where it came last.
"""

from __future__ import annotations

import asyncio
from contextvars import Context
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from apibase.dead_letters.few_at_a_time import for_each
from apibase.dead_letters.filter import moment
from apibase.dead_letters.index import PAGE_SIZE, DeadLetterIndex
from apibase.dead_letters.letter_store import LetterStore, entry_of
from apibase.settings import DEFAULT_MAX_BYTES

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

    from apibase.clients import StateManager
    from apibase.dead_letters.filter import DeadLetterFilter
    from dapr_contract.v1.dead_letters_pb2 import DeadLetter, DeadLetterEntry, DeadLetterPage


class DeadLetterArchive:
    """The dead letters of one app, in a state store of its sidecar. Every method raises `SidecarError` where that fails.

    An app whose setting `dead_letter_store` is set archives by itself; what reads is `find` and `get`, from anywhere that
    calls through the same app's sidecar: Dapr keeps each app's keys apart. `ttl` is how long a letter is kept.
    """

    def __init__(
        self,
        state: StateManager,
        *,
        ttl: timedelta = timedelta(days=30),
        max_message_bytes: int = DEFAULT_MAX_BYTES,
    ) -> None:
        self._ttl = ttl
        self._letters = LetterStore(state, max_message_bytes)
        self._index = DeadLetterIndex(state)
        self._waiting: list[tuple[DeadLetter, asyncio.Future[None]]] = []
        self._worker: asyncio.Task[None] | None = None

    async def find(self, wanted: DeadLetterFilter | None = None, *, limit: int = 0) -> list[DeadLetterEntry]:
        """Return the entries of the letters that are meant, the newest first; at most `limit`, where it is not 0."""
        found: list[DeadLetterEntry] = []
        async for entry in self._entries():
            if wanted is None or entry.summary in wanted:
                found.append(entry)
                if len(found) == limit:
                    break
        return found

    async def get(self, letter_id: str) -> DeadLetter | None:
        """Return a letter by its whole id; None where there is none, or none any more."""
        return await self._letters.get(letter_id)

    async def add(self, letter: DeadLetter) -> None:
        """Keep a letter as of now; returning means that the store has it and the index lists it.

        Letters that come while others are being written are written together.
        """
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((letter, done))
        if self._worker is None or self._worker.done():
            # In a context of its own: the deadline of the first letter's call is not that of the others.
            self._worker = asyncio.create_task(self._write_waiting(), context=Context())
        await done

    async def mark_replayed(self, letter: DeadLetter, at: datetime) -> None:
        """Note that a letter, as it was read, was published again at that time."""
        marked = await self._letters.mark_replayed(letter, at)
        if marked is None:
            return

        def change(page: DeadLetterPage) -> bool:
            entries = [entry for entry in page.entries if entry.id == letter.id]
            for entry in entries:
                entry.summary.replayed_at.CopyFrom(marked.summary.replayed_at)
            return bool(entries)

        await self._index.change(marked.page, change)

    async def delete(self, entries: Iterable[DeadLetterEntry]) -> None:
        """Delete letters for good, and what the index has of them, but for those that came again since they were listed."""
        seen = {entry.id: moment(entry.summary.archived_at) for entry in entries}

        async def delete_one(letter_id: str) -> None:
            await self._letters.delete(letter_id, seen[letter_id])

        await for_each(delete_one, seen)

        def goes(entry: DeadLetterEntry) -> bool:
            return entry.id in seen and moment(entry.summary.archived_at) <= seen[entry.id]

        def change(page: DeadLetterPage) -> bool:
            kept = [entry for entry in page.entries if not goes(entry)]
            changed = len(kept) < len(page.entries)
            del page.entries[:]
            page.entries.extend(kept)
            return changed

        async for number, listed in self._index.pages():
            if any(map(goes, listed)):
                await self._index.change(number, change)

    async def close(self) -> None:
        """Stop writing; what waits still fails, and the broker brings it again."""
        if self._worker is not None:
            self._worker.cancel()
            await asyncio.gather(self._worker, return_exceptions=True)
        while self._waiting:
            self._waiting.pop()[1].cancel()

    async def _entries(self) -> AsyncIterator[DeadLetterEntry]:
        """Yield each letter's newest entry, the newest first."""
        now = datetime.now(UTC)
        seen: set[str] = set()
        async for _, entries in self._index.pages():
            for entry in reversed(entries):
                if entry.id not in seen and moment(entry.summary.expires_at) > now:
                    seen.add(entry.id)
                    yield entry

    async def _write_waiting(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting[:PAGE_SIZE], self._waiting[PAGE_SIZE:]
            failures: list[BaseException | None] = [asyncio.CancelledError()] * len(batch)
            try:
                failures = await self._write([letter for letter, _ in batch])
            except Exception as error:  # noqa: BLE001 - each letter's own call is told
                failures = [error] * len(batch)
            finally:
                for (_, done), failure in zip(batch, failures, strict=True):
                    if done.done():
                        continue
                    if failure is None:
                        done.set_result(None)
                    elif isinstance(failure, Exception):
                        done.set_exception(failure)
                    else:
                        done.cancel()

    async def _write(self, letters: list[DeadLetter]) -> list[BaseException | None]:
        """Write letters, listed before they are written; return what each failed with."""
        now = datetime.now(UTC)
        for letter in letters:
            letter.summary.archived_at.FromDatetime(now)
            letter.summary.expires_at.FromDatetime(now + self._ttl)
        await for_each(self._letters.keep_replay, letters)
        pages = await self._index.append(list(map(entry_of, letters)))
        for letter, page in zip(letters, pages, strict=True):
            letter.page = page
        return await for_each(self._saved, letters)

    async def _saved(self, letter: DeadLetter) -> BaseException | None:
        """Save a letter and return what that failed with, if it did: the others of a batch don't fail with it."""
        try:
            await self._letters.save(letter)
        except Exception as error:  # noqa: BLE001 - the letter's own call is told
            return error
        return None
