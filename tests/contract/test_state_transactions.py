"""Transactions: all or nothing, and where a store can't do that, that it can't."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest
from pydantic import BaseModel

from apibase import Conflict, NotSupported, SidecarError, StateManager
from apibase.clients.state import Delete, Upsert
from shop.payments.v1 import payment_pb2
from tests.contract.sides import Side

NO_ROLLBACK = "Redis does not undo what a transaction has written when it fails"


class Account(BaseModel):
    cents: int


@pytest.fixture
def state(side: Side, store: str) -> StateManager:
    return StateManager(side.sidecar, store)


async def text(state: StateManager, key: str) -> str | None:
    item = await state.get(key, str)
    return None if item is None else item.value


async def etag(state: StateManager, key: str) -> str:
    item = await state.get(key, bytes)
    assert item is not None
    return item.etag


@pytest.mark.req("R4.5")
@pytest.mark.differs(NO_ROLLBACK, store="redis")
async def test_all_of_a_transaction_is_done(side: Side, state: StateManager, difference: str) -> None:
    new, changed, deleted, mine, expiring = (side.key() for _ in range(5))
    for key in (changed, deleted, mine):
        await state.save(key, "before")
    operations = [
        Upsert(new, "new", first_write=True),
        Upsert(changed, "after", etag=await etag(state, changed)),
        Delete(deleted),
        Delete(mine, etag=await etag(state, mine)),
        Upsert(expiring, "soon gone", ttl=timedelta(seconds=1)),
    ]

    await state.transact(operations, allow_partial=bool(difference))

    assert [await text(state, key) for key in (new, changed, deleted, mine)] == ["new", "after", None, None]
    async with asyncio.timeout(15):
        while await text(state, expiring) is not None:
            await asyncio.sleep(0.05)


@pytest.mark.req("R4.5")
@pytest.mark.differs(NO_ROLLBACK, store="redis")
@pytest.mark.parametrize("what", ["stale upsert", "stale delete", "first write of a key that exists"])
async def test_a_conflict_leaves_nothing_behind_and_names_its_key(
    side: Side, state: StateManager, difference: str, what: str
) -> None:
    contested, before, after, right = (side.key(name) for name in ("m-contested", "a-before", "z-after", "right"))
    await state.save(contested, "first")
    stale = await etag(state, contested)
    await state.save(contested, "second")
    await state.save(right, "first")
    operations = [
        Upsert(before, "mine"),
        Upsert(right, "mine", etag=await etag(state, right)),
        {
            "stale upsert": Upsert(contested, "mine", etag=stale),
            "stale delete": Delete(contested, etag=stale),
            "first write of a key that exists": Upsert(contested, "mine", first_write=True),
        }[what],
        Upsert(after, "mine"),
    ]

    with pytest.raises(Conflict) as caught:
        await state.transact(operations, allow_partial=bool(difference))

    assert (caught.value.key, caught.value.component) == (contested, state.store_name)
    assert await text(state, contested) == "second"
    left = [await text(state, key) for key in (before, right, after)]
    assert left == (["mine", "mine", "mine"] if difference else [None, "first", None])


@pytest.mark.req("R4.5")
@pytest.mark.differs(NO_ROLLBACK, store="redis")
async def test_a_conflict_in_a_transaction_of_one(side: Side, state: StateManager, difference: str) -> None:
    key = side.key()
    await state.save(key, "theirs")

    with pytest.raises(Conflict) as caught:
        await state.transact([Upsert(key, "mine", first_write=True)], allow_partial=bool(difference))

    assert caught.value.key == key
    assert await text(state, key) == "theirs"


@pytest.mark.req("R4.5")
@pytest.mark.differs(NO_ROLLBACK, store="redis")
async def test_a_transaction_that_the_store_refuses_is_no_conflict_and_leaves_nothing_behind(
    side: Side, state: StateManager, difference: str
) -> None:
    first, bad = side.key("a-first"), side.key("b-bad")

    with pytest.raises(SidecarError) as caught:
        await state.transact(
            [Upsert(first, "x"), Upsert(bad, "x", metadata={"ttlInSeconds": "soon"})], allow_partial=bool(difference)
        )

    assert not isinstance(caught.value, Conflict)
    # Redis' component reads the times to live before it sends the first command.
    assert [await text(state, key) for key in (first, bad)] == [None, None]


@pytest.mark.req("R4.5")
@pytest.mark.differs(NO_ROLLBACK, store="redis")
async def test_without_a_rollback_a_transaction_needs_consent(side: Side, state: StateManager, difference: str) -> None:
    one, other = side.key(), side.key()
    operations = [Upsert(one, "x"), Upsert(other, "x")]

    if difference:
        with pytest.raises(NotSupported, match="'redis' does not support a transaction that undoes itself") as caught:
            await state.transact(operations)
        assert (caught.value.component, caught.value.reason) == ("redis", "NOT_SUPPORTED")
        assert [await text(state, key) for key in (one, other)] == [None, None]
    await state.transact(operations, allow_partial=True)

    assert [await text(state, key) for key in (one, other)] == ["x", "x"]


@pytest.mark.req("R4.5")
@pytest.mark.differs(NO_ROLLBACK, store="redis")
@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (payment_pb2.Payment(payment_id="p-1"), payment_pb2.Payment),
        (Account(cents=2**60), Account),
        ({"a": [1, None]}, dict),
        ("text", str),
        (bytes(range(256)), bytes),
    ],
    ids=["message", "model", "object", "text", "bytes"],
)
async def test_a_transaction_takes_every_value(side: Side, state: StateManager, difference: str, value, kind) -> None:
    key = side.key()

    await state.transact([Upsert(key, value), Upsert(side.key(), "x")], allow_partial=bool(difference))

    item = await state.get(key, kind)
    assert item is not None
    assert item.value == value


@pytest.mark.req("R4.5")
@pytest.mark.differs(NO_ROLLBACK, store="redis")
async def test_operations_of_one_key_are_done_in_their_order(side: Side, state: StateManager, difference: str) -> None:
    left, taken = side.key(), side.key()

    await state.transact(
        [Upsert(taken, "x"), Upsert(left, "first"), Delete(left), Upsert(left, "last"), Delete(taken)],
        allow_partial=bool(difference),
    )

    assert [await text(state, key) for key in (left, taken)] == ["last", None]


async def test_a_transaction_of_nothing_is_done(side: Side, state: StateManager) -> None:
    await state.transact([])


@pytest.mark.req("R4.5")
@pytest.mark.differs(NO_ROLLBACK, store="redis")
async def test_transactions_that_meet_the_other_way_round_do_not_block_each_other(
    side: Side, state: StateManager, difference: str
) -> None:
    one, other = side.key(), side.key()

    await asyncio.gather(
        *(
            state.transact([Upsert(key, str(n)) for key in keys], allow_partial=bool(difference))
            for n in range(20)
            for keys in ((one, other), (other, one))
        )
    )

    assert await text(state, one) == await text(state, other)


@pytest.mark.req("R4.5")
@pytest.mark.differs(NO_ROLLBACK, store="redis")
async def test_money_that_moves_between_accounts_is_never_lost_or_seen_twice(
    side: Side, state: StateManager, difference: str
) -> None:
    if difference:
        with pytest.raises(NotSupported):
            await state.transact([Upsert(side.key(), "x", first_write=True)])
        return
    accounts = [side.key(f"account-{n}") for n in range(3)]
    await state.transact([Upsert(key, Account(cents=100), first_write=True) for key in accounts])
    totals: list[int] = []

    async def look() -> list[int]:
        found = await state.get_bulk(accounts, Account)
        cents = [item.value.cents for item in found.items.values() if item]
        totals.append(sum(cents))
        return cents

    async def move(source: str, target: str) -> None:
        async with asyncio.timeout(60):
            while True:
                found = await state.get_bulk([source, target], Account)
                giver, taker = found.items[source], found.items[target]
                assert giver is not None
                assert taker is not None
                try:
                    await state.transact(
                        [
                            Upsert(source, Account(cents=giver.value.cents - 10), etag=giver.etag),
                            Upsert(target, Account(cents=taker.value.cents + 10), etag=taker.etag),
                        ]
                    )
                except Conflict as conflict:
                    assert conflict.key in {source, target, ""}
                    await look()
                else:
                    return

    await asyncio.gather(*(move(accounts[n % 3], accounts[(n + 1) % 3]) for n in range(15)))

    assert await look() == [100, 100, 100]
    assert set(totals) == {300}
