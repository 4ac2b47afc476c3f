"""Nothing is handled twice, and nothing is lost: repetitions, two replicas, retries, dead letters and kill -9, by the real daprd."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from apibase import Conflict, Settings, Sidecar, SidecarError, StateManager
from apibase.contract.codegen import generate
from apibase.deduplication.claims import Claim, Deduplicator
from apibase.deduplication.record import Busy, ClaimLost, Repetition
from apibase.local.options import StackOptions
from apibase.local.stack import Stack
from apibase.local.topology import read_topology
from dapr_contract.v1.deduplication_pb2 import HandledEvent
from tests.plugins.stack_logs import running
from tests.sidecar.redis_streams import RedisStreams
from tests.sidecar.shop import eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")

HERE = Path(__file__).parent / "deduplication"
LEASE = 2
DAY = timedelta(days=1)


@dataclass
class Cellar:
    """Two replicas of the app behind their sidecars, the caller's sidecar, the broker, and the journal of what was done."""

    stack: Stack
    caller: Sidecar
    state: StateManager
    redis: RedisStreams
    folder: Path

    async def publish(self, topic: str, number: str, wish: str = "", *, event: str = "") -> str:
        """Publish through the caller's sidecar and return the CloudEvent's id, which is new unless it is given."""
        event = event or uuid.uuid4().hex
        metadata = {"cloudevent.id": event, "cloudevent.type": "cellar.v1.Cask"}
        data = json.dumps({"number": number, "wish": wish})
        await self.caller.client.publish_event(
            "events", topic, data, publish_metadata=metadata, data_content_type="application/json"
        )
        return event

    def journal(self, number: str, what: str = "booked") -> list[dict[str, Any]]:
        """What handlers did with a cask so far, by all replicas, the killed ones too."""
        path = self.folder / "journal"
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        found = [json.loads(line) for line in lines]
        return [line for line in found if (line["number"], line["what"]) == (number, what)]

    async def wrote(self, number: str, what: str = "booked", count: int = 1) -> list[dict[str, Any]]:
        async def probe() -> list[dict[str, Any]] | None:
            found = self.journal(number, what)
            return found if len(found) >= count else None

        return await eventually(probe, within=30, what=f"{number} {what} {count} times")

    def go(self, number: str) -> None:
        """Let the handlers that hold a cask go on."""
        (self.folder / f"{number}.go").touch()

    def verdicts(self, event: str, verdict: str, reason: str = "") -> list[dict[str, Any]]:
        """The lines in which a replica says what became of an event."""
        lines = [
            json.loads(line)
            for replica in (0, 1)
            for line in self.stack.app("cellar", replica).log_path.read_text(encoding="utf-8").splitlines()
            if line.startswith("{")
        ]
        ours = [line for line in lines if (line.get("event_id"), line.get("verdict")) == (event, verdict)]
        return [line for line in ours if reason in line.get("reason", "")]

    async def verdict(self, event: str, verdict: str, reason: str = "", count: int = 1) -> list[dict[str, Any]]:
        async def probe() -> list[dict[str, Any]] | None:
            found = self.verdicts(event, verdict, reason)
            return found if len(found) >= count else None

        return await eventually(probe, within=30, what=f"event {event} is {verdict} {reason} {count} times")

    async def all_acknowledged(self, topic: str) -> None:
        async def probe() -> bool:
            return await self.redis.pending(topic, "cellar") == 0

        await eventually(probe, within=30, what=f"nothing of {topic} is pending")

    def replica_of(self, line: dict[str, Any]) -> int:
        """The replica that wrote a line of the journal."""
        (replica,) = (each for each in (0, 1) if self.stack.app("cellar", each).pid == line["pid"])
        return replica

    async def kill_the_one_that(self, line: dict[str, Any]) -> None:
        """Kill the replica that wrote a line of the journal, as `kill -9` does, and start it again."""
        replica = self.replica_of(line)
        await self.stack.kill("cellar", replica=replica)
        await self.stack.restart("cellar", replica=replica)

    def deduplicator(self, ahead: timedelta = timedelta(), lease: float = LEASE) -> Deduplicator:
        """A replica of the test's own, whose clock is ahead of the others'."""
        return Deduplicator(self.state, "cellar", timedelta(seconds=lease), now=lambda: datetime.now(UTC) + ahead)


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("generated")
    generate([HERE / "protos"], out)
    return out


