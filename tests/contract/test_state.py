"""State, a key at a time: what comes back of a value, who wins a race, and when a value is gone."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from types import NoneType

import grpc
import pytest
from google.type import money_pb2
from pydantic import BaseModel

from apibase import Conflict, SidecarError, StateManager
from apibase.clients.state import FOREVER
from shop.payments.v1 import payment_pb2
from tests.contract.sides import Side

ON_REDIS = "Redis' script writes a key that is gone whatever the etag, and deletes none without complaint"
OWN_ETAGS = "this store reads an etag as a number, and refuses a text as invalid"
NO_EMPTY = "PostgreSQL v2 takes no empty value"
NO_EXPIRY = "Redis' component tells no time at which a value is gone"
KEEPS_TTL = "on Redis a save without a time to live leaves the one from before"


class Line(BaseModel):
    sku: str
    quantity: int


class Invoice(BaseModel):
    number: str
    lines: list[Line]
    due: datetime
    paid: bool = False


INVOICE = Invoice(
    number="7", lines=[Line(sku="MUG <red> & ü", quantity=2)], due=datetime(2026, 3, 1, 12, 30, tzinfo=UTC)
)
PAYMENT = payment_pb2.Payment(
    payment_id="p-1",
    amount=money_pb2.Money(currency_code="EUR", units=9_007_199_254_740_993, nanos=5),
    status=payment_pb2.PAYMENT_STATUS_CAPTURED,
)
VALUES = [
    pytest.param(PAYMENT, payment_pb2.Payment, id="message"),
    pytest.param(payment_pb2.Payment(), payment_pb2.Payment, id="empty-message"),
    pytest.param(INVOICE, Invoice, id="model"),
    pytest.param({"a": [1, 2.5, None, True], "b": {"c": "<&> ü"}}, dict, id="object"),
    pytest.param([1, "two", {"three": 3}], list[int | str | dict[str, int]], id="list"),
    pytest.param({}, dict, id="empty-object"),
    pytest.param("a text, 'quoted' \"twice\" \u2603\n", str, id="text"),
    pytest.param('{"looks": "like JSON"}', str, id="text-like-json"),
    pytest.param(bytes(range(256)), bytes, id="bytes"),
    pytest.param(b"\xff" * 100_000, bytes, id="many-bytes"),
    pytest.param(7, int, id="number"),
    pytest.param(0.1, float, id="fraction"),
    pytest.param(False, bool, id="flag"),
    pytest.param(None, NoneType, id="null"),
    # To daprd numbers are 64-bit floats: what doesn't fit goes past it.
    pytest.param({"n": 2**53 + 1}, dict, id="large-number"),
]


@pytest.fixture
def state(side: Side, store: str) -> StateManager:
    return StateManager(side.sidecar, store)


async def gone(state: StateManager, key: str) -> None:
    """Return as soon as nothing is under the key."""
    async with asyncio.timeout(15):
        while await state.get(key, bytes) is not None:
            await asyncio.sleep(0.05)


async def outcomes(calls: list[Awaitable[object]]) -> list[str]:
    """Return what became of calls made at once: `done`, or the error's name."""
    results = await asyncio.gather(*calls, return_exceptions=True)
    return [type(result).__name__ if isinstance(result, BaseException) else "done" for result in results]


@pytest.mark.req("R4.1", "R4.2")
@pytest.mark.parametrize(("value", "kind"), VALUES)
async def test_what_is_saved_is_read(side: Side, state: StateManager, value, kind) -> None:
    key = side.key()

    await state.save(key, value)

    item = await state.get(key, kind)
    assert item is not None
    assert (item.key, item.value) == (key, value)
    assert item.etag


