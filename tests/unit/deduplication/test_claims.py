"""Claims: who may do a piece of work, what a crash, a pause, an outage or a cancellation leaves, and what events make of it."""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import pytest
from google.protobuf import json_format
from google.protobuf.timestamp_pb2 import Timestamp

from apibase import Conflict, Drop, Retry, ServiceError, SidecarError, SidecarUnavailable
from apibase.cancellation import is_cancelled
from apibase.contract.deduplication import MISSING
from apibase.deadline import deadline
from apibase.deduplication.claims import Claim, Deduplicator
from apibase.deduplication.record import Busy, ClaimLost, Repetition
from apibase.delivery import TopicDelivery
from apibase.routes import Incoming, RouteTable
from dapr_contract.v1.deduplication_pb2 import HandledEvent
from tests.unit.app_channels import Graveyard, Listener, topic_event
from tests.unit.chains import deliver
from tests.unit.conftest import Desk, Log
from tests.unit.fake_dapr import eventually
from tests.unit.memory_state import MemoryState, refused, unavailable

LEASE = timedelta(seconds=30)
DAY = timedelta(days=1)
HANDLER = "ledger.v1.LedgerEvents.OnEntry"
WHAT = ("source and id", "shop", "event-1")


class Store(MemoryState):
    """The state of the unit tests, with times to live, deletions, outages, and the time of day."""

    def __init__(self) -> None:
        super().__init__()
        self.time = datetime(2026, 7, 1, 12, tzinfo=UTC)
        self.ttls: list[timedelta | None] = []
        self.reads = 0
        self.deleted: list[str] = []
        self.away = False
        self.slow: asyncio.Event | None = None
        self.before_delete: Callable[[], Awaitable[object]] | None = None

    def now(self) -> datetime:
        return self.time

    async def _reach(self) -> None:
        if self.away:
            await unavailable()
        if self.slow is not None:
            await self.slow.wait()

    async def get(self, key: str, message: type[Any]) -> Any:
        self.reads += 1
        await self._reach()
        return await super().get(key, message)

    async def save(self, key: str, value: Any, *, ttl: timedelta | None = None, **options: Any) -> None:
        await self._reach()
        self.ttls.append(ttl)
        await super().save(key, value, **options)

    async def delete(self, key: str, *, etag: str | None = None) -> None:
        await self._reach()
        if self.before_delete is not None:
            await self.before_delete()
        if self.rows.get(key, ("", ""))[1] != etag:
            raise Conflict(key, component=self.store_name)
        del self.rows[key]
        self.deleted.append(key)

    def taken_over(self, key: str) -> None:
        """Have another replica take a claim over."""
        record = HandledEvent(claim="another", claimed_until=timestamp(self.time + LEASE))
        self.rows[key] = (json_format.MessageToJson(record), f"another-{self.rows[key][1]}")

    async def record(self, key: str) -> HandledEvent:
        item = await MemoryState.get(self, key, HandledEvent)
        assert item is not None, self.rows
        return item.value

    async def only_record(self) -> HandledEvent:
        (key,) = self.rows
        return await self.record(key)


def timestamp(moment: datetime) -> Timestamp:
    made = Timestamp()
    made.FromDatetime(moment)
    return made


@pytest.fixture
def store() -> Store:
    return Store()


def deduplicator(store: Store, lease: timedelta = LEASE) -> Deduplicator:
    return Deduplicator(store, "desk", lease, now=store.now)  # type: ignore[arg-type]


async def claimed(store: Store, lease: timedelta = LEASE, remember_for: timedelta = DAY) -> Claim:
    """Claim the one piece of work of these tests, as a replica of its own."""
    claim = await deduplicator(store, lease).claim(HANDLER, WHAT, remember_for)
    assert isinstance(claim, Claim)
    return claim


async def is_free(store: Store) -> bool:
    try:
        return isinstance(await deduplicator(store).claim(HANDLER, WHAT, DAY), Claim)
    except Busy:
        return False


async def paused(store: Store) -> Claim:
    """Return a claim whose process was paused for longer than its lease, and that another replica has taken over."""
    mine = await claimed(store)
    store.time += LEASE
    await claimed(store)
    return mine


