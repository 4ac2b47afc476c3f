"""The archive of dead letters: what died, why, and its data, kept in a state store for a time.

A letter stands under a key of its own, and in an index of pages (see `dead_letter_index`). The page is written first: what
breaks off in between leaves an entry without its letter, and the broker brings the letter again. A letter that comes again, or
dies again after a replay, has the same id: it is one letter, listed where it came last.
"""

from __future__ import annotations

import asyncio
from contextvars import Context
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import grpc
from google.protobuf import json_format
from loguru import logger

from apibase.dead_letters.index import PAGE_SIZE, DeadLetterIndex, persist
from apibase.errors import SidecarError
from apibase.settings import DEFAULT_MAX_BYTES
from dapr_contract.v1 import dead_letters_pb2

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable

    from google.protobuf.message import Message
    from google.protobuf.timestamp_pb2 import Timestamp

    from apibase.clients import StateItem, StateManager
    from dapr_contract.v1.dead_letters_pb2 import DeadLetter, DeadLetterEntry, DeadLetterPage, DeadLetterSummary

A = TypeVar("A")
T = TypeVar("T")

_AT_ONCE = 16
_CUT = 200
_TICK = timedelta(microseconds=1)
_ENVELOPE_BYTES = 64 * 1024  # what a letter's save takes beside the letter
_AWAY = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.ABORTED,
        grpc.StatusCode.UNAUTHENTICATED,
        grpc.StatusCode.PERMISSION_DENIED,
    }
)
"""How a store fails that would not take a smaller letter either."""


@dataclass(frozen=True, slots=True)
class DeadLetterFilter:
    """Which letters are meant; what is empty is not asked for.

    `handler` and `type` are full names, or the ends of such from a dot on; `topic` is the event's or the dead-letter topic;
    `since` when the letter came at the earliest; `waiting` leaves out those that were replayed and have not died again.
    """

    code: str = ""
    handler: str = ""
    topic: str = ""
    type: str = ""
    since: datetime | None = None
    waiting: bool = False

    def __contains__(self, summary: DeadLetterSummary) -> bool:
        """Whether a letter is meant."""
        return (
            self.code in {"", summary.code}
            and _ends(summary.handler, self.handler)
            and self.topic in {"", summary.topic, summary.dead_letter_topic}
            and _ends(summary.event_type, self.type)
            and (self.since is None or summary.archived_at.ToDatetime(UTC) >= self.since)
            and not (self.waiting and is_replayed(summary))
        )


def _ends(name: str, wanted: str) -> bool:
    """Whether a name is the wanted one, or ends in it from a dot on."""
    return not wanted or f".{name}".endswith(f".{wanted}")