@pytest.mark.differs(NO_EMPTY, store="postgres")
@pytest.mark.parametrize(("value", "kind"), [("", str), (b"", bytes)], ids=["text", "bytes"])
async def test_a_value_that_is_empty_is_there(side: Side, state: StateManager, difference: str, value, kind) -> None:
    key = side.key()
    if difference:
        with pytest.raises(SidecarError) as caught:
            await state.save(key, value)
        assert caught.value.code is grpc.StatusCode.INTERNAL
        return

    await state.save(key, value)

    item = await state.get(key, kind)
    assert item is not None
    assert item.value == value


async def test_a_key_without_a_value_is_none(side: Side, state: StateManager) -> None:
    assert await state.get(side.key(), bytes) is None


@pytest.mark.parametrize("name", ["with space", "ümlaut", "a/b?c=d#e", "100%", "a'b\"c", "a|b", "x" * 200])
async def test_a_key_may_have_any_character(side: Side, state: StateManager, name: str) -> None:
    key = side.key(name)

    await state.save(key, name)

    item = await state.get(key, str)
    assert item is not None
    assert item.value == name
    await state.delete(key)
    assert await state.get(key, str) is None


@pytest.mark.req("R4.2")
@pytest.mark.parametrize(
    ("value", "kind", "name"),
    [("no JSON", Invoice, "Invoice"), ({"number": 7}, Invoice, "Invoice"), ([1], payment_pb2.Payment, "shop.payments.v1.Payment"), ({"a": 1}, int, "int"), (b"\xff", str, "str")],
)  # fmt: skip
async def test_a_value_of_another_kind_is_an_error(side: Side, state: StateManager, value, kind, name) -> None:
    key = side.key()
    await state.save(key, value)

    with pytest.raises(SidecarError, match=f"the state under '{key}' is no {name}: ") as caught:
        await state.get(key, kind)

    assert (caught.value.code, caught.value.reason) == (grpc.StatusCode.DATA_LOSS, "STATE_UNREADABLE")
    assert caught.value.component == state.store_name


@pytest.mark.req("R4.1")
@pytest.mark.parametrize("consistency", ["strong", "eventual"])
async def test_the_last_writer_wins_with_either_consistency(side: Side, state: StateManager, consistency) -> None:
    key = side.key()
    for value in ("first", "second", "third"):
        await state.save(key, value, consistency=consistency)

    item = await state.get(key, str, consistency=consistency)

    assert item is not None
    assert item.value == "third"
    await state.delete(key, consistency=consistency)
    assert await state.get(key, str, consistency=consistency) is None


@pytest.mark.req("R4.1", "R4.2")
async def test_an_etag_lets_one_of_two_writers_through(side: Side, state: StateManager) -> None:
    key = side.key()
    await state.save(key, "first")
    item = await state.get(key, str)
    assert item is not None

    await state.save(key, "mine", etag=item.etag)
    with pytest.raises(Conflict) as caught:
        await state.save(key, "theirs", etag=item.etag)

    assert (caught.value.key, caught.value.component) == (key, state.store_name)
    assert caught.value.retryable
    now = await state.get(key, str)
    assert now is not None
    assert (now.value, now.etag != item.etag) == ("mine", True)


async def test_every_write_changes_the_etag(side: Side, state: StateManager) -> None:
    key, etags = side.key(), set()
    for _ in range(5):
        await state.save(key, "the same")
        item = await state.get(key, str)
        assert item is not None
        etags.add(item.etag)

    assert len(etags) == 5


@pytest.mark.differs(ON_REDIS, store="redis")
async def test_an_etag_of_a_value_that_is_gone_is_a_conflict(side: Side, state: StateManager, difference: str) -> None:
    key = side.key()
    await state.save(key, "first")
    item = await state.get(key, str)
    assert item is not None
    await state.delete(key)

    if difference:
        await state.save(key, "mine", etag=item.etag)
        await state.delete(key)
        await state.delete(key, etag=item.etag)
        return
    with pytest.raises(Conflict):
        await state.save(key, "mine", etag=item.etag)
    with pytest.raises(Conflict):
        await state.delete(key, etag=item.etag)
    assert await state.get(key, str) is None


