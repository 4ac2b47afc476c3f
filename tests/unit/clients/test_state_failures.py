"""State that fails: what each failure of a store or of the way to it is told as, and what is not done again."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from datetime import timedelta

import grpc
import pytest

from apibase import Conflict, NotSupported, Settings, Sidecar, SidecarError, StateManager
from apibase.clients.state import FOREVER, Delete, Upsert
from apibase.deadline import deadline
from tests.unit.clients.fake_state import FakeState
from tests.unit.fake_dapr import LostAnswer

MISMATCH = "failed saving state in state store redis: possible etag mismatch. error from state store: "
SCRIPT = "ERR Error running script (call to f_d908): @user_script:14: user_script:14: failed to set key desk||a b"
REFUSED = "dial tcp 127.0.0.1:31426: connect: connection refused"
TRANSACTION = "error while executing state transaction: "


@pytest.fixture
async def dapr(settings: Settings) -> AsyncIterator[FakeState]:
    async with FakeState(settings.sidecar_address) as fake:
        yield fake


@pytest.fixture
async def state(dapr: FakeState, settings: Settings) -> AsyncIterator[StateManager]:
    sidecar = Sidecar(settings.model_copy(update={"call_timeout": 1.0}))
    yield StateManager(sidecar, "statestore")
    await sidecar.close()


@pytest.mark.req("R4.1")
async def test_a_plain_write_does_not_ask_what_the_store_can_do(dapr: FakeState, state: StateManager) -> None:
    await state.save("a", "x")
    await state.delete("a")
    await state.save_bulk([Upsert("a", "x")])
    await state.get("a", str)

    assert [call.method for call in dapr.calls] == ["SaveState", "DeleteState", "SaveState", "GetState"]


@pytest.mark.parametrize(
    ("operation", "capability", "feature"),
    [
        (Upsert("a", "x", etag="1"), "ETAG", "etags"),
        (Upsert("a", "x", first_write=True), "ETAG", "etags"),
        (Upsert("a", "x", ttl=timedelta(seconds=1)), "TTL", "a time to live"),
        (Delete("a", etag="1"), "ETAG", "etags"),
    ],
    ids=str,
)
async def test_what_the_store_would_pass_over_is_not_supported(
    dapr: FakeState, state: StateManager, operation, capability: str, feature: str
) -> None:
    dapr.become("state.plain", *({"ETAG", "TTL", "TRANSACTIONAL"} - {capability}))
    many = state.delete_bulk if isinstance(operation, Delete) else state.save_bulk

    for call in (many([operation]), state.transact([operation])):
        with pytest.raises(NotSupported) as caught:
            await call
        assert (caught.value.component, caught.value.feature) == ("statestore", feature)
    assert dapr.methods() == []


@pytest.mark.req("R4.5")
async def test_a_store_without_transactions_says_so(dapr: FakeState, state: StateManager) -> None:
    dapr.become("state.plain", "ETAG", "TTL")

    with pytest.raises(NotSupported, match="'statestore' does not support transactions"):
        await state.transact([Upsert("a", "x")], allow_partial=True)


@pytest.mark.parametrize(
    ("details", "conflict"), [(MISMATCH + SCRIPT, True), (MISMATCH + REFUSED, False)], ids=["mismatch", "away"]
)
@pytest.mark.parametrize("method", ["SaveState", "DeleteState"])
async def test_redis_being_away_is_no_conflict_though_its_component_says_so(
    dapr: FakeState, state: StateManager, method: str, details: str, conflict: bool
) -> None:
    dapr.become("state.redis")
    dapr.fail(method, grpc.StatusCode.ABORTED, details)

    with pytest.raises(SidecarError) as caught:
        await (state.save("a b", "x", etag="3") if method == "SaveState" else state.delete("a b", etag="3"))

    assert isinstance(caught.value, Conflict) is conflict


async def test_on_redis_no_write_is_marked_as_first_write(dapr: FakeState, state: StateManager) -> None:
    dapr.become("state.redis")

    dapr.fail("SaveState", grpc.StatusCode.ABORTED, MISMATCH + SCRIPT)

    with pytest.raises(Conflict):
        await state.save("a b", "x", first_write=True)

    (item,) = dapr.last("SaveState").request.states
    assert item.etag.value
    assert item.options.concurrency == 0


async def test_a_write_that_is_not_conditional_is_never_a_conflict(dapr: FakeState, state: StateManager) -> None:
    dapr.become("state.redis")
    dapr.fail("SaveState", grpc.StatusCode.INTERNAL, f"failed to set key desk||a: {SCRIPT}")

    with pytest.raises(SidecarError) as caught:
        await state.save("a", "x", ttl=timedelta(seconds=1))

    assert not isinstance(caught.value, Conflict)


@pytest.mark.parametrize(("there", "conflict"), [(b"theirs", True), (b"mine", False), (b"", False)])
async def test_a_first_write_that_fails_in_unknown_words_is_settled_by_looking(
    dapr: FakeState, state: StateManager, there: bytes, conflict: bool
) -> None:
    async def lose() -> None:
        dapr.rows["a"].data = there
        raise LostAnswer(grpc.StatusCode.INTERNAL)

    dapr.after("SaveState", lose)

    with pytest.raises(SidecarError) as caught:
        await state.save("a", "mine", first_write=True)

    # What is there and is what was to be written may be this write, whose answer got lost.
    assert isinstance(caught.value, Conflict) is conflict


async def test_a_first_write_whose_key_can_not_be_looked_up_fails_with_what_it_failed_with(
    dapr: FakeState, state: StateManager
) -> None:
    dapr.fail("SaveState", grpc.StatusCode.INTERNAL, "the disk is full")
    dapr.fail("GetState", grpc.StatusCode.PERMISSION_DENIED, "not to be read")

    with pytest.raises(SidecarError, match="the disk is full") as caught:
        await state.save("a", "mine", first_write=True)

    assert caught.value.code is grpc.StatusCode.INTERNAL
    assert dapr.methods() == ["SaveState", "GetState"]


async def test_json_that_a_store_wrote_anew_is_still_the_same_value(dapr: FakeState, state: StateManager) -> None:
    async def lose() -> None:
        dapr.rows["a"].data = b'{"b": 2, "a": 1}'
        raise LostAnswer(grpc.StatusCode.INTERNAL)

    dapr.after("SaveState", lose)

    with pytest.raises(SidecarError) as caught:
        await state.save("a", {"a": 1, "b": 2}, first_write=True)

    assert not isinstance(caught.value, Conflict)


@pytest.mark.parametrize("number", [2**53, -(2**53), 2**53 + 1, -(2**64), 10**30])
async def test_a_number_that_dapr_would_round_goes_past_it(dapr: FakeState, state: StateManager, number: int) -> None:
    await state.save("a", {"n": [number], "text": str(10**20)})

    assert ("contentType" in dapr.rows["a"].metadata) is (abs(number) <= 2**53)
    item = await state.get("a", dict)
    assert item is not None
    assert item.value["n"] == [number]


async def test_times_to_live_that_no_store_takes_are_refused(dapr: FakeState, state: StateManager) -> None:
    with pytest.raises(ValueError, match="is more than stores take; give FOREVER"):
        await state.save("a", "x", ttl=timedelta(days=30_000))
    await state.save("a", "x", ttl=FOREVER)

    assert dapr.rows["a"].metadata["ttlInSeconds"] == "-1"


async def test_what_can_not_be_kept_is_refused_before_anything_is_sent(dapr: FakeState, state: StateManager) -> None:
    with pytest.raises(TypeError, match="object can't be kept"):
        await state.save_bulk([Upsert("a", "x"), Upsert("b", object())])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="must be non-empty"):
        await state.transact([Upsert("a", "x"), Delete("b||c")])

    assert dapr.methods() == []


@pytest.mark.req("R4.4")
async def test_an_error_of_one_key_hides_no_other(dapr: FakeState, state: StateManager) -> None:
    await state.save("a", "x")
    dapr.broken["b"] = "failed to decode base64 data"

    found = await state.get_bulk(["b", "a"], str)

    assert [item.value for item in found.items.values() if item] == ["x"]
    assert {key: error.message for key, error in found.errors.items()} == {"b": "failed to decode base64 data"}


@pytest.mark.req("R4.4")
@pytest.mark.parametrize("code", [grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN, grpc.StatusCode.ABORTED])
async def test_a_bulk_that_fails_is_made_again_key_by_key(
    dapr: FakeState, state: StateManager, code: grpc.StatusCode
) -> None:
    dapr.fail("SaveState", code, "failed saving state: the disk is full")  # all of it
    dapr.fail("SaveState", code, "failed saving state: the disk is full")  # the first alone

    result = await state.save_bulk([Upsert("a", "x"), Upsert("b", "y")])

    assert len(result.done) == len(result.errors) == 1
    assert dapr.methods() == ["SaveState"] * 3
    with pytest.raises(SidecarError, match="the disk is full"):
        result.raise_first()


@pytest.mark.req("R4.4")
@pytest.mark.parametrize(
    "code",
    [
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.UNAUTHENTICATED,
    ],
)
async def test_a_bulk_that_fails_as_a_call_is_told_of_every_key_and_not_made_again(
    dapr: FakeState, state: StateManager, code: grpc.StatusCode
) -> None:
    dapr.fail("SaveState", code)
    dapr.fail("DeleteBulkState", code)

    saved = await state.save_bulk([Upsert("a", "x"), Upsert("b", "y")])
    deleted = await state.delete_bulk(["a", "b"])

    for result in (saved, deleted):
        assert result.done == ()
        assert {key: error.code for key, error in result.errors.items()} == {"a": code, "b": code}
    assert dapr.methods() == ["SaveState", "DeleteBulkState"]


@pytest.mark.req("R4.4")
async def test_conditional_writes_of_a_bulk_go_a_few_at_a_time(dapr: FakeState, state: StateManager) -> None:
    running, most = 0, 0

    async def slow() -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.01)
        running -= 1

    for _ in range(10):
        dapr.after("SaveState", slow)

    result = await state.save_bulk([Upsert(f"k{n}", "x", first_write=True) for n in range(10)], at_once=3)

    assert len(result.done) == 10
    assert most == 3


@pytest.mark.req("R4.5")
@pytest.mark.parametrize(
    ("details", "conflict"),
    [
        ("possible etag mismatch. error from state store", True),
        ("no item was updated", True),
        ("ERROR: deadlock detected (SQLSTATE 40P01)", False),
        ("context deadline exceeded", False),
    ],
)
async def test_a_transaction_that_fails_is_a_conflict_by_its_words(
    dapr: FakeState, state: StateManager, details: str, conflict: bool
) -> None:
    dapr.fail("ExecuteStateTransaction", grpc.StatusCode.INTERNAL, TRANSACTION + details)

    with pytest.raises(SidecarError) as caught:
        await state.transact([Upsert("a", "x", etag="1"), Upsert("b", "x")])

    assert isinstance(caught.value, Conflict) is conflict


@pytest.mark.req("R4.5")
async def test_the_key_of_a_conflict_is_found_by_looking(dapr: FakeState, state: StateManager) -> None:
    for key in "abc":
        await state.save(key, "x")
    etags = {key: dapr.rows[key].etag for key in "abc"}
    await state.save("b", "y")
    dapr.fail("ExecuteStateTransaction", grpc.StatusCode.INTERNAL, TRANSACTION + "possible etag mismatch")

    with pytest.raises(Conflict) as caught:
        await state.transact([Upsert(key, "z", etag=etags[key]) for key in "cba"])

    assert caught.value.key == "b"


@pytest.mark.req("R4.5")
@pytest.mark.parametrize("looking_fails", [True, False])
async def test_a_conflict_of_a_key_that_can_not_be_told_names_none(
    dapr: FakeState, state: StateManager, looking_fails: bool
) -> None:
    dapr.fail("ExecuteStateTransaction", grpc.StatusCode.INTERNAL, TRANSACTION + "no item was updated")
    if looking_fails:
        dapr.fail("GetBulkState", grpc.StatusCode.INTERNAL)

    with pytest.raises(Conflict, match="the state under one of the keys has changed") as caught:
        await state.transact([Upsert("a", "x", first_write=True), Upsert("b", "x", first_write=True)])

    assert caught.value.key == ""


@pytest.mark.req("R4.5")
async def test_redis_names_the_key_of_a_conflict_itself(dapr: FakeState, state: StateManager) -> None:
    dapr.become("state.redis")
    dapr.fail("ExecuteStateTransaction", grpc.StatusCode.INTERNAL, TRANSACTION + SCRIPT)
    dapr.fail("ExecuteStateTransaction", grpc.StatusCode.INTERNAL, TRANSACTION + REFUSED)
    operations = [Upsert("a b", {"json": 1}, first_write=True), Upsert("c", "x", first_write=True)]

    with pytest.raises(Conflict) as caught:
        await state.transact(operations, allow_partial=True)
    assert caught.value.key == "a b"
    with pytest.raises(SidecarError, match="connection refused") as away:
        await state.transact(operations, allow_partial=True)
    assert not isinstance(away.value, Conflict)

    # Without Redis' JSON module a command for JSON would fail.
    sent = dapr.last("ExecuteStateTransaction").request.operations
    assert [dict(each.request.metadata) for each in sent] == [{}, {}]


@pytest.mark.req("R4.5")
async def test_a_transaction_whose_answer_is_lost_is_not_made_again(dapr: FakeState, state: StateManager) -> None:
    async def lose() -> None:
        raise LostAnswer

    dapr.after("ExecuteStateTransaction", lose)

    with pytest.raises(SidecarError) as caught:
        await state.transact([Upsert("a", "x", etag="1")])

    assert caught.value.code is grpc.StatusCode.UNAVAILABLE
    assert dapr.methods() == ["ExecuteStateTransaction"]


async def test_an_update_whose_answer_is_lost_is_not_made_again(dapr: FakeState, state: StateManager) -> None:
    async def lose() -> None:
        raise LostAnswer

    dapr.after("SaveState", lose)

    with pytest.raises(SidecarError) as caught:
        await state.update("a", int, lambda count: (count or 0) + 1)

    assert caught.value.code is grpc.StatusCode.UNAVAILABLE
    assert dapr.rows["a"].data == b"1"
    assert dapr.methods() == ["GetState", "SaveState"]


async def test_an_update_ends_with_the_inbound_calls_time(dapr: FakeState, state: StateManager) -> None:
    for _ in range(1000):
        dapr.fail("SaveState", grpc.StatusCode.ABORTED, "possible etag mismatch")
    began = time.monotonic()
    token = deadline.set_remaining(0.3)
    try:
        with pytest.raises(SidecarError) as caught:
            await state.update("a", str, lambda _value: "x", within=60)
    finally:
        deadline.reset(token)

    # The last try's call may run into that end itself.
    assert caught.value.code in {grpc.StatusCode.ABORTED, grpc.StatusCode.DEADLINE_EXCEEDED}
    assert time.monotonic() - began < 2


async def test_an_update_that_waits_for_its_turn_too_long_is_beaten(dapr: FakeState, state: StateManager) -> None:
    entered, leave = asyncio.Event(), asyncio.Event()

    async def slow(_value: str | None) -> str:
        entered.set()
        await leave.wait()
        return "first"

    first = asyncio.create_task(state.update("a", str, slow))
    await entered.wait()
    with pytest.raises(Conflict):
        await state.update("a", str, lambda _value: "second", within=0.05)
    await state.update("b", str, lambda _value: "of another key")
    leave.set()

    assert (await first).value == "first"
    assert dapr.rows["a"].data == b"first"


async def test_an_update_makes_use_of_its_time_to_live(dapr: FakeState, state: StateManager) -> None:
    saved = await state.update("a", str, lambda _value: "x", ttl=timedelta(seconds=30))

    assert dapr.rows["a"].metadata["ttlInSeconds"] == "30"
    assert (saved.key, saved.value, saved.etag) == ("a", "x", "")
    with pytest.raises(ValueError, match="the etag for 'a' is empty"):
        await state.save("a", "y", etag=saved.etag)