@pytest_asyncio.fixture(
    scope="module",
    loop_scope="module",
    params=[
        ("postgres", "1.18"),
        pytest.param(("redis", "1.18"), marks=pytest.mark.full),
        pytest.param(("postgres", "1.14"), marks=pytest.mark.full),
    ],
    ids=["PostgreSQL", "Redis", "PostgreSQL, Dapr 1.14"],
)
async def cellar(
    generated: Path, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Cellar]:
    store, dapr = request.param
    folder = tmp_path_factory.mktemp("cellar")
    env = {
        "PYTHONPATH": ":".join([str(generated), *filter(None, sys.path)]),
        "CELLAR_FOLDER": str(folder),
        "APIBASE_DEDUPLICATION_STORE": store,
        "APIBASE_DEDUPLICATION_LEASE": str(LEASE),
        "APIBASE_DRAIN_TIMEOUT": "0.5",
    }
    options = StackOptions(env={"cellar": env}, replicas={"cellar": 2}, dapr=dapr)
    async with Stack(read_topology(HERE / "compose" / "dapr.yaml"), options) as stack:
        running.append(stack)
        caller = Sidecar(Settings(app_id="caller", dapr_grpc_endpoint=stack.sidecar("caller").grpc_address))
        assert stack.platform is not None
        redis = RedisStreams(stack.platform.env["CELLAR_REDIS"])
        yield Cellar(stack, caller, StateManager(caller, store), redis, folder)
        await caller.close()
        running.remove(stack)


# Events


@pytest.mark.req("R3.4")
async def test_an_event_that_is_published_twice_is_handled_once(cellar: Cellar) -> None:
    event = await cellar.publish("casks", "c-twice")
    await cellar.verdict(event, "SUCCESS")
    await cellar.publish("casks", "c-twice", event=event)

    (repeated,) = await cellar.verdict(event, "SUCCESS", "repeated: done already at")

    assert repeated["level"] == "INFO"
    await cellar.all_acknowledged("casks")
    assert len(cellar.journal("c-twice", "began")) == 1
    assert len(cellar.journal("c-twice")) == 1


async def test_two_events_of_one_content_are_two(cellar: Cellar) -> None:
    for _ in range(2):
        await cellar.publish("casks", "c-two")

    await cellar.wrote("c-two", count=2)


@pytest.mark.req("R3.4")
async def test_an_event_that_asked_for_another_try_is_handled_again_and_then_no_more(cellar: Cellar) -> None:
    event = await cellar.publish("casks", "c-retry", "retry once")
    await cellar.verdict(event, "RETRY")
    await cellar.wrote("c-retry")
    await cellar.publish("casks", "c-retry", "retry once", event=event)
    await cellar.verdict(event, "SUCCESS", "repeated")

    assert not cellar.verdicts(event, "RETRY", "claimed until")
    assert len(cellar.journal("c-retry")) == 1
    assert len(cellar.journal("c-retry", "began")) == 2


@pytest.mark.req("R3.4")
async def test_an_event_that_comes_to_two_replicas_at_once_is_handled_by_one(cellar: Cellar) -> None:
    event = uuid.uuid4().hex
    await asyncio.gather(*(cellar.publish("casks", "c-both", "hold", event=event) for _ in range(10)))
    await cellar.verdict(event, "RETRY", "claimed until", count=9)
    cellar.go("c-both")
    await cellar.verdict(event, "SUCCESS", "repeated", count=9)
    await cellar.all_acknowledged("casks")

    assert len(cellar.journal("c-both", "began")) == 1
    assert len(cellar.journal("c-both")) == 1


async def test_a_burst_of_repetitions_on_both_replicas_is_handled_once_each(cellar: Cellar) -> None:
    events = {f"c-burst-{number}": uuid.uuid4().hex for number in range(40)}
    await asyncio.gather(
        *(cellar.publish("casks", number, event=event) for _ in range(3) for number, event in events.items())
    )
    for number in events:
        await cellar.wrote(number)
    await cellar.all_acknowledged("casks")

    assert [len(cellar.journal(number)) for number in events] == [1] * 40
    assert len({line["pid"] for number in events for line in cellar.journal(number)}) == 2


@pytest.mark.req("R3.4")
async def test_a_kill_in_the_middle_of_a_handler_loses_nothing_and_blocks_for_no_longer_than_the_lease(
    cellar: Cellar,
) -> None:
    event = await cellar.publish("casks", "c-killed", "hold")
    (begun,) = await cellar.wrote("c-killed", "began")
    await cellar.kill_the_one_that(begun)
    cellar.go("c-killed")

    await cellar.wrote("c-killed")
    await cellar.verdict(event, "SUCCESS")
    await cellar.all_acknowledged("casks")

    first, second = cellar.journal("c-killed", "began")
    assert second["time"] - first["time"] >= LEASE
    assert len(cellar.journal("c-killed")) == 1


@pytest.mark.req("R3.4")
async def test_a_kill_after_the_effect_and_before_the_record_has_the_effect_twice(cellar: Cellar) -> None:
    event = await cellar.publish("casks", "c-late", "book and hold")
    (booked,) = await cellar.wrote("c-late")
    await cellar.kill_the_one_that(booked)
    cellar.go("c-late")

    await cellar.wrote("c-late", count=2)
    await cellar.verdict(event, "SUCCESS")
    await cellar.publish("casks", "c-late", "book and hold", event=event)
    await cellar.verdict(event, "SUCCESS", "repeated")

    assert len(cellar.journal("c-late")) == 2