@pytest.mark.differs(OWN_ETAGS, store=("postgres1", "redis"))
async def test_an_etag_that_the_store_never_gave_is_a_conflict(
    side: Side, state: StateManager, difference: str
) -> None:
    key = side.key()
    await state.save(key, "first")

    with pytest.raises(SidecarError) as caught:
        await state.save(key, "mine", etag="of my own")

    assert caught.value.code is (grpc.StatusCode.INVALID_ARGUMENT if difference else grpc.StatusCode.ABORTED)
    assert isinstance(caught.value, Conflict) is not bool(difference)
    item = await state.get(key, str)
    assert item is not None
    assert item.value == "first"


async def test_an_empty_etag_is_refused_before_dapr_takes_it_for_none(side: Side, state: StateManager) -> None:
    key = side.key()
    await state.save(key, "first")

    with pytest.raises(ValueError, match=f"the etag for '{key}' is empty"):
        await state.save(key, "mine", etag="")
    with pytest.raises(ValueError, match=f"the etag for '{key}' is empty"):
        await state.delete(key, etag="")

    item = await state.get(key, str)
    assert item is not None
    assert item.value == "first"


@pytest.mark.req("R4.1")
@pytest.mark.parametrize("before", ["last_write", "first_write", "etag"])
async def test_a_first_write_is_let_through_only_where_the_key_is_new(
    side: Side, state: StateManager, before: str
) -> None:
    key = side.key()
    await state.save(key, "mine", first_write=before == "first_write")
    if before == "etag":
        item = await state.get(key, str)
        assert item is not None
        await state.save(key, "mine", etag=item.etag)

    with pytest.raises(Conflict) as caught:
        await state.save(key, "theirs", first_write=True)

    assert caught.value.key == key
    item = await state.get(key, str)
    assert item is not None
    assert item.value == "mine"


@pytest.mark.req("R4.1")
async def test_writes_of_every_sort_take_turns_on_one_key(side: Side, state: StateManager) -> None:
    key = side.key()
    await state.save(key, "created", first_write=True)
    item = await state.get(key, str)
    assert item is not None
    await state.save(key, "changed", etag=item.etag)
    await state.save(key, "written over")
    await state.delete(key)
    await state.save(key, "created again", first_write=True)
    await state.save(key, "the end")

    item = await state.get(key, str)
    assert item is not None
    assert item.value == "the end"


@pytest.mark.req("R4.2")
@pytest.mark.parametrize("new", [True, False], ids=["first-write", "etag"])
async def test_of_twenty_who_write_at_once_one_is_let_through(side: Side, state: StateManager, new: bool) -> None:
    key, etag = side.key(), None
    if not new:
        await state.save(key, "old")
        item = await state.get(key, str)
        assert item is not None
        etag = item.etag

    found = await outcomes([state.save(key, f"by {n}", etag=etag, first_write=new) for n in range(20)])

    assert (found.count("done"), found.count("Conflict")) == (1, 19)
    item = await state.get(key, str)
    assert item is not None
    assert item.value == f"by {found.index('done')}"


@pytest.mark.req("R4.3")
async def test_what_is_deleted_is_gone_and_may_be_deleted_again(side: Side, state: StateManager) -> None:
    key = side.key()
    await state.save(key, "first")

    await state.delete(key)
    assert await state.get(key, str) is None
    await state.delete(key)


@pytest.mark.req("R4.3")
async def test_delete_with_an_etag_takes_only_that_version_away(side: Side, state: StateManager) -> None:
    key = side.key()
    await state.save(key, "first")
    item = await state.get(key, str)
    await state.save(key, "second")
    newer = await state.get(key, str)
    assert item is not None
    assert newer is not None

    with pytest.raises(Conflict) as caught:
        await state.delete(key, etag=item.etag)
    assert caught.value.key == key
    assert await state.get(key, str) == newer

    await state.delete(key, etag=newer.etag)
    assert await state.get(key, str) is None


