"""The rows of orders, and the index of those that are still open.

An order's id enters the index *before* its row is written, so no crash leaves a row that the sweep can't find; it leaves
the index some time after the order ended. The index is pages of ids, by a hash of the id, to keep writers apart.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
from typing import TYPE_CHECKING

from google.protobuf.timestamp_pb2 import Timestamp

from apibase import Conflict, StateItem, StateManager
from shop.orders.v1 import order_pb2, storage_pb2

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

PAGES = 16
_MAX_TRIES = 20
_BACKOFF_SECONDS = 0.005

OPEN = frozenset({order_pb2.ORDER_STATUS_ACCEPTED, order_pb2.ORDER_STATUS_STARTED})


def is_open(order: order_pb2.Order) -> bool:
    """Whether the order is still on its way to a final status."""
    return order.status in OPEN


def now() -> Timestamp:
    """Return the current time."""
    stamp = Timestamp()
    stamp.GetCurrentTime()
    return stamp


class OrderStore:
    """Order rows in a Dapr state store."""

    def __init__(self, state: StateManager) -> None:
        self._state = state
        # One writer of a page in this process; the etag decides between processes.
        self._page_locks = [asyncio.Lock() for _ in range(PAGES)]

    async def load(self, order_id: str) -> storage_pb2.OrderRecord | None:
        """Return the row of an order, or None."""
        item = await self._load(order_id)
        return item.value if item else None

    async def _load(self, order_id: str) -> StateItem[storage_pb2.OrderRecord] | None:
        return await self._state.get(f"order/{order_id}", storage_pb2.OrderRecord)

    async def create(self, record: storage_pb2.OrderRecord) -> None:
        """Write the row of a new order; `Conflict` where there is one already."""
        await self._state.save(f"order/{record.order.order_id}", record, first_write=True)

    async def update(
        self, order_id: str, change: Callable[[storage_pb2.OrderRecord], bool]
    ) -> storage_pb2.OrderRecord | None:
        """Change a row and return it as it then is; None where there is none.

        `change` edits the record and says whether it did; it is called again on the newer row when somebody else wrote
        first.
        """
        for attempt in range(_MAX_TRIES):
            item = await self._load(order_id)
            if item is None:
                return None
            if not change(item.value):
                return item.value
            item.value.order.updated_at.CopyFrom(now())
            try:
                await self._state.save(item.key, item.value, etag=item.etag)
            except Conflict:
                await _back_off(attempt)
                continue
            return item.value
        raise Conflict(f"order/{order_id}", component=self._state.store_name)

    async def add_open(self, order_id: str) -> None:
        """Put an order into the index of open orders; one that is there counts as added now."""
        page = int.from_bytes(hashlib.sha256(order_id.encode()).digest()[:2], "big") % PAGES

        def add(orders: storage_pb2.OpenOrders) -> bool:
            for entry in orders.orders:
                if entry.order_id == order_id:
                    entry.added_at.CopyFrom(now())
                    return True
            orders.orders.add(order_id=order_id, added_at=now())
            return True

        await self._change_page(page, add)

    async def open_orders(self, page: int) -> list[storage_pb2.OpenOrder]:
        """Return what one page of the index lists."""
        item = await self._state.get(f"open-orders/{page}", storage_pb2.OpenOrders)
        return list(item.value.orders) if item else []

    async def remove_open(self, page: int, entries: Collection[storage_pb2.OpenOrder]) -> None:
        """Take entries out of one page of the index, but not those that were added again since they were read."""
        gone = {_entry_key(entry) for entry in entries}

        def remove(orders: storage_pb2.OpenOrders) -> bool:
            kept = [entry for entry in orders.orders if _entry_key(entry) not in gone]
            if len(kept) == len(orders.orders):
                return False
            del orders.orders[:]
            orders.orders.extend(kept)
            return True

        await self._change_page(page, remove)

    async def _change_page(self, page: int, change: Callable[[storage_pb2.OpenOrders], bool]) -> None:
        key = f"open-orders/{page}"
        async with self._page_locks[page]:
            for attempt in range(_MAX_TRIES):
                item = await self._state.get(key, storage_pb2.OpenOrders)
                orders = item.value if item else storage_pb2.OpenOrders()
                if not change(orders):
                    return
                try:
                    await self._state.save(key, orders, etag=item.etag if item else None, first_write=item is None)
                except Conflict:
                    await _back_off(attempt)
                    continue
                return
        raise Conflict(key, component=self._state.store_name)


def _entry_key(entry: storage_pb2.OpenOrder) -> tuple[str, int, int]:
    return entry.order_id, entry.added_at.seconds, entry.added_at.nanos


async def _back_off(attempt: int) -> None:
    """Wait a little longer, with jitter, after each lost race."""
    await asyncio.sleep(random.uniform(0, _BACKOFF_SECONDS * 2 ** min(attempt, 6)))  # noqa: S311 - jitter and ids, no secrets
