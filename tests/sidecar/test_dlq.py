"""The archive of dead letters and `apibase dlq`, on the real daprd, Redis and PostgreSQL."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from google.protobuf import json_format

from apibase import Settings, Sidecar, StateManager
from apibase.contract.codegen import generate
from apibase.dead_letters.archive import DeadLetterArchive
from apibase.dead_letters.filter import DeadLetterFilter
from apibase.local.options import StackOptions
from apibase.local.stack import Stack
from apibase.local.topology import read_topology
from dapr_contract.v1.dead_letters_pb2 import DeadLetter, DeadLetterEntry
from tests.plugins.stack_logs import running
from tests.sidecar.redis_streams import RedisStreams
from tests.sidecar.shop import eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")

HERE = Path(__file__).parent / "dlq"
APIBASE = Path(sys.executable).parent / "apibase"


@dataclass
class Answer:
    """What a command printed, and its exit code."""

    code: int
    out: str
    err: str


@dataclass
class Depot:
    """The depot and the audit behind their sidecars, the caller's sidecar, the broker, and a project to call the CLI in."""

    stack: Stack
    caller: Sidecar
    archive: DeadLetterArchive
    redis: RedisStreams
    project: Path
    fixed: Path

    async def publish(self, parcel: dict[str, Any], topic: str = "parcels", **metadata: str) -> str:
        """Publish through the caller's sidecar and return the CloudEvent's id."""
        id_ = uuid.uuid4().hex
        known = {"cloudevent.id": id_, "cloudevent.type": "depot.v1.Parcel", **metadata}
        await self.caller.client.publish_event(
            "events", topic, json.dumps(parcel), publish_metadata=known, data_content_type="application/json"
        )
        return id_

    def turns(self, id_: str, app: str = "depot") -> list[dict[str, Any]]:
        """The lines of an app's handlers about a parcel."""
        lines = self.stack.app(app).log_path.read_text(encoding="utf-8").splitlines()
        told = [json.loads(line) for line in lines if line.startswith("{")]
        return [line for line in told if line.get("logger") == "depot" and line["id"] == id_]

    async def taken(self, id_: str, count: int, app: str = "depot") -> list[dict[str, Any]]:
        async def probe() -> list[dict[str, Any]] | None:
            found = self.turns(id_, app)
            return found if len(found) >= count else None

        return await eventually(probe, within=20, what=f"{id_} was taken {count} times")

    async def dlq(self, *arguments: str) -> Answer:
        env = {**os.environ, "COLUMNS": "200", "PATH": f"{APIBASE.parent}{os.pathsep}{os.environ['PATH']}"}
        process = await asyncio.create_subprocess_exec(
            APIBASE, "dlq", *arguments, cwd=self.project, env=env, stdout=-1, stderr=-1
        )
        out, err = await process.communicate()
        return Answer(process.returncode or 0, out.decode(), err.decode())

    async def listed(self, *arguments: str) -> list[dict[str, Any]]:
        answer = await self.dlq("list", "--json", *arguments)
        assert answer.code == 0, answer.err
        return [json.loads(line) for line in answer.out.splitlines()]

    async def letter(self, event_id: str) -> dict[str, Any]:
        """Wait until the depot's archive has an event's letter."""

        async def probe() -> dict[str, Any] | None:
            for entry in await self.archive.find():
                if entry.summary.event_id == event_id:
                    members = json_format.MessageToDict(entry.summary, preserving_proto_field_name=True)
                    return {"id": entry.id, **members}
            return None

        return await eventually(probe, within=20, what=f"the letter of {event_id} is archived")