def short() -> timedelta:
    """Return a lease whose third passes in no time."""
    return timedelta(milliseconds=30)


# What a key is made of


def test_a_key_tells_apps_handlers_and_identities_apart_and_shows_none_of_what_identifies() -> None:
    one, other = (Deduplicator(Store(), app_id, LEASE) for app_id in ("one", "other"))  # type: ignore[arg-type]

    keys = [one.key("H", WHAT), other.key("H", WHAT), one.key("G", WHAT), one.key("H", ("source and id", "shop", "2"))]
    keys += [one.key("H", ("a", "b,c")), one.key("H", ("a,b", "c")), one.key("H", ("n", 1)), one.key("H", ("n", "1"))]
    keys += [one.key("H", ("text", "||/?#\N{SNOWMAN}\ud800" * 1000))]

    assert len(set(keys)) == len(keys)
    assert {len(key) for key in keys} == {len(f"handled:one:H:{'0' * 64}"), len(f"handled:other:H:{'0' * 64}")}
    assert not any({"/", "|", "?", "#", "\\"} & set(key) for key in keys)


# The life of a claim


async def test_work_that_is_claimed_is_nobody_elses_until_it_is_done_and_then_a_repetition(store: Store) -> None:
    async with await claimed(store) as claim:
        with pytest.raises(Busy, match=r"claimed until 2026-07-01T12:00:30\.000Z") as caught:
            await deduplicator(store).claim(HANDLER, WHAT, DAY)
        store.time += timedelta(seconds=5)
        await claim.done()

    assert caught.value.until == store.time + timedelta(seconds=25)
    repetition = await deduplicator(store).claim(HANDLER, WHAT, DAY)
    assert repetition == Repetition(store.time, store.time + DAY)
    assert str(repetition) == "done already at 2026-07-01T12:00:05.000Z, remembered until 2026-07-02T12:00:05.000Z"
    assert not store.deleted


async def test_work_costs_a_write_before_it_and_a_read_and_a_write_after(store: Store) -> None:
    async with await claimed(store) as claim:
        assert (len(store.saves), store.reads) == (1, 0)
        await claim.done()

    assert (len(store.saves), store.reads) == (2, 1)


async def test_other_work_is_not_in_its_way(store: Store) -> None:
    await claimed(store)

    assert isinstance(await deduplicator(store).claim(HANDLER, ("source and id", "shop", "event-2"), DAY), Claim)
    assert isinstance(await deduplicator(store).claim("another.Handler", WHAT, DAY), Claim)


async def test_the_store_keeps_a_record_for_longer_than_anybody_goes_by_it(store: Store) -> None:
    async with await claimed(store) as claim:
        await claim.done()

    held, remembered = store.ttls
    assert held is not None
    assert remembered is not None
    assert held > LEASE
    assert remembered > DAY


async def test_work_that_is_done_may_be_done_again_when_its_time_is_over(store: Store) -> None:
    async with await claimed(store, remember_for=timedelta(seconds=60)) as claim:
        await claim.done()

    store.time += timedelta(seconds=59.999)
    assert not await is_free(store)
    store.time += timedelta(seconds=0.001)
    assert await is_free(store)


async def test_work_that_was_not_done_is_free_at_once(store: Store) -> None:
    async with await claimed(store):
        pass

    assert not store.rows
    assert await is_free(store)


async def test_work_that_failed_is_free_at_once_and_the_error_goes_on(store: Store) -> None:
    with pytest.raises(RuntimeError, match="broken"):
        async with await claimed(store):
            raise RuntimeError("broken")

    assert await is_free(store)


async def test_what_a_crash_left_is_free_when_the_lease_is_over_and_not_before(store: Store, log: Log) -> None:
    await claimed(store)

    store.time += LEASE - timedelta(milliseconds=1)
    assert not await is_free(store)
    store.time += timedelta(milliseconds=1)
    assert await is_free(store)
    assert "lapsed at 2026-07-01T12:00:30.000Z: taken over" in log.one(level="WARNING")["message"]


