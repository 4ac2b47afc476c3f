"""A state store in memory with the etags and errors of the real one, and places to step in between two of its calls."""

from __future__ import annotations

import itertools
from collections import defaultdict
from typing import TYPE_CHECKING, TypeVar

import grpc
from google.protobuf import json_format
from google.protobuf.message import Message

from apibase import Conflict, SidecarError, SidecarUnavailable, StateItem

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from datetime import timedelta

M = TypeVar("M", bound=Message)


class MemoryState:
    """Stands in for `StateManager`.

    `before_save` and `after_save` take a hook for the next save of a key: what another writer does in between, or a lost
    answer when it raises.
    """

    store_name = "memory"

    def __init__(self) -> None:
        self.rows: dict[str, tuple[str, str]] = {}
        self.saves: list[str] = []
        self.unreadable: set[str] = set()
        self._etags = itertools.count(1)
        self._before: dict[str, list[Callable[[], Awaitable[object]]]] = defaultdict(list)
        self._after: dict[str, list[Callable[[], Awaitable[object]]]] = defaultdict(list)

    def before_save(self, key: str, hook: Callable[[], Awaitable[object]]) -> None:
        self._before[key].append(hook)

    def after_save(self, key: str, hook: Callable[[], Awaitable[object]]) -> None:
        self._after[key].append(hook)

    async def get(self, key: str, message: type[M]) -> StateItem[M] | None:
        if key in self.unreadable:
            raise SidecarError(grpc.StatusCode.DATA_LOSS, "STATE_UNREADABLE", f"the state under {key!r} is garbage")
        if key not in self.rows:
            return None
        text, etag = self.rows[key]
        return StateItem(key, json_format.Parse(text, message()), etag)

    async def save(
        self,
        key: str,
        value: Message,
        *,
        etag: str | None = None,
        first_write: bool = False,
        ttl: timedelta | None = None,
    ) -> None:
        assert ttl is None
        text = json_format.MessageToJson(value)
        if self._before[key]:
            await self._before[key].pop(0)()
        present = self.rows.get(key)
        if etag is not None:
            if present is None or present[1] != etag:
                raise Conflict(key, component=self.store_name)
        elif first_write and present is not None:
            raise Conflict(key, component=self.store_name)
        self.rows[key] = (text, str(next(self._etags)))
        self.saves.append(key)
        if self._after[key]:
            await self._after[key].pop(0)()

    async def delete(self, key: str, *, etag: str | None = None) -> None:
        raise AssertionError("rows are never deleted")


async def unavailable() -> None:
    """Fail as a sidecar that is away; after a save, its answer is what got lost."""
    raise SidecarUnavailable("the sidecar is away")


async def refused() -> None:
    """Fail as a store that is full, before anything is written."""
    raise SidecarError(grpc.StatusCode.INTERNAL, "SIDECAR_ERROR", "the disk is full")