@pytest.mark.req("R4.1")
@pytest.mark.parametrize("how", ["ttl", "metadata", "etag", "first_write"])
async def test_a_value_is_gone_when_its_time_is_over(side: Side, state: StateManager, how: str) -> None:
    key, second = side.key(), timedelta(seconds=1)

    async def with_etag() -> None:
        await state.save(key, b"x")
        item = await state.get(key, bytes)
        assert item is not None
        await state.save(key, b"x", etag=item.etag, ttl=second)

    save: dict[str, Callable[[], Awaitable[None]]] = {
        "ttl": lambda: state.save(key, b"x", ttl=second),
        "metadata": lambda: state.save(key, b"x", metadata={"ttlInSeconds": "1"}),
        "etag": with_etag,
        "first_write": lambda: state.save(key, b"x", first_write=True, ttl=second),
    }
    await save[how]()
    await gone(state, key)

    # Nor is it in the way of a first write, swept or not.
    await state.save(key, b"y", first_write=True)


@pytest.mark.req("R4.1")
@pytest.mark.differs(NO_EXPIRY, store="redis")
async def test_an_item_tells_when_it_is_gone(side: Side, state: StateManager, difference: str) -> None:
    key, others = side.key(), side.key()
    await state.save(key, b"x", ttl=timedelta(hours=1))
    await state.save(others, b"x")

    item, without = await state.get(key, bytes), await state.get(others, bytes)

    assert item is not None
    assert without is not None
    assert without.expires is None
    if difference:
        assert item.expires is None
        return
    assert item.expires is not None
    assert abs(item.expires - datetime.now(UTC) - timedelta(hours=1)) < timedelta(seconds=30)


@pytest.mark.req("R4.1")
@pytest.mark.differs(KEEPS_TTL, store="redis")
async def test_a_save_without_a_time_to_live_takes_an_earlier_one_away(
    side: Side, state: StateManager, difference: str
) -> None:
    key, witness = side.key(), side.key()
    await state.save(key, b"x", ttl=timedelta(seconds=1))
    await state.save(key, b"y")
    await state.save(witness, b"x", ttl=timedelta(seconds=1))

    await gone(state, witness)

    assert (await state.get(key, bytes) is None) is bool(difference)


@pytest.mark.req("R4.1")
async def test_forever_takes_an_earlier_time_to_live_away(side: Side, state: StateManager) -> None:
    key, witness = side.key(), side.key()
    await state.save(key, b"x", ttl=timedelta(seconds=1))
    await state.save(key, b"y", ttl=FOREVER)
    await state.save(witness, b"x", ttl=timedelta(seconds=1))

    await gone(state, witness)

    item = await state.get(key, bytes)
    assert item is not None
    assert item.value == b"y"


async def test_a_time_to_live_that_is_no_number_is_an_error_of_the_store(side: Side, state: StateManager) -> None:
    key = side.key()

    with pytest.raises(SidecarError) as caught:
        await state.save(key, b"x", metadata={"ttlInSeconds": "soon"})

    assert (caught.value.code, caught.value.component) == (grpc.StatusCode.INTERNAL, state.store_name)
    assert await state.get(key, bytes) is None


async def test_a_store_that_is_not_loaded_is_told(side: Side) -> None:
    state = StateManager(side.sidecar, "nowhere")

    with pytest.raises(SidecarError) as caught:
        await state.get("a", bytes)
    assert (caught.value.code, caught.value.component) == (grpc.StatusCode.INVALID_ARGUMENT, "nowhere")

    with pytest.raises(SidecarError, match="has not loaded a component 'nowhere'") as caught:
        await state.save("a", b"x", first_write=True)
    assert caught.value.reason == "COMPONENT_NOT_FOUND"