async def test_of_two_who_take_over_one_is_first(store: Store) -> None:
    crashed = await claimed(store)
    store.time += LEASE
    store.before_save(crashed.key, lambda: asyncio.sleep(0))
    # The first write fails, so the hook that counts is the second save's: the one by etag.
    store.before_save(crashed.key, lambda: claimed(store))

    with pytest.raises(Busy, match="claimed by somebody else at the same moment"):
        await claimed(store)

    assert len(store.rows) == 1


async def test_many_at_once_get_one_claim(store: Store) -> None:
    results = await asyncio.gather(*(claimed(store) for _ in range(20)), return_exceptions=True)

    assert sorted(type(each).__name__ for each in results) == [*["Busy"] * 19, "Claim"]


async def test_a_record_that_vanishes_while_it_is_looked_at_is_looked_at_another_time(store: Store) -> None:
    key = (await claimed(store)).key

    async def vanish() -> None:
        raise Conflict(key)

    store.rows.clear()
    store.before_save(key, vanish)

    with pytest.raises(Busy):
        await claimed(store)
    assert await is_free(store)


async def test_a_claim_that_the_sidecar_wrote_twice_is_ours(store: Store) -> None:
    key = deduplicator(store).key(HANDLER, WHAT)

    async def again() -> None:
        raise Conflict(key)  # what the second write of a retry finds is the first

    store.after_save(key, again)

    assert (await store.record((await claimed(store)).key)).HasField("claimed_until")


async def test_a_claim_that_the_sidecar_took_over_twice_is_ours(store: Store) -> None:
    key = (await claimed(store)).key
    store.time += LEASE

    async def again() -> None:
        raise Conflict(key)

    store.before_save(key, lambda: asyncio.sleep(0))  # the first write, which finds the old claim
    store.after_save(key, again)

    claim = await claimed(store)
    assert (await store.record(key)).claim == claim._record._id


async def test_a_claim_that_is_taken_over_when_it_is_let_go_is_left_alone(store: Store, log: Log) -> None:
    async with await claimed(store) as claim:

        async def taken_over() -> None:
            store.taken_over(claim.key)

        store.before_delete = taken_over

    assert (await store.only_record()).claim == "another"
    assert not log.of(level="WARNING")


async def test_a_record_without_times_is_nobodys(store: Store) -> None:
    await MemoryState.save(store, deduplicator(store).key(HANDLER, WHAT), HandledEvent(claim="of old"))

    assert await is_free(store)


# An outage of the store


@pytest.mark.parametrize("trouble", [unavailable, refused])
async def test_without_the_store_nothing_is_claimed(store: Store, trouble: Any) -> None:
    store.before_save(deduplicator(store).key(HANDLER, WHAT), trouble)

    with pytest.raises(SidecarError):
        await claimed(store)

    assert not store.rows


async def test_a_claim_whose_answer_got_lost_blocks_nobody(store: Store) -> None:
    owner = deduplicator(store)
    store.after_save(owner.key(HANDLER, WHAT), unavailable)

    with pytest.raises(SidecarUnavailable):
        await owner.claim(HANDLER, WHAT, DAY)
    await owner.close()

    assert not store.rows


async def test_a_record_that_can_not_be_read_is_no_leave_to_do_the_work(store: Store) -> None:
    key = (await claimed(store)).key
    store.unreadable.add(key)

    with pytest.raises(SidecarError, match="garbage"):
        await claimed(store)


async def test_what_is_done_while_the_store_fails_for_a_moment_is_recorded(store: Store) -> None:
    async with await claimed(store) as claim:
        store.before_save(claim.key, unavailable)
        await claim.done()

    assert (await store.only_record()).HasField("done_at")


async def test_a_record_whose_answer_got_lost_is_found_to_be_written(store: Store) -> None:
    async with await claimed(store) as claim:
        store.after_save(claim.key, unavailable)
        await claim.done()

    assert len(store.saves) == 2
    assert (await store.only_record()).HasField("done_at")


