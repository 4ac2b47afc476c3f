"""State: what is saved and read, and how each way of losing a race or an answer looks to the caller."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from dapr.proto import common_v1

from apibase import Conflict, SidecarError, SidecarUnavailable, StateManager
from apibase.clients import Sidecar
from tests.unit.fake_dapr import FakeDapr, LostAnswer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from apibase import Settings
    from tests.unit.conftest import Desk

CONCURRENCY = common_v1.StateOptions.StateConcurrency
CONSISTENCY = common_v1.StateOptions.StateConsistency


@pytest.fixture
async def state(dapr: FakeDapr, settings: Settings) -> AsyncIterator[StateManager]:
    sidecar = Sidecar(settings)
    yield StateManager(sidecar, "statestore")
    await sidecar.close()


def last_saved(dapr: FakeDapr) -> Any:
    request = dapr.last("SaveState").request
    assert request.store_name == "statestore"
    (item,) = request.states
    return item


@pytest.mark.req("R4.1", "R4.2")
async def test_what_is_saved_is_read_with_an_etag(desk: Desk, state: StateManager) -> None:
    await state.save("a", desk.pb2.Asked(text="why", number=7))

    item = await state.get("a", desk.pb2.Asked)

    assert item is not None
    assert (item.key, item.value) == ("a", desk.pb2.Asked(text="why", number=7))
    assert item.etag


async def test_a_value_is_kept_as_json_that_people_can_read(desk: Desk, state: StateManager, dapr: FakeDapr) -> None:
    await state.save("a", desk.pb2.Asked(text="why", number=7))

    assert dapr.rows["a"].data == b'{"text": "why", "number": 7}'
    assert dapr.rows["a"].metadata == {"contentType": "application/json"}


async def test_an_empty_message_is_there_when_it_was_saved(desk: Desk, state: StateManager) -> None:
    await state.save("a", desk.pb2.Asked())

    item = await state.get("a", desk.pb2.Asked)

    assert item is not None
    assert item.value == desk.pb2.Asked()


async def test_a_key_without_a_value_is_none(desk: Desk, state: StateManager) -> None:
    assert await state.get("nowhere", desk.pb2.Asked) is None


async def test_a_field_of_a_later_contract_is_passed_over(desk: Desk, state: StateManager, dapr: FakeDapr) -> None:
    await state.save("a", desk.pb2.Asked(text="why"))
    dapr.rows["a"].data = b'{"text": "why", "mood": "good"}'

    item = await state.get("a", desk.pb2.Asked)

    assert item is not None
    assert item.value.text == "why"


@pytest.mark.parametrize("data", [b"no JSON", b"\xff", b'{"number": "many"}', b"[]", b'"why"'])
async def test_a_value_that_is_no_such_message_is_an_error_and_not_an_empty_message(
    desk: Desk, state: StateManager, dapr: FakeDapr, data: bytes
) -> None:
    await state.save("a", desk.pb2.Asked(text="why"))
    dapr.rows["a"].data = data

    with pytest.raises(SidecarError, match=r"the state under 'a' is no desk.v1.Asked") as caught:
        await state.get("a", desk.pb2.Asked)

    assert (caught.value.code, caught.value.reason) == (grpc.StatusCode.DATA_LOSS, "STATE_UNREADABLE")
    assert not caught.value.retryable


@pytest.mark.req("R4.1")
async def test_the_last_writer_wins_unless_asked_otherwise(desk: Desk, state: StateManager, dapr: FakeDapr) -> None:
    await state.save("a", desk.pb2.Asked(text="first"))
    await state.save("a", desk.pb2.Asked(text="second"))

    item = await state.get("a", desk.pb2.Asked)
    assert item is not None
    assert item.value.text == "second"
    options = last_saved(dapr).options
    assert (options.concurrency, options.consistency) == (
        CONCURRENCY.CONCURRENCY_LAST_WRITE,
        CONSISTENCY.CONSISTENCY_STRONG,
    )


@pytest.mark.req("R4.1", "R4.2")
async def test_an_etag_lets_one_of_two_writers_through(desk: Desk, state: StateManager, dapr: FakeDapr) -> None:
    await state.save("a", desk.pb2.Asked(text="first"))
    item = await state.get("a", desk.pb2.Asked)
    assert item is not None

    await state.save("a", desk.pb2.Asked(text="mine"), etag=item.etag)
    with pytest.raises(Conflict) as caught:
        await state.save("a", desk.pb2.Asked(text="theirs"), etag=item.etag)

    assert (caught.value.key, caught.value.component) == ("a", "statestore")
    assert last_saved(dapr).options.concurrency == CONCURRENCY.CONCURRENCY_FIRST_WRITE
    assert dapr.rows["a"].data == b'{"text": "mine"}'


async def test_an_etag_of_a_row_that_is_gone_is_a_conflict(desk: Desk, state: StateManager) -> None:
    with pytest.raises(Conflict):
        await state.save("a", desk.pb2.Asked(text="mine"), etag="1")


@pytest.mark.req("R4.1")
async def test_a_first_write_lets_one_of_two_writers_through(desk: Desk, state: StateManager, dapr: FakeDapr) -> None:
    await state.save("a", desk.pb2.Asked(text="mine"), first_write=True)
    assert not last_saved(dapr).HasField("etag")

    # As PostgreSQL has it: INTERNAL, "no item was updated".
    with pytest.raises(Conflict):
        await state.save("a", desk.pb2.Asked(text="theirs"), first_write=True)

    assert dapr.rows["a"].data == b'{"text": "mine"}'


async def test_a_first_write_that_a_store_refuses_as_a_conflict_is_one(
    desk: Desk, state: StateManager, dapr: FakeDapr
) -> None:
    dapr.fail("SaveState", grpc.StatusCode.ABORTED)

    with pytest.raises(Conflict):
        await state.save("a", desk.pb2.Asked(text="mine"), first_write=True)


async def test_a_first_write_that_fails_for_another_reason_is_no_conflict(
    desk: Desk, state: StateManager, dapr: FakeDapr
) -> None:
    dapr.fail("SaveState", grpc.StatusCode.INTERNAL, "the disk is full")

    with pytest.raises(SidecarError, match="the disk is full") as caught:
        await state.save("a", desk.pb2.Asked(text="mine"), first_write=True)

    assert not isinstance(caught.value, Conflict)


@pytest.mark.parametrize("code", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED])
async def test_a_write_whose_answer_got_lost_is_no_conflict_with_itself(
    desk: Desk, state: StateManager, dapr: FakeDapr, code: grpc.StatusCode
) -> None:
    async def lose() -> None:
        raise LostAnswer(code)

    dapr.after("SaveState", lose)

    with pytest.raises(SidecarError) as caught:
        await state.save("a", desk.pb2.Asked(text="mine"), first_write=True)

    assert caught.value.code is code
    assert not isinstance(caught.value, Conflict)
    assert "a" in dapr.rows


@pytest.mark.req("R1.5")
async def test_a_sidecar_that_is_away_is_unavailable(desk: Desk, settings: Settings) -> None:
    sidecar = Sidecar(settings.model_copy(update={"call_timeout": 0.2}))
    state = StateManager(sidecar, "statestore")

    for call in (
        state.get("a", desk.pb2.Asked),
        state.save("a", desk.pb2.Asked(), first_write=True),
        state.delete("a"),
    ):
        with pytest.raises(SidecarUnavailable) as caught:
            await call
        assert caught.value.retryable
    await sidecar.close()


@pytest.mark.req("R4.1")
@pytest.mark.parametrize(
    ("ttl", "seconds"),
    [
        (timedelta(seconds=30), "30"),
        (timedelta(milliseconds=1200), "2"),
        (timedelta(0), "1"),
        (timedelta(days=2), "172800"),
    ],
)
async def test_a_time_to_live_is_whole_seconds_rounded_up(
    desk: Desk, state: StateManager, dapr: FakeDapr, ttl: timedelta, seconds: str
) -> None:
    await state.save("a", desk.pb2.Asked(), ttl=ttl)

    assert dapr.rows["a"].metadata["ttlInSeconds"] == seconds


@pytest.mark.req("R4.3")
async def test_delete_takes_the_row_away_and_does_not_mind_one_that_is_gone(
    desk: Desk, state: StateManager, dapr: FakeDapr
) -> None:
    await state.save("a", desk.pb2.Asked())

    await state.delete("a")
    await state.delete("a")

    assert await state.get("a", desk.pb2.Asked) is None
    assert not dapr.last("DeleteState").request.HasField("etag")


@pytest.mark.req("R4.3")
async def test_delete_with_an_etag_takes_only_that_version_away(desk: Desk, state: StateManager) -> None:
    await state.save("a", desk.pb2.Asked(text="first"))
    item = await state.get("a", desk.pb2.Asked)
    assert item is not None
    await state.save("a", desk.pb2.Asked(text="second"))

    with pytest.raises(Conflict):
        await state.delete("a", etag=item.etag)

    newer = await state.get("a", desk.pb2.Asked)
    assert newer is not None
    await state.delete("a", etag=newer.etag)
    assert await state.get("a", desk.pb2.Asked) is None


@pytest.mark.parametrize("key", ["", "a||b"])
async def test_a_key_that_dapr_reads_in_another_way_is_refused(desk: Desk, state: StateManager, key: str) -> None:
    for call in (state.get(key, desk.pb2.Asked), state.save(key, desk.pb2.Asked()), state.delete(key)):
        with pytest.raises(ValueError, match=r"must be non-empty and without '\|\|'"):
            await call