@pytest_asyncio.fixture(
    scope="module", loop_scope="module", params=["1.18", pytest.param("1.14", marks=pytest.mark.full)]
)
async def depot(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> AsyncIterator[Depot]:
    generated = tmp_path_factory.mktemp("generated")
    generate([HERE / "protos"], generated)
    project = tmp_path_factory.mktemp("project")
    (project / "pyproject.toml").touch()
    fixed = project / "fixed"
    env = {"PYTHONPATH": ":".join([str(generated), *filter(None, sys.path)]), "DEPOT_FIXED": str(fixed)}
    options = StackOptions(
        env={"depot": env, "audit": env}, state_file=project / ".apibase/stack.json", dapr=request.param
    )
    async with Stack(read_topology(HERE / "compose" / "dapr.yaml"), options) as stack:
        running.append(stack)
        caller = Sidecar(Settings(app_id="caller", dapr_grpc_endpoint=stack.sidecar("caller").grpc_address))
        own = Sidecar(Settings(app_id="depot", dapr_grpc_endpoint=stack.sidecar("depot").grpc_address))
        letters = DeadLetterArchive(StateManager(own, "letters"))
        assert stack.platform is not None
        yield Depot(stack, caller, letters, RedisStreams(stack.platform.env["DEPOT_REDIS"]), project, fixed)
        await caller.close()
        await own.close()
        running.remove(stack)


@pytest.fixture(autouse=True)
def _broken(depot: Depot) -> None:
    depot.fixed.unlink(missing_ok=True)


def archive(depot: Depot, store: str, **options: Any) -> DeadLetterArchive:
    return DeadLetterArchive(StateManager(depot.caller, store), **options)


def letters(count: int, mark: str = "l") -> list[DeadLetter]:
    return [DeadLetter(id=f"{mark}-{number:04}", data=b'{"id": "x"}') for number in range(count)]


async def test_an_empty_archive_says_so(depot: Depot) -> None:
    answer = await depot.dlq("list", "--app", "depot")
    assert (answer.code, answer.out) == (0, "")
    assert answer.err == "no dead letters in the archive (letters of depot)\n"


async def test_without_an_archive_the_setting_is_named(depot: Depot) -> None:
    answer = await depot.dlq("list", "--app", "caller")
    assert answer.code == 1
    assert "caller does not archive dead letters" in answer.err
    assert "APIBASE_DEAD_LETTER_STORE" in answer.err


@pytest.mark.req("R3.6")
async def test_a_bad_event_is_listed_with_reason_code_and_handler_and_replayed_once_for_its_handler(
    depot: Depot,
) -> None:
    id_ = f"p-{uuid.uuid4().hex}"
    event = await depot.publish({"id": id_, "wish": "drop", "weight": 0}, **{"cloudevent.subject": "north"})
    letter = await depot.letter(event)
    assert letter["code"] == "NO_ADDRESS"
    assert letter["reason"] == f"parcel {id_} has no address"
    assert letter["handler"] == "depot.v1.DepotEvents.OnParcel"
    assert (letter["topic"], letter["dead_letter_topic"]) == ("parcels", "parcels.dead")
    assert [each for each in await depot.listed("--app", "audit") if each.get("event_id") == event] == []
    table = await depot.dlq("list")
    assert "NO_ADDRESS" in table.out
    shown = await depot.dlq("show", letter["id"][:10])
    assert f'"id": "{id_}"' in shown.out
    assert "depot.v1.DepotEvents.OnParcel" in shown.out

    depot.fixed.touch()
    dry = await depot.dlq("replay", letter["id"])
    assert dry.code == 0, dry.err
    assert "would replay 1 letter: 1 to parcels" in dry.err
    assert "replayed_at" not in await depot.letter(event)
    assert len(depot.turns(id_)) == 1

    done = await depot.dlq("replay", letter["id"], "--yes")
    assert (done.code, done.out) == (0, f"replayed {letter['id']}\n"), done.err
    assert [line["handler"] for line in await depot.taken(id_, 2)] == ["OnParcel", "OnParcel"]
    assert "replayed_at" in await depot.letter(event)
    # What is published after it has come, and so it has passed the audit, which had it once.
    later = f"p-{uuid.uuid4().hex}"
    await depot.publish({"id": later})
    await depot.taken(later, 1, "audit")
    await depot.taken(later, 1)
    assert len(depot.turns(id_, "audit")) == 1
    assert len(depot.turns(id_)) == 2
    replayed = next(each for each in reversed(await depot.redis.events("parcels")) if each["id"] == event)
    assert replayed["dlreplay"] == "depot.v1.DepotEvents.OnParcel"
    assert (replayed["type"], replayed.get("subject")) in {("depot.v1.Parcel", "north"), ("depot.v1.Parcel", None)}
    assert not {"dlcode", "dlreason", "dlhandler", "dltopic", "dlpubsub"} & set(replayed)

    rest = await depot.dlq("replay", "--all", "--app", "depot", "--type", "depot.v1.Parcel")
    assert event not in rest.out, "what is replayed is not taken again by --all"


@pytest.mark.req("R3.6")
async def test_a_letter_of_the_sidecars_own_is_listed_and_replayed(depot: Depot) -> None:
    id_ = f"p-{uuid.uuid4().hex}"
    event = await depot.publish({"id": id_, "wish": "retry", "weight": 200})
    letter = await depot.letter(event)
    assert "code" not in letter
    assert letter["topic"] == "parcels"
    assert "buried by the sidecar" in (await depot.dlq("list", "--topic", "parcels")).out
    tries = len(depot.turns(id_))
    assert tries >= 2
    depot.fixed.touch()
    both = await depot.dlq("show", letter["id"])
    assert "letters (" in both.err, "it lies in both apps' archives, for nobody can tell whose it is"
    assert "choose with --app" in both.err
    done = await depot.dlq("replay", letter["id"], "--yes", "--app", "depot")
    assert done.code == 0, done.err
    assert [line["handler"] for line in await depot.taken(id_, tries + 1)][-1] == "OnHeavyParcel"


async def test_a_letter_that_dies_again_is_the_same_letter_and_says_so(depot: Depot) -> None:
    id_ = f"p-{uuid.uuid4().hex}"
    event = await depot.publish({"id": id_, "wish": "drop for good"})
    first = await depot.letter(event)
    assert (await depot.dlq("replay", first["id"], "--yes")).code == 0

    async def died_again() -> dict[str, Any] | None:
        letter = await depot.letter(event)
        return letter if letter["archived_at"] > first["archived_at"] else None

    second = await eventually(died_again, within=20, what="it died again")
    assert second["id"] == first["id"]
    assert [each.summary.event_id for each in await depot.archive.find()].count(event) == 1
    assert "died again" in (await depot.dlq("show", first["id"])).out
    assert event in (await depot.dlq("replay", "--all", "--app", "depot")).out


@pytest.mark.req("R3.6", "R13.4")
@pytest.mark.parametrize("wish", ["drop", "retry"], ids=["the chassis' letter", "the sidecar's letter"])
async def test_a_letter_without_its_redacted_fields_is_refused_and_nowhere_in_clear(depot: Depot, wish: str) -> None:
    id_ = f"p-{uuid.uuid4().hex}"
    event = await depot.publish({"id": id_, "wish": wish, "token": "hunter2"})
    letter = await depot.letter(event)
    shown = await depot.dlq("show", letter["id"], "--app", "depot")
    assert "hunter2" not in shown.out
    assert "token" in shown.out
    depot.fixed.touch()
    tries = len(depot.turns(id_))
    refused = await depot.dlq("replay", letter["id"], "--yes", "--app", "depot")
    assert refused.code == 1
    assert "a replay would lack token" in refused.err
    done = await depot.dlq("replay", letter["id"], "--yes", "--without-redacted-fields", "--delete", "--app", "depot")
    assert done.code == 0, done.err
    assert [line["token"] for line in await depot.taken(id_, tries + 1)][-1] is False
    gone = await depot.dlq("show", letter["id"], "--app", "depot")
    assert gone.code == 1
    assert "there is no letter" in gone.err


@pytest.mark.req("R3.6")
async def test_a_raw_record_is_archived_whatever_it_is_and_replayed_as_it_came(depot: Depot) -> None:
    id_ = f"c-{uuid.uuid4().hex}"
    await depot.redis.add("crates", json.dumps({"id": id_, "wish": "drop"}).encode())
    await depot.redis.add("crates.dead", b"\xff\xfe neither JSON nor an event")
    await depot.redis.add("crates.dead", b'{"id": "not an event"}')

    async def archived() -> list[DeadLetterEntry] | None:
        found = await depot.archive.find(DeadLetterFilter(topic="crates.dead"))
        return found if len(found) >= 3 else None

    found = await eventually(archived, within=20, what="three letters of crates.dead")
    (letter,) = [each for each in found if each.summary.code == "NO_ADDRESS"]
    depot.fixed.touch()
    assert (await depot.dlq("replay", letter.id, "--yes")).code == 0
    assert [line["handler"] for line in await depot.taken(id_, 2)] == ["OnCrate", "OnCrate"]
    assert json.loads((await depot.redis.records("crates"))[-1]) == {"id": id_, "wish": "drop"}


async def test_filters_leave_what_they_name(depot: Depot) -> None:
    id_ = f"p-{uuid.uuid4().hex}"
    event = await depot.publish({"id": id_, "wish": "drop for good", "weight": 500})
    await depot.letter(event)
    wanted = ("--handler", "OnHeavyParcel", "--code", "NO_ADDRESS", "--topic", "parcels.dead", "--since", "1h")
    assert event in {each.get("event_id") for each in await depot.listed(*wanted, "--type", "depot.v1.Parcel")}
    assert event not in {each.get("event_id") for each in await depot.listed("--topic", "crates")}
    assert (await depot.dlq("delete", "--all", "--handler", "OnHeavyParcel")).code == 0
    assert await depot.archive.find(DeadLetterFilter(handler="OnHeavyParcel"))
    assert (await depot.dlq("delete", "--all", "--handler", "OnHeavyParcel", "--yes")).code == 0
    assert not await depot.archive.find(DeadLetterFilter(handler="OnHeavyParcel"))


async def test_an_archive_is_reached_through_any_address_of_its_sidecar(depot: Depot) -> None:
    address = depot.stack.sidecar("depot").grpc_address
    id_ = f"p-{uuid.uuid4().hex}"
    event = await depot.publish({"id": id_, "wish": "drop for good"})
    await depot.letter(event)
    found = await depot.listed("--sidecar", address, "--store", "letters")
    assert event in {each.get("event_id") for each in found}
    wrong = await depot.dlq("list", "--sidecar", address, "--store", "nowhere")
    assert wrong.code == 1
    assert wrong.err.startswith(f"apibase: the sidecar at {address}: ")
    assert len(wrong.err.splitlines()) == 1


async def test_letters_of_three_pages_are_listed_in_order_and_deleted(depot: Depot) -> None:
    pages = archive(depot, "pages")
    for letter in letters(250):
        await pages.add(letter)
    assert [each.id for each in await pages.find()] == [letter.id for letter in reversed(letters(250))]
    assert [each.id for each in await pages.find(limit=3)] == ["l-0249", "l-0248", "l-0247"]
    got = [await pages.get(each) for each in ("l-0000", "l-0150", "l-0249")]
    assert [letter.page for letter in got if letter] == [1, 2, 3]
    await pages.delete((await pages.find())[1:])
    assert [each.id for each in await pages.find()] == ["l-0249"]
    await pages.add(DeadLetter(id="l-0250"))
    assert [each.id for each in await pages.find()] == ["l-0250", "l-0249"]


async def test_letters_are_gone_when_their_time_has_passed_and_new_ones_are_kept(depot: Depot) -> None:
    expiring = archive(depot, "expiring", ttl=timedelta(seconds=2))
    await asyncio.gather(*map(expiring.add, letters(120)))
    assert len(await expiring.find()) == 120
    state = StateManager(depot.caller, "expiring")

    async def gone() -> bool:
        return not await expiring.find() and await state.get("dead-letters/page/2", DeadLetter) is None

    await eventually(gone, within=10, what="the letters have expired")
    assert await expiring.get("l-0000") is None
    await expiring.add(letters(1)[0])
    assert [each.id for each in await expiring.find()] == ["l-0000"], "an expired page and letter can be written again"


async def test_two_processes_that_append_at_once_lose_nothing(depot: Depot) -> None:
    address = depot.stack.sidecar("caller").grpc_address
    processes = [
        await asyncio.create_subprocess_exec(
            sys.executable,
            HERE / "append.py",
            *(address, "shared", mark, "300"),
            env={**os.environ, "PYTHONPATH": ":".join(filter(None, sys.path))},
        )
        for mark in ("left", "right")
    ]
    assert [await process.wait() for process in processes] == [0, 0]
    found = await archive(depot, "shared").find()
    assert {each.id for each in found} == {f"{mark}-{number}" for mark in ("left", "right") for number in range(300)}
    assert len(found) == 600


async def test_a_burst_of_a_thousand_letters_is_archived_in_seconds(depot: Depot) -> None:
    burst = archive(depot, "burst")
    started = time.monotonic()
    await asyncio.gather(*map(burst.add, letters(1000)))
    took = time.monotonic() - started
    assert len(await burst.find(DeadLetterFilter())) == 1000
    assert took < 20, f"{took:.1f} s"


async def test_a_thousand_events_that_die_at_once_are_all_archived(depot: Depot) -> None:
    ids = {f"d-{number}" for number in range(1000)}
    wanted = DeadLetterFilter(code="NO_ADDRESS", since=datetime.now(UTC))
    free = asyncio.Semaphore(32)

    async def publish(id_: str) -> None:
        async with free:
            await depot.publish({"id": id_, "wish": "drop for good"})

    await asyncio.gather(*map(publish, ids))

    async def all_archived() -> bool:
        return len(await depot.archive.find(wanted)) == len(ids)

    await eventually(all_archived, within=60, what="1,000 letters are archived")