async def test_what_can_not_be_recorded_is_done_all_the_same_and_said_so(
    store: Store, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("apibase.deduplication.claims._SETTLE_SECONDS", 0.05)
    async with await claimed(store) as claim:
        store.away = True
        await claim.done()

    line = log.one(level="WARNING")
    assert "is not recorded, so a repetition is done again" in line["message"]
    assert "the sidecar is away" in line["message"]
    store.away = False
    assert not await is_free(store)
    store.time += LEASE
    assert await is_free(store)


async def test_what_can_not_be_let_go_lapses_with_the_lease(
    store: Store, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("apibase.deduplication.claims._SETTLE_SECONDS", 0.05)
    async with await claimed(store):
        store.slow = asyncio.Event()

    message = log.one(level="WARNING")["message"]
    assert "could not be let go" in message
    assert "holds until 2026-07-01T12:00:30.000Z: no answer in time" in message
    store.slow = None
    store.time += LEASE
    assert await is_free(store)


async def test_a_record_that_is_gone_when_the_work_is_done_is_written_anew(store: Store) -> None:
    async with await claimed(store) as claim:
        store.rows.clear()
        await claim.done()

    assert (await store.only_record()).HasField("done_at")


# Renewal


async def test_a_claim_is_renewed_while_the_work_goes_on(store: Store) -> None:
    async with await claimed(store, short()) as claim:
        before = (await store.record(claim.key)).claimed_until.ToDatetime(UTC)
        store.time += timedelta(seconds=1)
        await eventually(lambda: len(store.saves) >= 4)
        after = (await store.record(claim.key)).claimed_until.ToDatetime(UTC)
        await claim.done()

    assert after - before == timedelta(seconds=1)
    saves = len(store.saves)
    await asyncio.sleep(short().total_seconds())
    assert len(store.saves) == saves


async def test_work_whose_claim_is_taken_over_is_ended(store: Store) -> None:
    ended: list[bool] = []

    async def work() -> None:
        async with await claimed(store, short()) as mine:
            store.taken_over(mine.key)
            try:
                await asyncio.Event().wait()
            finally:
                ended.append(is_cancelled())

    with pytest.raises(ClaimLost, match="somebody else has taken it over"):
        await work()

    assert ended == [True]
    assert not is_cancelled()
    assert (await store.only_record()).claim == "another"


async def test_work_that_does_not_end_when_its_claim_is_lost_leaves_its_call_as_it_was(store: Store) -> None:
    async with await claimed(store, short()) as mine:
        store.taken_over(mine.key)
        with pytest.raises(asyncio.CancelledError):
            await asyncio.Event().wait()

    assert not is_cancelled()
    assert (await store.only_record()).claim == "another"


async def test_work_that_ends_with_an_error_of_its_own_when_its_claim_is_lost_has_lost_it(store: Store) -> None:
    async def work() -> None:
        mine = await claimed(store, short())
        async with mine:
            store.rows.clear()
            try:
                await asyncio.Event().wait()
            finally:
                raise RuntimeError("could not clean up")

    with pytest.raises(ClaimLost) as caught:
        await work()
    assert isinstance(caught.value.__cause__, RuntimeError)
    assert not is_cancelled()


async def test_a_call_that_is_cancelled_when_its_claim_is_lost_is_cancelled(store: Store) -> None:
    async def work() -> None:
        async with await claimed(store, short()):
            store.rows.clear()
            try:
                await asyncio.Event().wait()
            finally:
                task.cancel()

    task = asyncio.ensure_future(work())
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize("ending", ["done", "not done"])
async def test_a_paused_process_does_not_touch_what_another_has_taken_over(store: Store, log: Log, ending: str) -> None:
    async with await paused(store) as mine:
        if ending == "done":
            await mine.done()

    record = await store.only_record()
    assert record.claim != mine._record._id
    assert record.HasField("claimed_until")
    told = [line["message"] for line in log.of(level="WARNING") if "it may be done twice" in line["message"]]
    assert len(told) == (1 if ending == "done" else 0)


async def test_a_takeover_between_the_look_and_the_write_is_seen(store: Store) -> None:
    async def work() -> None:
        async with await claimed(store, short()) as mine:

            async def taken_over() -> None:
                store.taken_over(mine.key)

            store.before_save(mine.key, taken_over)
            await asyncio.Event().wait()

    with pytest.raises(ClaimLost):
        await work()

    assert (await store.only_record()).claim == "another"


async def test_work_goes_on_while_the_store_is_away_and_is_recorded_when_it_is_back(store: Store, log: Log) -> None:
    async with await claimed(store, short()) as claim:
        store.away = True
        await eventually(lambda: len(log.of(level="WARNING")) >= 2)
        store.away = False
        await claim.done()

    assert all("could not be renewed: UNAVAILABLE" in line["message"] for line in log.of(level="WARNING"))
    assert (await store.only_record()).HasField("done_at")


async def test_a_renewal_that_hangs_is_given_up_and_tried_again(store: Store, log: Log) -> None:
    async with await claimed(store, short()) as claim:
        store.slow = asyncio.Event()
        await eventually(lambda: log.of(level="WARNING"))
        store.slow = None
        await claim.done()

    assert "could not be renewed: no answer in time" in log.of(level="WARNING")[0]["message"]


async def test_a_renewal_that_breaks_is_told_and_ends_no_work(store: Store, log: Log) -> None:
    async def broken() -> None:
        raise ValueError("a fault of ours")

    async with await claimed(store, short()) as claim:
        store.before_save(claim.key, broken)
        await eventually(lambda: log.of(level="ERROR"))
        await claim.done()

    assert "is renewed no more" in log.one(level="ERROR")["message"]


async def test_a_renewal_under_way_is_finished_before_the_claim_is_let_go(store: Store) -> None:
    under_way, go_on = asyncio.Event(), asyncio.Event()

    async def hold() -> None:
        under_way.set()
        await go_on.wait()

    async def work() -> None:
        async with await claimed(store, timedelta(seconds=0.3)) as claim:
            store.before_save(claim.key, hold)
            await under_way.wait()

    task = asyncio.ensure_future(work())
    await under_way.wait()
    await asyncio.sleep(0)
    assert not store.deleted
    go_on.set()
    await task

    assert len(store.deleted) == 1
    assert not store.rows


# Cancellation


async def test_a_call_that_is_cancelled_at_work_lets_its_claim_go(store: Store) -> None:
    at_work = asyncio.Event()

    async def work() -> None:
        async with await claimed(store):
            at_work.set()
            await asyncio.Event().wait()

    task = asyncio.ensure_future(work())
    await at_work.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert await is_free(store)


async def test_a_call_that_is_cancelled_while_it_claims_leaves_no_claim(store: Store) -> None:
    owner = deduplicator(store)
    store.slow = asyncio.Event()
    task = asyncio.ensure_future(owner.claim(HANDLER, WHAT, DAY))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    store.slow.set()
    await owner.close()

    assert len(store.saves) == 1
    assert not store.rows


async def test_a_call_that_is_cancelled_while_it_records_is_recorded(store: Store) -> None:
    owner = deduplicator(store)
    recording = asyncio.Event()

    async def work() -> None:
        claim = await owner.claim(HANDLER, WHAT, DAY)
        assert isinstance(claim, Claim)
        async with claim:
            store.slow = asyncio.Event()
            recording.set()
            await claim.done()

    task = asyncio.ensure_future(work())
    await recording.wait()
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not (await store.only_record()).HasField("done_at")

    assert store.slow is not None
    store.slow.set()
    await owner.close()

    assert (await store.only_record()).HasField("done_at")
    assert not store.deleted


async def test_closing_waits_for_handlers_that_have_not_seen_yet_that_they_are_cancelled(store: Store) -> None:
    owner = deduplicator(store)
    at_work = asyncio.Event()

    async def work() -> None:
        claim = await owner.claim(HANDLER, WHAT, DAY)
        assert isinstance(claim, Claim)
        async with claim:
            at_work.set()
            await asyncio.Event().wait()

    task = asyncio.ensure_future(work())
    await at_work.wait()
    asyncio.get_running_loop().call_later(0.02, task.cancel)

    await owner.close()

    assert not store.rows
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_closing_does_not_wait_for_a_store_that_does_not_answer(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("apibase.deduplication.claims._SETTLE_SECONDS", 0.05)
    owner = deduplicator(store)
    await owner.close()
    store.slow = asyncio.Event()
    task = asyncio.ensure_future(owner.claim(HANDLER, WHAT, DAY))
    await asyncio.sleep(0)

    await asyncio.wait_for(owner.close(), 2)

    task.cancel()
    store.slow.set()
    await asyncio.gather(task, return_exceptions=True)
    await owner.close()


# Events


class Ledger:
    """Listeners of ledger.v1 behind two replicas of their delivery, one store and one graveyard."""

    def __init__(self, contract: Desk, store: Store) -> None:
        self.pb2 = contract.pb2
        self.listener = Listener()
        self.routes = RouteTable()
        self.routes.add(self.listener.implement(contract, "LedgerEvents"))
        self.graveyard = Graveyard()
        self.store = store
        self.one, self.other = (TopicDelivery(self.graveyard, deduplicator(store)) for _ in range(2))  # type: ignore[arg-type]

    async def deliver(
        self, data: bytes = b'{"text": "a"}', delivery: TopicDelivery | None = None, **fields: Any
    ) -> str:
        """Deliver an Entry, unless the fields say otherwise."""
        known = {"type": "ledger.v1.Entry", "topic": "entries", "content_type": "application/json"}
        event = topic_event(**{**known, **fields})
        route = self.routes.topic(event, "")
        assert route is not None
        call = await deliver(delivery or self.one, route, Incoming(event, data, self.pb2.Entry()))
        return call.outcome

    async def transfer(self, data: bytes, **fields: Any) -> str:
        return await self.deliver(data, type="ledger.v1.Transfer", topic="transfers", **fields)

    async def handled(self) -> int:
        return len(self.listener.got)


@pytest.fixture
def ledger(desk: Desk, store: Store) -> Ledger:
    modules = [importlib.import_module(f"ledger.v1.ledger_pb2{suffix}") for suffix in ("", "_grpc")]
    return Ledger(Desk(*modules), store)


@pytest.mark.req("R3.4")
async def test_an_event_that_comes_twice_is_handled_once_and_acknowledged_twice(ledger: Ledger, log: Log) -> None:
    assert await ledger.deliver() == "SUCCESS"
    assert await ledger.deliver(delivery=ledger.other) == "SUCCESS"

    assert await ledger.handled() == 1
    first, second = log.of(logger="apibase.event")
    assert "reason" not in first
    assert (second["level"], second["verdict"]) == ("INFO", "SUCCESS")
    assert second["reason"].startswith("repeated: done already at 2026-07-01T12:00:00.000Z")


async def test_events_with_other_ids_or_sources_are_each_handled(ledger: Ledger) -> None:
    for fields in ({}, {"id": "event-2"}, {"source": "stall"}):
        assert await ledger.deliver(**fields) == "SUCCESS"

    assert await ledger.handled() == 3


async def test_a_field_tells_events_apart_where_the_contract_says_so(ledger: Ledger) -> None:
    for id_, reference in [("1", "a"), ("2", "a"), ("1", "b")]:
        data = b'{"order": {"reference": "%s"}}' % reference.encode()
        assert await ledger.transfer(data, id=id_) == "SUCCESS"

    assert [request.order.reference for _, request, _ in ledger.listener.got] == ["a", "b"]


async def test_a_field_tells_raw_records_apart_whose_ids_are_new_each_time(ledger: Ledger) -> None:
    for id_, sequence in [("1", 0), ("2", 0), ("3", 1)]:
        raw = {"topic": "records", "type": "com.dapr.event.sent", "id": id_}
        assert await ledger.deliver(b'{"sequence": "%d"}' % sequence, **raw) == "SUCCESS"

    assert [request.sequence for _, request, _ in ledger.listener.got] == [0, 1]


async def test_a_message_that_tells_events_apart_is_decoded_once(ledger: Ledger) -> None:
    read: list[object] = []
    route = ledger.routes.topic(topic_event(type="ledger.v1.Transfer", topic="transfers"), "")
    assert route is not None

    def reader(incoming: Incoming) -> object:
        read.append(incoming)
        return route.read(incoming)

    event = topic_event(type="ledger.v1.Transfer", topic="transfers", content_type="application/json")
    incoming = Incoming(event, b'{"order": {"reference": "a"}}', ledger.pb2.Transfer())
    call = await deliver(ledger.one, replace(route, read=reader), incoming)

    assert call.outcome == "SUCCESS"
    assert len(read) == 1


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b'{"amount": 1}', MISSING),
        (b'{"order": {"reference": ""}}', MISSING),
        (b"no JSON", "UNDECODABLE"),
        (b'{"amount": -1, "order": {"reference": "a"}}', "INVALID_REQUEST"),
    ],
)
async def test_an_event_without_its_key_is_a_dead_letter_and_claims_nothing(
    ledger: Ledger, data: bytes, code: str
) -> None:
    assert await ledger.transfer(data) == "SUCCESS"

    assert [death.code for _, _, death in ledger.graveyard.buried] == [code]
    assert await ledger.handled() == 0
    assert not ledger.store.saves


