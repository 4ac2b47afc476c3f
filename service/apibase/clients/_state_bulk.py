"""Many keys at once, and what became of each.

daprd does the writes of a bulk each for itself, all at once, and answers with one error for all of them, which on PostgreSQL and SQLite
does not say whose it is. So what can be told only by itself is sent by itself: a write with a condition. Writes without one go in bulk
and, where the component fails on some of them, again one by one: the last writer wins, so to write the same a second time does no harm.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import grpc
from dapr.proto import api_v1

from apibase.clients._state_wire import check_key, read_of_many
from apibase.clients.state_items import BulkItems, BulkWrites
from apibase.errors import SidecarError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

    from dapr.proto import common_v1

    from apibase.clients._transport import Sidecar
    from apibase.clients.state_items import Operation, StateItem

    One = Callable[[common_v1.StateItem], Awaitable[None]]
    All = Callable[[Sequence[common_v1.StateItem]], Awaitable[None]]

V = TypeVar("V")

_A_CALL = 100  # keys
_OF_SOME_KEYS = frozenset({grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN, grpc.StatusCode.ABORTED})
"""What a component says of some of the keys. All else is of the call, and each key's own would fail so too, or may have happened."""


async def get_many(
    sidecar: Sidecar, store: str, keys: Iterable[str], kind: type[V], metadata: Mapping[str, str]
) -> BulkItems[V]:
    """Read keys, a hundred in a call. Raises `SidecarError` where a call fails; what fails of one key is told of that one."""
    wanted = list(dict.fromkeys(keys))
    for key in wanted:
        check_key(key)
    items: dict[str, StateItem[V] | None] = dict.fromkeys(wanted)
    errors: dict[str, SidecarError] = {}
    for some in _chunks(wanted):
        request = api_v1.GetBulkStateRequest(store_name=store, keys=some, metadata=dict(metadata))
        answer = await sidecar.call(partial(sidecar.stub.GetBulkState, request), component=store, safe=True)
        for each in answer.items:
            try:
                items[each.key] = read_of_many(store, each, kind)
            except SidecarError as error:
                items.pop(each.key, None)
                errors[each.key] = error
    return BulkItems(errors, items)


async def write_many(
    operations: Sequence[Operation], items: Mapping[str, common_v1.StateItem], one: One, all_of: All, at_once: int
) -> BulkWrites:
    """Make writes: `one` sends one and raises what it failed with, `all_of` sends several, in one call."""
    errors: dict[str, SidecarError] = {}
    places = asyncio.Semaphore(at_once)

    async def alone(key: str) -> None:
        async with places:
            try:
                await one(items[key])
            except SidecarError as error:
                errors[key] = error

    async def together(keys: Sequence[str]) -> None:
        try:
            await all_of([items[key] for key in keys])
        except SidecarError as error:
            if error.code not in _OF_SOME_KEYS:
                errors.update(dict.fromkeys(keys, error))
                return
            await asyncio.gather(*map(alone, keys))

    plain = [each.key for each in operations if not each.conditional]
    await asyncio.gather(
        *map(together, _chunks(plain)),
        *(alone(each.key) for each in operations if each.conditional),
    )
    return BulkWrites(
        {each.key: errors[each.key] for each in operations if each.key in errors},
        tuple(each.key for each in operations if each.key not in errors),
    )


def _chunks(keys: Sequence[str]) -> list[Sequence[str]]:
    return [keys[start : start + _A_CALL] for start in range(0, len(keys), _A_CALL)]


def refuse_twice(operations: Sequence[Operation]) -> None:
    """Raise `ValueError` where a key comes twice: daprd writes all at once, and which one would be the last is chance."""
    seen: set[str] = set()
    for each in operations:
        if each.key in seen:
            raise ValueError(f"the key {each.key!r} comes twice; there is no order in a bulk")
        seen.add(each.key)
