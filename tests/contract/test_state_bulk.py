"""State, many keys at once: each has its own result."""

from __future__ import annotations

from datetime import timedelta

import grpc
import pytest

from apibase import Conflict, SidecarError, StateItem, StateManager
from apibase.clients.state import Delete, Upsert
from tests.contract.sides import Side


@pytest.fixture
def state(side: Side, store: str) -> StateManager:
    return StateManager(side.sidecar, store)


async def item_of(state: StateManager, key: str) -> StateItem[str]:
    item = await state.get(key, str)
    assert item is not None
    return item


async def stale(state: StateManager, key: str) -> str:
    """Return an etag that is over; `now` is what the key has."""
    await state.save(key, "before")
    etag = (await item_of(state, key)).etag
    await state.save(key, "now")
    return etag


@pytest.mark.req("R4.4")
async def test_many_keys_are_read_at_once_in_the_order_asked_for(side: Side, state: StateManager) -> None:
    there, missing, expiring = side.key(), side.key(), side.key()
    await state.save(there, "x")
    await state.save(expiring, "y", ttl=timedelta(hours=1))

    found = await state.get_bulk([expiring, missing, there, expiring], str)

    assert list(found.items) == [expiring, missing, there]
    assert found.items[missing] is None
    assert found.items[there] == await state.get(there, str)
    assert found.items[expiring] == await state.get(expiring, str)
    assert found.errors == {}
    found.raise_first()


@pytest.mark.req("R4.4")
async def test_a_value_that_is_of_another_kind_hides_no_other(side: Side, state: StateManager) -> None:
    right, wrong = side.key(), side.key()
    await state.save(right, {"a": 1})
    await state.save(wrong, ["a"])

    found = await state.get_bulk([wrong, right], dict[str, int])

    assert [item.value for item in found.items.values() if item] == [{"a": 1}]
    assert [(key, error.reason) for key, error in found.errors.items()] == [(wrong, "STATE_UNREADABLE")]
    with pytest.raises(SidecarError, match=f"the state under '{wrong}' is no dict"):
        found.raise_first()


@pytest.mark.req("R4.4")
async def test_hundreds_of_keys_are_saved_read_and_deleted(side: Side, state: StateManager) -> None:
    keys = [side.key() for _ in range(250)]

    saved = await state.save_bulk(Upsert(key, key) for key in keys)
    found = await state.get_bulk(keys, str)
    deleted = await state.delete_bulk(keys)
    left = await state.get_bulk(keys, str)

    assert (saved.done, saved.errors) == (tuple(keys), {})
    assert [item.value for item in found.items.values() if item] == keys
    assert (deleted.done, deleted.errors) == (tuple(keys), {})
    assert set(left.items.values()) == {None}


async def test_no_keys_are_no_calls(side: Side, state: StateManager) -> None:
    assert (await state.get_bulk([], str)).items == {}
    assert (await state.save_bulk([])).done == ()
    assert (await state.delete_bulk([])).done == ()


@pytest.mark.req("R4.4")
async def test_each_save_of_a_bulk_has_its_own_conflict(side: Side, state: StateManager) -> None:
    keys = {name: side.key(name) for name in ("plain", "new", "exists", "stale", "right")}
    await state.save(keys["exists"], "before")
    await state.save(keys["right"], "before")
    etag = await stale(state, keys["stale"])

    result = await state.save_bulk(
        [
            Upsert(keys["stale"], "mine", etag=etag),
            Upsert(keys["plain"], "mine"),
            Upsert(keys["exists"], "mine", first_write=True),
            Upsert(keys["new"], "mine", first_write=True),
            Upsert(keys["right"], "mine", etag=(await item_of(state, keys["right"])).etag),
        ]
    )

    assert result.done == (keys["plain"], keys["new"], keys["right"])
    assert [(key, type(error), error.key) for key, error in result.errors.items() if isinstance(error, Conflict)] == [
        (keys[name], Conflict, keys[name]) for name in ("stale", "exists")
    ]
    found = await state.get_bulk(keys.values(), str)
    assert [item.value for item in found.items.values() if item] == ["mine", "mine", "before", "now", "mine"]


@pytest.mark.req("R4.4")
async def test_one_save_that_the_store_refuses_takes_no_other_along(side: Side, state: StateManager) -> None:
    bad, good = side.key("bad"), [side.key() for _ in range(5)]

    result = await state.save_bulk(
        [*(Upsert(key, "x") for key in good), Upsert(bad, "x", metadata={"ttlInSeconds": "soon"})]
    )

    assert result.done == tuple(good)
    assert [(key, error.code) for key, error in result.errors.items()] == [(bad, grpc.StatusCode.INTERNAL)]
    found = await state.get_bulk([*good, bad], str)
    assert [key for key, item in found.items.items() if item is None] == [bad]


@pytest.mark.req("R4.4")
async def test_each_delete_of_a_bulk_has_its_own_conflict(side: Side, state: StateManager) -> None:
    plain, missing, changed, right = (side.key(name) for name in ("plain", "missing", "changed", "right"))
    await state.save(plain, "x")
    await state.save(right, "x")
    etag = await stale(state, changed)

    result = await state.delete_bulk(
        [plain, missing, Delete(changed, etag=etag), Delete(right, etag=(await item_of(state, right)).etag)]
    )

    assert result.done == (plain, missing, right)
    assert [(key, type(error)) for key, error in result.errors.items()] == [(changed, Conflict)]
    found = await state.get_bulk([plain, missing, changed, right], str)
    assert [key for key, item in found.items.items() if item] == [changed]


@pytest.mark.req("R4.4")
async def test_a_key_that_comes_twice_is_refused_before_anything_is_written(side: Side, state: StateManager) -> None:
    key = side.key()

    with pytest.raises(ValueError, match=f"the key '{key}' comes twice"):
        await state.save_bulk([Upsert(key, "x"), Upsert(key, "y")])
    with pytest.raises(ValueError, match=f"the key '{key}' comes twice"):
        await state.delete_bulk([key, Delete(key)])

    assert await state.get(key, str) is None