async def test_an_event_without_an_id_is_a_dead_letter(ledger: Ledger) -> None:
    assert await ledger.deliver(id="") == "SUCCESS"

    assert [death.code for _, _, death in ledger.graveyard.buried] == [MISSING]


@pytest.mark.req("R3.4")
@pytest.mark.parametrize("error", [Retry(), RuntimeError("broken"), ServiceError(grpc.StatusCode.ABORTED, "R", "m")])
async def test_an_event_that_could_not_be_handled_is_handled_at_its_next_delivery_and_then_no_more(
    ledger: Ledger, error: Exception, log: Log
) -> None:
    ledger.listener.error = error
    assert await ledger.deliver() == "RETRY"
    ledger.listener.error = None

    assert [await ledger.deliver(delivery=ledger.other) for _ in range(2)] == ["SUCCESS", "SUCCESS"]

    assert await ledger.handled() == 2


@pytest.mark.req("R3.6")
async def test_a_dead_letter_that_is_replayed_is_handled(ledger: Ledger, log: Log) -> None:
    ledger.listener.error = Drop("not now")
    assert await ledger.deliver() == "SUCCESS"
    assert len(ledger.graveyard.buried) == 1
    ledger.listener.error = None

    assert await ledger.deliver() == "SUCCESS"

    assert await ledger.handled() == 2
    assert "reason" not in log.of(logger="apibase.event")[-1]


