"""The letters of the archive themselves, each under a key of its own in a state store."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import grpc
from google.protobuf import json_format
from loguru import logger

from apibase.dead_letters.filter import is_replayed, moment
from apibase.dead_letters.index import persist
from apibase.errors import SidecarError
from dapr_contract.v1 import dead_letters_pb2

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from apibase.clients import StateItem, StateManager
    from dapr_contract.v1.dead_letters_pb2 import DeadLetter, DeadLetterEntry, DeadLetterSummary

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


class LetterStore:
    """Letters by their ids. Every write names the version that it changes. Every method raises `SidecarError`."""

    def __init__(self, state: StateManager, max_message_bytes: int) -> None:
        self._state = state
        self._max_bytes = max_message_bytes - _ENVELOPE_BYTES

    async def get(self, letter_id: str) -> DeadLetter | None:
        """Return a letter; None where there is none, or none any more."""
        item = await self._item(letter_id)
        return item.value if item else None

    async def save(self, letter: DeadLetter) -> None:
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

    async def keep_replay(self, letter: DeadLetter) -> tuple[bool, str | None]:
        """Take over what the archive knows of the letter's last replay; return whether it has it, and its etag."""
        try:
            item = await self._item(letter.id)
        except SidecarError as error:
            if not is_unreadable(error):
                raise
            return True, None  # It is written over.
        if item is not None and item.value.summary.HasField("replayed_at"):
            letter.summary.replayed_at.CopyFrom(item.value.summary.replayed_at)
            if is_replayed(letter.summary):  # by a clock that is ahead of ours: it came again, so it died after that
                letter.summary.archived_at.FromDatetime(moment(letter.summary.replayed_at) + _TICK)
        return item is not None, item.etag if item else None

    async def mark_replayed(self, letter: DeadLetter, at: datetime) -> DeadLetter | None:
        """Note when a letter, as it was read, was published again; return it as it is now, None where it is not there any more.

        Clocks may differ: the time is put after that of the letter, or before it, if it has died again meanwhile.
        """

        async def attempt() -> DeadLetter | None:
            item = await self._item(letter.id)
            if item is None:
                return None
            summary = item.value.summary
            archived = moment(summary.archived_at)
            died_again = archived > moment(letter.summary.archived_at)
            summary.replayed_at.FromDatetime(min(at, archived - _TICK) if died_again else max(at, archived))
            await self._state.save(_key(letter.id), item.value, etag=item.etag, ttl=_left(summary))
            return item.value

        return await persist(attempt)

    async def delete(self, letter_id: str, archived_at: datetime) -> None:
        """Delete a letter for good, unless it has come again after `archived_at`."""

        async def attempt() -> None:
            item = await self._item(letter_id)
            if item is not None and moment(item.value.summary.archived_at) <= archived_at:
                await self._state.delete(_key(letter_id), etag=item.etag)

        try:
            await persist(attempt)
        except SidecarError as error:
            if not is_unreadable(error):
                raise
            await self._state.delete(_key(letter_id))

    async def _save_as(self, letter: DeadLetter) -> None:
        async def attempt() -> None:
            there, etag = await self.keep_replay(letter)
            await self._state.save(_key(letter.id), letter, etag=etag, first_write=not there, ttl=_left(letter.summary))

        await persist(attempt)

    async def _item(self, letter_id: str) -> StateItem[DeadLetter] | None:
        return await self._state.get(_key(letter_id), dead_letters_pb2.DeadLetter)


def is_unreadable(error: SidecarError) -> bool:
    """Whether something is in the store, but no letter."""
    return error.reason == "STATE_UNREADABLE"


def entry_of(letter: DeadLetter) -> DeadLetterEntry:
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
    return max(moment(summary.expires_at) - datetime.now(UTC), timedelta(seconds=1))