@pytest.mark.req("R3.4")
async def test_a_handler_that_takes_longer_than_the_broker_waits_is_not_run_beside_itself(cellar: Cellar) -> None:
    event = await cellar.publish("casks", "c-slow", "hold")
    await cellar.verdict(event, "RETRY", "claimed until")
    cellar.go("c-slow")
    await cellar.verdict(event, "SUCCESS", "repeated")
    await cellar.all_acknowledged("casks")

    assert len(cellar.journal("c-slow", "began")) == 1
    assert len(cellar.journal("c-slow")) == 1


async def test_a_sidecar_killed_in_the_middle_of_a_handler_ends_it_and_loses_nothing(cellar: Cellar) -> None:
    event = await cellar.publish("casks", "c-orphan", "hold")
    (begun,) = await cellar.wrote("c-orphan", "began")
    replica = cellar.replica_of(begun)
    await cellar.stack.kill_sidecar("cellar", replica=replica)
    await cellar.verdict(event, "RETRY", "cancelled")
    cellar.go("c-orphan")
    await cellar.stack.restart_sidecar("cellar", replica=replica)

    await cellar.wrote("c-orphan")
    await cellar.verdict(event, "SUCCESS")
    await cellar.all_acknowledged("casks")
    assert len(cellar.journal("c-orphan")) == 1


@pytest.mark.req("R1.4")
async def test_an_app_that_is_stopped_in_the_middle_of_a_handler_lets_its_claim_go(cellar: Cellar) -> None:
    event = await cellar.publish("casks", "c-stopped", "hold")
    (begun,) = await cellar.wrote("c-stopped", "began")
    replica = cellar.replica_of(begun)
    sidecar = Sidecar(
        Settings(app_id="cellar", dapr_grpc_endpoint=cellar.stack.sidecar("cellar", replica).grpc_address)
    )
    key = cellar.deduplicator().key("cellar.v1.CellarEvents.OnCask", ("source and id", "caller", event))
    state = StateManager(sidecar, cellar.state.store_name)
    item = await state.get(key, HandledEvent)
    assert item is not None

    await cellar.stack.kill("cellar", signal.SIGTERM, replica=replica)

    after = await state.get(key, HandledEvent)
    # The other replica may have claimed it by now.
    assert after is None or after.value.claim != item.value.claim
    await sidecar.close()
    cellar.go("c-stopped")
    await cellar.stack.restart("cellar", replica=replica)
    await cellar.wrote("c-stopped")
    await cellar.verdict(event, "SUCCESS")
    assert len(cellar.journal("c-stopped")) == 1


@pytest.mark.req("R3.6")
async def test_a_dead_letter_that_is_published_again_is_handled(cellar: Cellar) -> None:
    event = await cellar.publish("casks", "c-dead", "drop once")
    await cellar.verdict(event, "SUCCESS", "ASKED_FOR")
    await cellar.publish("casks", "c-dead", "drop once", event=event)

    await cellar.wrote("c-dead")
    assert [letter["dlcode"] for letter in await cellar.redis.events("casks.dead") if letter["id"] == event] == [
        "ASKED_FOR"
    ]


async def test_a_field_tells_events_apart_whatever_their_ids(cellar: Cellar) -> None:
    first = await cellar.publish("bottles", "b-1")
    await cellar.verdict(first, "SUCCESS")
    second = await cellar.publish("bottles", "b-1")
    await cellar.verdict(second, "SUCCESS", "repeated")
    await cellar.publish("bottles", "b-2", event=first)
    await cellar.wrote("b-2")

    assert [line["event"] for line in cellar.journal("b-1")] == [first]


@pytest.mark.req("R3.6")
async def test_an_event_without_its_key_is_a_dead_letter(cellar: Cellar) -> None:
    event = await cellar.publish("bottles", "")

    (told,) = await cellar.verdict(event, "SUCCESS", "MISSING_DEDUPLICATION_KEY")

    assert "number" in told["reason"]
    assert not cellar.journal("", "began")


async def test_an_event_that_comes_after_its_time_is_handled_again(cellar: Cellar) -> None:
    event = await cellar.publish("crates", "k-1")
    (first,) = await cellar.wrote("k-1")
    await cellar.verdict(event, "SUCCESS")
    await cellar.publish("crates", "k-1", event=event)
    await cellar.verdict(event, "SUCCESS", "repeated")

    async def forgotten() -> bool:
        await cellar.publish("crates", "k-1", event=event)
        return len(cellar.journal("k-1")) == 2

    await eventually(forgotten, within=20, what="the event is handled again")
    assert cellar.journal("k-1")[1]["time"] - first["time"] >= 2