async def test_a_dead_letter_is_published_while_its_claim_is_held(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[HandledEvent] = []

    async def publish(*_args: Any) -> None:
        seen.append(await ledger.store.only_record())

    monkeypatch.setattr(ledger.graveyard, "publish", publish)
    ledger.listener.error = Drop("never")

    assert await ledger.deliver() == "SUCCESS"

    assert seen[0].HasField("claimed_until")
    assert not ledger.store.rows


async def test_an_event_whose_claim_outlives_its_dead_letter_is_handled_again_after_the_lease(
    ledger: Ledger, log: Log
) -> None:
    async def crash() -> None:
        raise SidecarUnavailable("gone")

    ledger.store.before_delete = crash
    ledger.listener.error = Drop("never")
    assert await ledger.deliver() == "SUCCESS"
    assert await ledger.deliver(delivery=ledger.other) == "RETRY"

    ledger.store.time += LEASE
    assert await ledger.deliver(delivery=ledger.other) == "SUCCESS"

    assert await ledger.handled() == 2
    assert len(ledger.graveyard.buried) == 2


async def test_a_dead_letter_that_can_not_be_published_leaves_no_claim(ledger: Ledger, log: Log) -> None:
    ledger.listener.error = Drop("never")
    ledger.graveyard.error = SidecarUnavailable("gone")

    assert await ledger.deliver() == "RETRY"

    assert not ledger.store.rows


async def test_an_event_that_somebody_is_handling_comes_again(ledger: Ledger, log: Log) -> None:
    at_work, go_on = asyncio.Event(), asyncio.Event()
    route = ledger.routes.topic(topic_event(type="ledger.v1.Entry", topic="entries"), "")
    assert route is not None

    async def hold(*_args: Any) -> None:
        at_work.set()
        await go_on.wait()

    ledger.store.after_save(deduplicator(ledger.store).key(route.name, WHAT), hold)
    first = asyncio.ensure_future(ledger.deliver())
    await at_work.wait()

    assert await ledger.deliver(delivery=ledger.other) == "RETRY"
    assert log.one(logger="apibase.event")["reason"] == "claimed until 2026-07-01T12:00:30.000Z"
    go_on.set()
    assert await first == "SUCCESS"
    assert await ledger.deliver(delivery=ledger.other) == "SUCCESS"
    assert await ledger.handled() == 1


async def test_without_the_store_no_handler_is_called_and_the_event_comes_again(ledger: Ledger, log: Log) -> None:
    ledger.store.away = True
    assert await ledger.deliver() == "RETRY"
    assert "SIDECAR_UNAVAILABLE" in log.one(logger="apibase.event")["reason"]
    assert await ledger.handled() == 0

    ledger.store.away = False
    assert await ledger.deliver() == "SUCCESS"
    assert await ledger.handled() == 1


async def test_what_is_handled_and_can_not_be_recorded_is_acknowledged(
    ledger: Ledger, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("apibase.deduplication.claims._SETTLE_SECONDS", 0.05)
    key = deduplicator(ledger.store).key(HANDLER, WHAT)

    async def lose_the_store() -> None:
        ledger.store.away = True

    ledger.store.after_save(key, lose_the_store)

    assert await ledger.deliver() == "SUCCESS"
    assert "is not recorded" in log.one(level="WARNING")["message"]


async def test_a_handler_whose_claim_is_taken_over_is_cancelled_and_its_event_comes_again(
    ledger: Ledger, desk: Desk, log: Log
) -> None:
    ledger.one = TopicDelivery(ledger.graveyard, deduplicator(ledger.store, short()))  # type: ignore[arg-type]
    at_work = asyncio.Event()
    ended: list[str] = []
    route = ledger.routes.topic(topic_event(type="ledger.v1.Entry", topic="entries"), "")
    assert route is not None

    async def handle(_request: Any, _event: Any) -> None:
        deadline_inside.append(deadline.bound(None))
        at_work.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise

    deadline_inside: list[float | None] = []
    event = topic_event(type="ledger.v1.Entry", topic="entries", content_type="application/json")
    incoming = Incoming(event, b'{"text": "a"}', ledger.pb2.Entry())
    working = asyncio.ensure_future(deliver(ledger.one, replace(route, handler=handle), incoming, 60.0))
    await at_work.wait()
    (key,) = ledger.store.rows
    ledger.store.taken_over(key)

    assert (await working).outcome == "RETRY"
    assert ended == ["cancelled"]
    assert deadline_inside == [pytest.approx(60, abs=5)]
    assert "somebody else has taken it over" in log.one(logger="apibase.event")["reason"]


async def test_a_delivery_that_is_cancelled_gives_no_verdict_and_leaves_no_claim(ledger: Ledger, log: Log) -> None:
    ledger.store.slow = asyncio.Event()
    delivering = asyncio.ensure_future(ledger.deliver())
    await asyncio.sleep(0)
    delivering.cancel()
    with pytest.raises(asyncio.CancelledError):
        await delivering
    assert log.one(logger="apibase.event")["reason"] == "cancelled"

    ledger.store.slow.set()
    assert await ledger.one.deduplicator.close() is None  # type: ignore[union-attr]

    assert not ledger.store.rows
    assert await ledger.handled() == 0


async def test_data_that_is_too_large_is_neither_decoded_nor_claimed(ledger: Ledger, log: Log) -> None:
    event = topic_event(type="ledger.v1.Transfer", topic="transfers")
    route = ledger.routes.topic(event, "")
    assert route is not None

    incoming = Incoming(event, b"no JSON", ledger.pb2.Entry(), too_large=True)

    assert (await deliver(ledger.one, route, incoming)).outcome == "DROP"
    assert "TOO_LARGE" in log.one(logger="apibase.event")["reason"]
    assert not ledger.store.saves


async def test_each_event_of_a_batch_is_claimed_for_itself(ledger: Ledger) -> None:
    ids = ["1", "2", "1", "3"]

    verdicts = await asyncio.gather(*(ledger.deliver(id=id_) for id_ in ids))

    assert sorted(verdicts) == ["RETRY", "SUCCESS", "SUCCESS", "SUCCESS"]
    assert [await ledger.deliver(id=id_) for id_ in ids] == ["SUCCESS"] * 4
    assert await ledger.handled() == 3
