"""State: values under keys, with etags, times to live, transactions and queries."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from dapr.proto import api_v1, common_v1

from apibase.clients._state_bulk import get_many, refuse_twice, write_many
from apibase.clients._state_dialect import Dialect, may_have_happened
from apibase.clients._state_transaction import transact
from apibase.clients._state_update import Updates
from apibase.clients._state_wire import CONSISTENCY, check_key, needs_dialect, read, same_value, wire
from apibase.clients.state_items import FOREVER, BulkItems, BulkWrites, Delete, StateItem, Upsert
from apibase.clients.state_query import (
    AllOf,
    AnyOf,
    Equal,
    Greater,
    GreaterOrEqual,
    Less,
    LessOrEqual,
    NotEqual,
    OneOf,
    QueryPage,
    Sort,
    query,
    query_text,
)
from apibase.errors import Conflict, SidecarError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
    from datetime import timedelta

    from apibase.clients._transport import Sidecar
    from apibase.clients._values import Value
    from apibase.clients.state_items import Consistency, Operation
    from apibase.clients.state_query import Filter

V = TypeVar("V")

__all__ = [
    "FOREVER",
    "AllOf",
    "AnyOf",
    "BulkItems",
    "BulkWrites",
    "Delete",
    "Equal",
    "Greater",
    "GreaterOrEqual",
    "Less",
    "LessOrEqual",
    "NotEqual",
    "OneOf",
    "QueryPage",
    "Sort",
    "StateItem",
    "StateManager",
    "Upsert",
]

_AT_ONCE = 16
_FIRST_WRITE = common_v1.StateOptions.CONCURRENCY_FIRST_WRITE
_UPDATE_SECONDS = 10.0


class StateManager:
    """A Dapr state store. Values are messages of a contract, pydantic models and JSON, kept as JSON, and text and bytes.

    Every error is a `SidecarError` that names the store. After UNAVAILABLE (`SidecarUnavailable` among them) or DEADLINE_EXCEEDED a write
    may have happened or not: read to know. A key is non-empty and has no `||`; another is a `ValueError`.
    """

    def __init__(self, sidecar: Sidecar, store_name: str) -> None:
        self._sidecar = sidecar
        self.store_name = store_name
        self._updates = Updates(self)

    async def get(
        self,
        key: str,
        kind: type[V],
        *,
        consistency: Consistency = "strong",
        metadata: Mapping[str, str] | None = None,
    ) -> StateItem[V] | None:
        """Return the item under `key`, or None. Raises `SidecarError` also where the value is none of `kind` (DATA_LOSS)."""
        check_key(key)
        store, stub = self.store_name, self._sidecar.stub
        request = api_v1.GetStateRequest(
            store_name=store, key=key, consistency=CONSISTENCY[consistency], metadata=metadata
        )
        answer = await self._sidecar.call(lambda: stub.GetState(request), component=store, safe=True)
        return read(store, key, answer, kind)

    async def save(
        self,
        key: str,
        value: Value,
        *,
        etag: str | None = None,
        first_write: bool = False,
        ttl: timedelta | None = None,
        consistency: Consistency = "strong",
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        """Save `value` under `key`; returning means that the store has it.

        With `etag`, only over the version that it names. With `first_write` and no etag, only where the key is new.
        Otherwise the last writer wins. `ttl` is rounded up to whole seconds; without one the store's default holds, `FOREVER`
        takes one away.

        Raises `Conflict` where somebody else was first, `NotSupported` where the store has no etags or no times to live. A retry
        policy of Dapr's on the store can make a write's second try conflict with its own first: a `Conflict` is certain only without one.
        """
        await self._save(Upsert(key, value, etag, first_write, ttl, consistency, metadata or {}))

    async def delete(
        self,
        key: str,
        *,
        etag: str | None = None,
        consistency: Consistency = "strong",
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        """Delete what is under `key`, if anything; returning means that it is gone.

        With `etag`, only the version that it names; `Conflict` where that is not there (Redis minds only one that has changed, not one that
        is gone).
        """
        operation = Delete(key, etag, consistency, metadata or {})
        dialect = await self._dialect_for(operation)
        await self._send_delete(wire(operation, dialect), dialect)

    async def update(
        self,
        key: str,
        kind: type[V],
        change: Callable[[V | None], V | Awaitable[V]],
        *,
        ttl: timedelta | None = None,
        within: float = _UPDATE_SECONDS,
    ) -> StateItem[V]:
        """Change what is under `key` to what `change` makes of it, and return that, without an etag (the store tells none).

        `change` gets the value, or None where there is none, and returns the new one; it may be a coroutine function. It is called
        again, with what is there then, as long as others are faster: it should do nothing else. No try begins later than `within` seconds
        after the call, or when the inbound call's time is over: then the last `Conflict` is raised. What `change` raises ends it.

        After UNAVAILABLE or DEADLINE_EXCEEDED the change may have been saved: to make it again is to make it twice, unless
        `change` can tell. A retry policy of Dapr's on the store can do the same.
        """
        return await self._updates.update(key, kind, change, ttl=ttl, within=within)

    async def get_bulk(
        self, keys: Iterable[str], kind: type[V], *, metadata: Mapping[str, str] | None = None
    ) -> BulkItems[V]:
        """Return what many keys have; one that can't be read, or is none of `kind`, is told in `errors` and hides no other."""
        return await get_many(self._sidecar, self.store_name, keys, kind, metadata or {})

    async def save_bulk(self, writes: Iterable[Upsert], *, at_once: int = _AT_ONCE) -> BulkWrites:
        """Save many values, each for itself, and return what became of each: no error of a store is raised. This is no transaction.

        Writes without a condition go a hundred in a call, each with a condition in a call of its own, `at_once` of them at a time.
        Raises `ValueError` before anything is sent where a key comes twice.
        """
        return await self._write_many(list(writes), self._send_save, self._save_all, at_once)

    async def delete_bulk(self, keys: Iterable[str | Delete], *, at_once: int = _AT_ONCE) -> BulkWrites:
        """Delete many keys, each for itself, and return what became of each; as `save_bulk` does."""
        deletes = [each if isinstance(each, Delete) else Delete(each) for each in keys]
        return await self._write_many(deletes, self._send_delete, self._delete_all, at_once)

    async def transact(
        self,
        operations: Iterable[Operation],
        *,
        allow_partial: bool = False,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        """Do all of the operations or none; returning means that all are done.

        Raises `Conflict` where somebody else was first with one of the keys; its `key` is empty where it can't be told which. Raises
        `NotSupported`, before anything is sent, where the store has no transactions, or can't undo one that fails (Redis): with
        `allow_partial` it is made there all the same, and after an error any part of it may have been done.
        """
        given = list(operations)
        if given:
            dialect = await self._dialect()
            await transact(self._sidecar, dialect, given, metadata or {}, allow_partial=allow_partial)

    async def query(
        self,
        kind: type[V],
        where: Filter | None = None,
        *,
        sort: Sequence[Sort] = (),
        limit: int = 100,
        token: str = "",
        metadata: Mapping[str, str] | None = None,
    ) -> QueryPage[V]:
        """Return a page of what a filter finds, at most `limit`; with the `token` of a page, the next one.

        Only what was saved as JSON, and not in a transaction, is found by its fields. Raises `NotSupported` where the store has no
        queries, or not this one. PostgreSQL finds rows of other apps in the component's table too, and ones whose time is over until
        they are swept.
        """
        dialect = await self._dialect()
        request = api_v1.QueryStateRequest(
            store_name=self.store_name, query=query_text(dialect, where, sort, limit, token), metadata=metadata
        )
        return await query(self._sidecar, request, kind, limit)

    async def _dialect(self) -> Dialect:
        return Dialect(await self._sidecar.component(self.store_name))

    async def _dialect_for(self, *operations: Operation) -> Dialect | None:
        """Return how the store is spoken to where that has to be known: the last writer's plain write need not ask the sidecar."""
        return await self._dialect() if any(map(needs_dialect, operations)) else None

    async def _write_many(
        self,
        operations: Sequence[Operation],
        send: Callable[[common_v1.StateItem, Dialect | None], Awaitable[None]],
        send_all: Callable[[Sequence[common_v1.StateItem]], Awaitable[None]],
        at_once: int,
    ) -> BulkWrites:
        refuse_twice(operations)
        dialect = await self._dialect_for(*operations)
        items = {each.key: wire(each, dialect) for each in operations}
        return await write_many(operations, items, lambda item: send(item, dialect), send_all, at_once)

    async def _save(self, operation: Upsert) -> None:
        dialect = await self._dialect_for(operation)
        await self._send_save(wire(operation, dialect), dialect)

    async def _save_all(self, items: Sequence[common_v1.StateItem]) -> None:
        request = api_v1.SaveStateRequest(store_name=self.store_name, states=items)
        await self._sidecar.call(lambda: self._sidecar.stub.SaveState(request), component=self.store_name)

    async def _delete_all(self, items: Sequence[common_v1.StateItem]) -> None:
        request = api_v1.DeleteBulkStateRequest(store_name=self.store_name, states=items)
        await self._sidecar.call(lambda: self._sidecar.stub.DeleteBulkState(request), component=self.store_name)

    async def _send_save(self, item: common_v1.StateItem, dialect: Dialect | None) -> None:
        if not _conditional(item):
            await self._save_all([item])
            return
        try:
            await self._save_all([item])
        except SidecarError as error:
            if dialect is not None and (dialect.is_conflict(error) or await self._was_there(item, error)):
                raise Conflict(item.key, component=self.store_name) from error
            raise

    async def _send_delete(self, item: common_v1.StateItem, dialect: Dialect | None) -> None:
        request = api_v1.DeleteStateRequest(
            store_name=self.store_name, key=item.key, options=item.options, metadata=dict(item.metadata)
        )
        if item.HasField("etag"):
            request.etag.CopyFrom(item.etag)
        try:
            await self._sidecar.call(lambda: self._sidecar.stub.DeleteState(request), component=self.store_name)
        except SidecarError as error:
            if dialect is not None and dialect.is_conflict(error):
                raise Conflict(item.key, component=self.store_name) from error
            raise

    async def _was_there(self, item: common_v1.StateItem, error: SidecarError) -> bool:
        """Return whether a first write failed because the key exists, which some stores say in words of their own: look.

        What is there and equals what was to be written may be this write, whose answer got lost on the way.
        """
        if may_have_happened(error) or item.HasField("etag"):
            return False
        request = api_v1.GetStateRequest(store_name=self.store_name, key=item.key)
        try:
            answer = await self._sidecar.call(
                lambda: self._sidecar.stub.GetState(request), component=self.store_name, safe=True
            )
        except SidecarError:
            return False  # what the write failed with is what there is to tell
        return bool(answer.data) and not same_value(item.value, answer.data)


def _conditional(item: common_v1.StateItem) -> bool:
    return item.HasField("etag") or item.options.concurrency == _FIRST_WRITE
