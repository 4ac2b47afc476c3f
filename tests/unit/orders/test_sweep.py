"""The sweep: takes up what was left, forgets what ended, and lets no single order or page stop it."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import pytest

from apibase import SidecarError, SidecarUnavailable
from orders import rules
from orders.settings import OrderSettings
from orders.store import PAGES, OrderStore
from shop.orders.v1 import storage_pb2
from tests.unit.memory_state import refused
from tests.unit.shop import CONTEXT, EVENT, Shop, order_request

if TYPE_CHECKING:
    from tests.unit.conftest import Log

ORDER_ID = rules.order_id("ann", "key-1")
ROW = f"order/{ORDER_ID}"
TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@pytest.fixture
def shop() -> Shop:
    return Shop()


async def place_some(shop: Shop, count: int) -> list[str]:
    """Place orders that wait for their payment."""
    shop.wire.down = True
    orders = [await shop.place(idempotency_key=f"key-{number}") for number in range(count)]
    shop.wire.down = False
    return [order.order_id for order in orders]


async def page_of(shop: Shop, order_id: str) -> int:
    for page in range(PAGES):
        if order_id in {entry.order_id for entry in await shop.store.open_orders(page)}:
            return page
    raise AssertionError(f"{order_id} is not in the index")


async def set_added(shop: Shop, order_id: str, *, seconds_ago: float) -> None:
    """Make an entry of the index older."""
    key = f"open-orders/{await page_of(shop, order_id)}"
    item = await shop.state.get(key, storage_pb2.OpenOrders)
    assert item is not None
    for entry in item.value.orders:
        if entry.order_id == order_id:
            entry.added_at.FromSeconds(int(time.time() - seconds_ago))
    await shop.state.save(key, item.value)


async def test_every_order_that_was_left_is_taken_up(shop: Shop) -> None:
    order_ids = await place_some(shop, 40)

    await shop.sweep()
    await shop.deliver()

    assert {await shop.status(order_id) for order_id in order_ids} == {"SETTLED"}


async def test_an_order_is_left_to_its_own_call_for_a_while() -> None:
    shop = Shop(OrderSettings(sweep_grace=5.0))
    (order_id,) = await place_some(shop, 1)

    await shop.sweep()
    assert shop.wire.calls == []

    await set_added(shop, order_id, seconds_ago=6)
    await shop.sweep()
    assert shop.wire.calls == ["Authorise", "Capture"]


async def test_orders_that_ended_leave_the_index_and_no_others(shop: Shop) -> None:
    order_ids = await place_some(shop, 20)
    for order_id in order_ids[:10]:
        await shop.cancel(order_id)

    await shop.sweep()

    assert await shop.open_ids() == set(order_ids[10:])


async def test_an_order_that_settles_leaves_the_index_at_the_next_sweep(shop: Shop) -> None:
    await place_some(shop, 5)
    await shop.sweep()
    await shop.deliver()

    await shop.sweep()

    assert await shop.open_ids() == set()


async def test_a_crash_between_index_and_row_leaves_an_entry_that_is_given_up_in_the_end(shop: Shop) -> None:
    await shop.store.add_open(ORDER_ID)

    await set_added(shop, ORDER_ID, seconds_ago=60)
    await shop.sweep()
    assert await shop.open_ids() == {ORDER_ID}  # its row may still be on its way

    await set_added(shop, ORDER_ID, seconds_ago=3600)
    await shop.sweep()
    assert await shop.open_ids() == set()


async def test_an_order_whose_row_takes_longer_than_the_grace_is_not_lost() -> None:
    shop = Shop(OrderSettings(sweep_grace=1.0))
    shop.wire.down = True

    async def slow_store() -> None:
        await set_added(shop, ORDER_ID, seconds_ago=9)
        await shop.sweep()

    shop.state.before_save(ROW, slow_store)
    await shop.place()

    assert await shop.open_ids() == {ORDER_ID}
    shop.wire.down = False
    await set_added(shop, ORDER_ID, seconds_ago=9)
    await shop.sweep()
    await shop.deliver()
    assert await shop.status(ORDER_ID) == "SETTLED"


async def test_an_order_that_is_placed_again_while_its_old_entry_is_given_up_is_not_lost(shop: Shop) -> None:
    # The first try indexed the order and failed, long ago.
    shop.state.before_save(ROW, refused)
    with pytest.raises(SidecarError):
        await shop.place()
    await set_added(shop, ORDER_ID, seconds_ago=3600)
    shop.wire.down = True

    # The second try comes when the sweep has found no row, and is about to take the entry away.
    page = f"open-orders/{await page_of(shop, ORDER_ID)}"
    shop.state.before_save(page, lambda: shop.replica()[0].PlaceOrder(order_request(), CONTEXT))
    await shop.sweep()

    assert ROW in shop.state.rows
    assert await shop.open_ids() == {ORDER_ID}


async def test_one_order_that_cannot_be_read_stops_no_other(shop: Shop, log: Log) -> None:
    order_ids = await place_some(shop, 30)
    shop.state.unreadable.add(f"order/{order_ids[7]}")

    await shop.sweep()
    await shop.deliver_except(order_ids[7])
    await shop.sweep()

    assert await shop.open_ids() == {order_ids[7]}
    assert log.of(order_id=order_ids[7], level="WARNING")


async def test_one_page_that_cannot_be_read_stops_no_other_and_is_reported(shop: Shop) -> None:
    order_ids = await place_some(shop, 40)
    broken = await page_of(shop, order_ids[0])
    on_it = {entry.order_id for entry in await shop.store.open_orders(broken)}
    shop.state.unreadable.add(f"open-orders/{broken}")

    with pytest.raises(SidecarError, match=f"open-orders/{broken}"):
        await shop.sweep()
    await shop.deliver()

    for order_id in order_ids:
        assert await shop.status(order_id) == ("STARTED" if order_id in on_it else "SETTLED")


async def test_a_sweep_that_failed_is_over_before_the_next_begins(shop: Shop) -> None:
    order_ids = await place_some(shop, 40)
    shop.state.unreadable.add(f"open-orders/{await page_of(shop, order_ids[0])}")
    at_work = 0

    async def authorise() -> None:
        nonlocal at_work
        at_work += 1
        await asyncio.sleep(0.01)
        at_work -= 1

    for _ in order_ids:
        shop.wire.before("Authorise", authorise)

    with pytest.raises(SidecarError):
        await shop.sweep()

    assert at_work == 0


async def test_an_unexpected_error_of_one_order_stops_no_other_and_is_not_swallowed(shop: Shop) -> None:
    order_ids = await place_some(shop, 30)

    async def bug() -> None:
        raise KeyError("a bug")

    shop.wire.before("Authorise", bug)

    with pytest.raises(KeyError):
        await shop.sweep()
    await shop.deliver()

    statuses = [await shop.status(order_id) for order_id in order_ids]
    assert sorted(statuses) == ["SETTLED"] * 29 + ["STARTED"]


async def test_an_unexpected_error_of_one_order_leaves_no_ended_one_of_its_page_behind(shop: Shop) -> None:
    order_ids = await place_some(shop, 40)
    page = await page_of(shop, order_ids[0])
    on_it = [entry.order_id for entry in await shop.store.open_orders(page)]
    for order_id in set(order_ids) - {on_it[0]}:
        await shop.cancel(order_id)

    async def bug() -> None:
        raise KeyError("a bug")

    shop.wire.before("Authorise", bug)

    with pytest.raises(KeyError):
        await shop.sweep()

    assert len(on_it) > 1
    assert await shop.open_ids() == {on_it[0]}


async def test_payments_that_are_down_leave_every_order_for_the_next_sweep(shop: Shop, log: Log) -> None:
    order_ids = await place_some(shop, 10)
    shop.wire.down = True

    await shop.sweep()

    assert await shop.open_ids() == set(order_ids)
    lines = log.of(level="WARNING", logger="orders.events")
    assert {line["order_id"] for line in lines} == set(order_ids)
    assert all(line["message"] == "taken up, not finished: UNAVAILABLE: connection refused" for line in lines)


async def test_a_second_sweep_at_the_same_time_does_nothing(shop: Shop) -> None:
    await place_some(shop, 1)
    gate, at_work = asyncio.Event(), asyncio.Event()

    async def hold() -> None:
        at_work.set()
        await gate.wait()

    shop.wire.before("Authorise", hold)
    first = asyncio.create_task(shop.sweep())
    await at_work.wait()

    await shop.sweep()
    assert shop.wire.calls == ["Authorise"]
    gate.set()
    await first
    assert shop.wire.calls == ["Authorise", "Capture"]


async def test_what_is_taken_up_belongs_to_the_trace_of_the_call_that_placed_it(shop: Shop, log: Log) -> None:
    (order_id,) = await place_some(shop, 1)
    record = await shop.record(order_id)
    record.traceparent = TRACEPARENT
    await shop.state.save(f"order/{order_id}", record)
    shop.wire.down = True

    await shop.sweep()

    (line,) = log.of(order_id=order_id, logger="orders.events")
    assert line["trace_id"] == TRACEPARENT[3:35]


async def test_a_sweep_of_nothing_writes_and_calls_nothing(shop: Shop) -> None:
    await shop.events.SweepOrders(CONTEXT, EVENT)

    assert (shop.state.rows, shop.wire.calls) == ({}, [])


async def test_two_replicas_that_sweep_at_once_charge_each_order_once(shop: Shop) -> None:
    order_ids = await place_some(shop, 20)
    other = shop.replica()[1]

    await asyncio.gather(shop.sweep(), other.SweepOrders(CONTEXT, EVENT))
    await shop.deliver()

    assert {(await shop.status(order_id), await shop.captures(order_id)) for order_id in order_ids} == {("SETTLED", 1)}


async def test_writers_of_one_page_in_two_processes_lose_no_entry(shop: Shop) -> None:
    stores = [shop.store, OrderStore(shop.state)]  # type: ignore[arg-type]
    order_ids = [rules.order_id("ann", f"key-{number}") for number in range(60)]

    await asyncio.gather(*(stores[number % 2].add_open(order_id) for number, order_id in enumerate(order_ids)))

    assert await shop.open_ids() == set(order_ids)


async def test_an_entry_is_there_once_however_often_it_is_added(shop: Shop) -> None:
    for _ in range(3):
        await shop.store.add_open(ORDER_ID)

    entries: list[Any] = [entry for page in range(PAGES) for entry in await shop.store.open_orders(page)]
    assert [entry.order_id for entry in entries] == [ORDER_ID]


async def test_a_page_whose_save_failed_can_be_changed_again(shop: Shop) -> None:
    await shop.store.add_open(ORDER_ID)

    async def away() -> None:
        raise SidecarUnavailable("away")

    shop.state.before_save(f"open-orders/{await page_of(shop, ORDER_ID)}", away)
    with pytest.raises(SidecarUnavailable):
        await shop.store.add_open(ORDER_ID)
    await asyncio.wait_for(shop.store.add_open(ORDER_ID), 5)

    assert await shop.open_ids() == {ORDER_ID}