def is_replayed(summary: DeadLetterSummary) -> bool:
    """Whether a letter was published again, and has not died again since."""
    return summary.HasField("replayed_at") and _time(summary.replayed_at) >= _time(summary.archived_at)


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
        self._state = state
        self._ttl = ttl
        self._max_bytes = max_message_bytes - _ENVELOPE_BYTES
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
        item = await self._item(letter_id)
        return item.value if item else None

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
        """Note that a letter, as it was read, was published again at that time.

        Clocks may differ: the time is put after that of the letter, or before it, if it has died again meanwhile.
        """

        async def attempt() -> DeadLetter | None:
            item = await self._item(letter.id)
            if item is None:
                return None
            summary = item.value.summary
            archived = _time(summary.archived_at)
            died_again = archived > _time(letter.summary.archived_at)
            summary.replayed_at.FromDatetime(min(at, archived - _TICK) if died_again else max(at, archived))
            await self._state.save(_key(letter.id), item.value, etag=item.etag, ttl=_left(summary))
            return item.value

        marked = await persist(attempt)
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
        seen = {entry.id: _time(entry.summary.archived_at) for entry in entries}

        async def delete_one(letter_id: str) -> None:
            item = await self._item(letter_id)
            if item is not None and _time(item.value.summary.archived_at) <= seen[letter_id]:
                await self._state.delete(_key(letter_id), etag=item.etag)

        await _each(lambda letter_id: persist(partial(delete_one, letter_id)), seen)

        def goes(entry: DeadLetterEntry) -> bool:
            return entry.id in seen and _time(entry.summary.archived_at) <= seen[entry.id]

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
                if entry.id not in seen and _time(entry.summary.expires_at) > now:
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
        await _each(self._keep_replay, letters)
        pages = await self._index.append(list(map(_entry, letters)))
        for letter, page in zip(letters, pages, strict=True):
            letter.page = page
        return await _each(self._saved, letters)

    async def _saved(self, letter: DeadLetter) -> BaseException | None:
        """Save a letter and return what that failed with, if it did: the others of a batch don't fail with it."""
        try:
            await self._save(letter)
        except Exception as error:  # noqa: BLE001 - the letter's own call is told
            return error
        return None

    async def _save(self, letter: DeadLetter) -> None:
        """Write a letter; one that the store can't take whole is written without what makes it large."""
        if len(json_format.MessageToJson(letter, indent=None).encode()) > self._max_bytes:
            await self._save_as(_without_data(letter, "it is larger than a message to the store may be"))
            return
        try:
            await self._save_as(letter)
        except SidecarError as error:
            if error.code in _AWAY:
                raise
            # Perhaps the store takes no value so large. That it takes a small one, and again not this one, says so.
            small = _without_data(letter, f"the store did not take it: {error.message}"[:_CUT])
            await self._save_as(small)
            try:
                await self._save_as(letter)
            except SidecarError as again:
                if again.code in _AWAY:
                    raise
                logger.warning("dead letter {} is archived without its data: {}", letter.id, error)

    async def _save_as(self, letter: DeadLetter) -> None:
        async def attempt() -> None:
            there, etag = await self._keep_replay(letter)
            await self._state.save(_key(letter.id), letter, etag=etag, first_write=not there, ttl=_left(letter.summary))

        await persist(attempt)

    async def _keep_replay(self, letter: DeadLetter) -> tuple[bool, str | None]:
        """Take over what the archive knows of the letter's last replay; return whether it has it, and its etag."""
        try:
            item = await self._item(letter.id)
        except SidecarError as error:
            if error.reason != "STATE_UNREADABLE":
                raise
            return True, None  # It is written over.
        if item is not None and item.value.summary.HasField("replayed_at"):
            letter.summary.replayed_at.CopyFrom(item.value.summary.replayed_at)
            if is_replayed(letter.summary):  # by a clock that is ahead of ours: it came again, so it died after that
                letter.summary.archived_at.FromDatetime(_time(letter.summary.replayed_at) + _TICK)
        return item is not None, item.etag if item else None

    async def _item(self, letter_id: str) -> StateItem[DeadLetter] | None:
        return await self._state.get(_key(letter_id), dead_letters_pb2.DeadLetter)


async def _each(call: Callable[[A], Awaitable[T]], items: Iterable[A]) -> list[T]:
    """Call a function with each item, a few at a time; the first failure ends all."""
    free = asyncio.Semaphore(_AT_ONCE)

    async def one(item: A) -> T:
        async with free:
            return await call(item)

    tasks = [asyncio.create_task(one(item)) for item in items]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _entry(letter: DeadLetter) -> DeadLetterEntry:
    """Return what the index has of a letter: no text longer than 200 characters, so that a page stays small."""
    entry = dead_letters_pb2.DeadLetterEntry(id=letter.id, summary=letter.summary)
    _cut_texts(entry.summary)
    return entry


def _without_data(letter: DeadLetter, why: str) -> DeadLetter:
    """Return a letter that any store takes: without data and extensions, and with no long texts."""
    small = dead_letters_pb2.DeadLetter()
    small.CopyFrom(letter)
    small.ClearField("data")
    small.ClearField("extensions")
    small.data_missing = why
    _cut_texts(small)
    _cut_texts(small.summary)
    return small


def _cut_texts(message: Message) -> None:
    for field, value in message.ListFields():
        if isinstance(value, str) and len(value) > _CUT:
            setattr(message, field.name, f"{value[: _CUT - 1]}…")


def _key(letter_id: str) -> str:
    return f"dead-letters/letter/{letter_id}"


def _left(summary: DeadLetterSummary) -> timedelta:
    """Return how long a letter is still kept."""
    return max(_time(summary.expires_at) - datetime.now(UTC), timedelta(seconds=1))


def _time(stamp: Timestamp) -> datetime:
    return stamp.ToDatetime(UTC)
