"""`update`: many who change one key at once, and each change is there at the end."""

from __future__ import annotations

import asyncio
import time

import pytest
from pydantic import BaseModel

from apibase import Conflict, Sidecar, StateManager
from shop.payments.v1 import payment_pb2
from tests.contract.sides import Side

AT_ONCE = 100


class Counter(BaseModel):
    by: list[int] = []


@pytest.fixture
def state(side: Side, store: str) -> StateManager:
    return StateManager(side.sidecar, store)


@pytest.mark.req("R4.2")
@pytest.mark.parametrize("apps", [1, 5, 100], ids=["one-process", "five", "each-its-own"])
async def test_a_hundred_updates_at_once_are_all_there_at_the_end(side: Side, store: str, apps: int) -> None:
    key = side.key()
    # Each has a queue of its own, as another process would.
    managers = [StateManager(side.sidecar, store) for _ in range(apps)]
    applied: list[int] = []

    async def add(number: int) -> None:
        def change(counter: Counter | None) -> Counter:
            return Counter(by=[*(counter or Counter()).by, number])

        saved = await managers[number % apps].update(key, Counter, change, within=90)
        assert saved.value.by[-1] == number
        applied.append(number)

    await asyncio.gather(*map(add, range(AT_ONCE)))

    item = await managers[0].get(key, Counter)
    assert item is not None
    assert len(applied) == AT_ONCE
    assert sorted(item.value.by) == list(range(AT_ONCE))


@pytest.mark.req("R4.2")
async def test_an_update_from_another_connection_is_not_lost(side: Side, store: str) -> None:
    key = side.key()
    others = Sidecar(side.settings)
    try:
        states = [StateManager(side.sidecar, store), StateManager(others, store)]
        await asyncio.gather(
            *(states[n % 2].update(key, int, lambda count: (count or 0) + 1, within=60) for n in range(20))
        )
        item = await states[0].get(key, int)
    finally:
        await others.close()

    assert item is not None
    assert item.value == 20


async def test_an_update_changes_a_message_of_a_contract_in_place(side: Side, state: StateManager) -> None:
    key = side.key()
    await state.save(key, payment_pb2.Payment(payment_id="p-1"))

    async def change(payment: payment_pb2.Payment | None) -> payment_pb2.Payment:
        assert payment is not None
        payment.order_id = "o-1"
        return payment

    saved = await state.update(key, payment_pb2.Payment, change)

    item = await state.get(key, payment_pb2.Payment)
    assert item is not None
    assert item.value == saved.value == payment_pb2.Payment(payment_id="p-1", order_id="o-1")


async def test_what_the_change_raises_ends_it_and_nothing_is_saved(side: Side, state: StateManager) -> None:
    key = side.key()

    def change(value: str | None) -> str:
        raise LookupError("no such order")

    with pytest.raises(LookupError, match="no such order"):
        await state.update(key, str, change)

    assert await state.get(key, str) is None


@pytest.mark.parametrize("there", [True, False])
async def test_an_update_that_is_always_beaten_ends_in_a_conflict(side: Side, state: StateManager, there: bool) -> None:
    key, tries = side.key(), 0
    if there:
        await state.save(key, "theirs")

    async def change(value: str | None) -> str:
        nonlocal tries
        tries += 1
        await state.save(key, f"theirs {tries}")
        return "mine"

    began = time.monotonic()
    with pytest.raises(Conflict) as caught:
        await state.update(key, str, change, within=0.5)

    assert caught.value.key == key
    assert time.monotonic() - began < 3
    assert tries > 1
    item = await state.get(key, str)
    assert item is not None
    assert item.value == f"theirs {tries}"