async def test_entries_of_a_batch_are_told_apart(cellar: Cellar) -> None:
    events = {f"p-{number}": uuid.uuid4().hex for number in range(6)}
    await asyncio.gather(
        *(cellar.publish("pallets", number, event=event) for _ in range(2) for number, event in events.items())
    )
    for number, event in events.items():
        await cellar.wrote(number)
        await cellar.verdict(event, "SUCCESS", "repeated")
    await cellar.all_acknowledged("pallets")

    assert [len(cellar.journal(number)) for number in events] == [1] * 6


async def test_a_raw_record_that_comes_twice_is_handled_once(cellar: Cellar) -> None:
    for number in ("r-1", "r-1", "r-2"):
        await cellar.redis.add("records", json.dumps({"number": number}).encode())
    await cellar.wrote("r-2")
    await cellar.all_acknowledged("records")

    assert len(cellar.journal("r-1")) == 1


# Claims, on the real store


async def test_a_first_write_over_a_record_that_the_store_has_forgotten_lets_one_through(cellar: Cellar) -> None:
    """PostgreSQL keeps such a row for an hour, hidden."""
    key = f"forgotten:{uuid.uuid4().hex}"
    await cellar.state.save(key, HandledEvent(claim="old"), first_write=True, ttl=timedelta(seconds=1))
    with pytest.raises(Conflict):
        await cellar.state.save(key, HandledEvent(claim="early"), first_write=True)

    async def gone() -> bool:
        return await cellar.state.get(key, HandledEvent) is None

    await eventually(gone, within=10, what="the record is forgotten")
    outcomes = await asyncio.gather(
        *(cellar.state.save(key, HandledEvent(claim=str(number)), first_write=True) for number in range(8)),
        return_exceptions=True,
    )

    assert outcomes.count(None) == 1, outcomes
    assert all(isinstance(each, Conflict) for each in outcomes if each is not None), outcomes
    item = await cellar.state.get(key, HandledEvent)
    assert item is not None
    assert item.value.claim == str(outcomes.index(None))


async def test_of_many_who_claim_or_take_over_at_once_one_is_first(cellar: Cellar) -> None:
    identity = (uuid.uuid4().hex,)

    async def all_at_once(ahead: timedelta) -> list[Any]:
        replicas = [cellar.deduplicator(ahead) for _ in range(8)]
        return await asyncio.gather(
            *(each.claim("Handler", identity, DAY) for each in replicas), return_exceptions=True
        )

    for ahead in (timedelta(), timedelta(hours=1)):
        results = await all_at_once(ahead)
        assert sum(isinstance(each, Claim) for each in results) == 1, results
        assert sum(isinstance(each, Busy) for each in results) == 7, results


async def test_a_claim_outlives_its_lease_while_it_is_renewed_and_is_remembered_when_done(cellar: Cellar) -> None:
    identity = (uuid.uuid4().hex,)
    one, other = cellar.deduplicator(lease=1), cellar.deduplicator()
    claim = await one.claim("Handler", identity, DAY)
    assert isinstance(claim, Claim)
    began = datetime.now(UTC)
    async with claim:

        async def outlived() -> bool:
            with pytest.raises(Busy):
                await other.claim("Handler", identity, DAY)
            return datetime.now(UTC) - began > timedelta(seconds=1.5)

        await eventually(outlived, within=5, what="the lease is over")
        await claim.done()

    assert isinstance(await other.claim("Handler", identity, DAY), Repetition)


async def test_a_replica_whose_claim_was_taken_over_is_ended_and_leaves_the_other_alone(cellar: Cellar) -> None:
    identity = (uuid.uuid4().hex,)
    one, other = cellar.deduplicator(lease=1), cellar.deduplicator(timedelta(hours=1))
    mine = await one.claim("Handler", identity, DAY)
    assert isinstance(mine, Claim)

    async def work() -> None:
        async with mine:
            assert isinstance(await other.claim("Handler", identity, DAY), Claim)
            await asyncio.Event().wait()

    with pytest.raises(ClaimLost):
        await asyncio.wait_for(work(), 10)

    item = await cellar.state.get(one.key("Handler", identity), HandledEvent)
    assert item is not None
    assert item.value.claimed_until.ToDatetime(UTC) > datetime.now(UTC) + timedelta(minutes=50)


async def test_without_the_sidecar_nothing_is_claimed(cellar: Cellar) -> None:
    nowhere = Sidecar(Settings(app_id="cellar", dapr_grpc_endpoint="127.0.0.1:1"))
    try:
        with pytest.raises(SidecarError):
            await Deduplicator(StateManager(nowhere, "postgres"), "cellar", DAY).claim("Handler", ("x",), DAY)
    finally:
        await nowhere.close()
