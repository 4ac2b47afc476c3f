"""Every way in that a contract can declare, and every row of the verdict table, by the real daprd and Redis."""

from __future__ import annotations

import asyncio
import json
import sys
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio
from dapr.proto.common.v1 import common_pb2
from dapr.proto.runtime.v1 import dapr_pb2_grpc, invoke_pb2

from apibase import Settings, Sidecar
from apibase.contract.codegen import generate
from apibase.local.options import StackOptions
from apibase.local.stack import Stack
from apibase.local.topology import read_topology
from tests.sidecar.redis_streams import RedisStreams
from tests.sidecar.shop import eventually, running

pytestmark = pytest.mark.asyncio(loop_scope="module")

HERE = Path(__file__).parent / "inbound"


@dataclass
class Probe:
    """The probe app behind its sidecar, the caller's sidecar, and the broker."""

    stack: Stack
    caller: Sidecar
    redis: RedisStreams

    async def publish(
        self, topic: str, task: dict[str, Any] | bytes, *, type_: str = "probe.v1.Task", **options: Any
    ) -> str:
        """Publish through the caller's sidecar and return the CloudEvent's id."""
        id_ = uuid.uuid4().hex
        data = task if isinstance(task, bytes) else json.dumps(task)
        metadata = {"cloudevent.id": id_, "cloudevent.type": type_, **options.pop("metadata", {})}
        options.setdefault("data_content_type", "application/json")
        await self.caller.client.publish_event("events", topic, data, publish_metadata=metadata, **options)
        return id_

    async def invoke(self, method: str, text: str = "") -> tuple[grpc.StatusCode, str]:
        """Invoke a method of the app by its name; return the status, and the answer or what is wrong."""
        request = invoke_pb2.InvokeServiceRequest(id="probe")
        request.message.method, request.message.content_type = method, "text/plain"
        request.message.data.value = text.encode()
        request.message.http_extension.verb = common_pb2.HTTPExtension.POST
        try:
            answer = await dapr_pb2_grpc.DaprStub(self.caller.channel()).InvokeService(request, timeout=10)
        except grpc.aio.AioRpcError as error:
            return error.code(), error.details() or ""
        return grpc.StatusCode.OK, answer.data.value.decode()

    def log(self) -> list[dict[str, Any]]:
        """The JSON lines of the app's log so far."""
        lines = self.stack.app("probe").log_path.read_text(encoding="utf-8").splitlines(keepends=True)
        return [json.loads(line) for line in lines if line.startswith("{") and line.endswith("\n")]

    async def turns(self, id_: str, count: int = 1) -> list[dict[str, Any]]:
        """Wait until an id was taken `count` times, and return each time's line."""

        async def probe() -> list[dict[str, Any]] | None:
            found = [line for line in self.log() if line.get("logger") == "probe" and line["id"] == id_]
            return found if len(found) >= count else None

        return await eventually(probe, within=20, what=f"{id_} was taken {count} times")

    async def verdict(self, event_id: str, verdict: str) -> dict[str, Any]:
        """Wait until an event got a verdict, and return the line that says so."""

        async def probe() -> dict[str, Any] | None:
            lines = [line for line in self.log() if line.get("event_id") == event_id and line.get("verdict") == verdict]
            return lines[0] if lines else None

        return await eventually(probe, within=20, what=f"event {event_id} is {verdict}")

    async def dead(self, topic: str, event_id: str) -> dict[str, Any]:
        """Wait for an event's dead letter."""

        async def probe() -> dict[str, Any] | None:
            return next((event for event in await self.redis.events(topic) if event["id"] == event_id), None)

        return await eventually(probe, within=20, what=f"event {event_id} lies on {topic}")

    async def all_acknowledged(self, topic: str) -> None:
        async def probe() -> bool:
            return await self.redis.pending(topic, "probe") == 0

        await eventually(probe, within=20, what=f"nothing of {topic} is pending")


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("generated")
    generate([HERE / "protos"], out)
    return out


@pytest.fixture(scope="module", params=["1.18", pytest.param("1.14", marks=pytest.mark.full)])
def dapr(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def probe(generated: Path, dapr: str) -> AsyncIterator[Probe]:
    path = ":".join([str(generated), *filter(None, sys.path)])
    options = StackOptions(env={"probe": {"PYTHONPATH": path}}, dapr=dapr)
    async with Stack(read_topology(HERE / "compose" / "dapr.yaml"), options) as stack:
        running.append(stack)
        caller = Sidecar(Settings(app_id="caller", dapr_grpc_endpoint=stack.sidecar("caller").grpc_address))
        assert stack.platform is not None
        yield Probe(stack, caller, RedisStreams(stack.platform.env["PROBE_REDIS"]))
        await caller.close()
        running.remove(stack)


@pytest.mark.req("R1.3", "R3.2", "R3.3", "R3.4")
async def test_an_event_reaches_the_handler_of_its_type_and_is_acknowledged(probe: Probe) -> None:
    event = await probe.publish("tasks", {"id": "t-1"})
    note = await probe.publish("tasks", {"id": "n-1"}, type_="probe.v1.Note")
    assert [line["handler"] for line in await probe.turns("t-1")] == ["OnTask"]
    assert [line["handler"] for line in await probe.turns("n-1")] == ["OnNote"]
    await probe.verdict(event, "SUCCESS")
    await probe.verdict(note, "SUCCESS")
    await probe.all_acknowledged("tasks")


async def test_a_rule_decides_before_the_type_does(probe: Probe) -> None:
    await probe.publish("tasks", {"id": "t-urgent", "priority": 9})
    await probe.publish("tasks", {"id": "t-calm", "priority": 1})
    assert [line["handler"] for line in await probe.turns("t-urgent")] == ["OnUrgentTask"]
    assert [line["handler"] for line in await probe.turns("t-calm")] == ["OnTask"]


async def test_an_event_of_a_type_that_nobody_listens_to_is_acknowledged(probe: Probe) -> None:
    event = await probe.publish("tasks", {"id": "x"}, type_="elsewhere.v1.Thing")
    await probe.publish("tasks", {"id": "t-after"})
    await probe.turns("t-after")
    await probe.all_acknowledged("tasks")
    assert event in {each["id"] for each in await probe.redis.events("tasks")}
    assert event not in {each["id"] for each in await probe.redis.events("tasks.dead")}
    assert not [line for line in probe.log() if line.get("id") == "x"]


@pytest.mark.req("R3.4")
@pytest.mark.parametrize("wish", ["retry once", "break once", "be unavailable once", "lack a component once"])
async def test_what_asks_for_another_try_or_breaks_is_delivered_again(probe: Probe, wish: str) -> None:
    id_ = f"t-{wish.replace(' ', '-')}"
    event = await probe.publish("tasks", {"id": id_, "wish": wish})
    await probe.verdict(event, "RETRY")
    await probe.turns(id_, 2)
    await probe.verdict(event, "SUCCESS")
    assert all("inner text" not in str(line.get("reason")) for line in probe.log())


@pytest.mark.req("R3.4", "R3.6", "R13.4")
@pytest.mark.parametrize(("wish", "code"), [("drop", "ASKED_FOR"), ("refuse", "NEVER")])
async def test_what_can_never_be_handled_is_a_dead_letter_with_reason_code_and_handler(
    probe: Probe, wish: str, code: str
) -> None:
    event = await probe.publish("tasks", {"id": f"t-{wish}", "wish": wish, "secret": "hunter2"})
    letter = await probe.dead("tasks.dead", event)
    assert letter["type"] == "probe.v1.Task"
    assert (letter["dlcode"], letter["dlhandler"]) == (code, "probe.v1.ProbeEvents.OnTask")
    assert letter["dlreason"]
    assert (letter["dlpubsub"], letter["dltopic"]) == ("events", "tasks")
    assert letter["data"]["id"] == f"t-{wish}"
    assert "hunter2" not in json.dumps(letter)
    await probe.verdict(event, "SUCCESS")
    assert len(await probe.turns(f"t-{wish}")) == 1


@pytest.mark.req("R3.3", "R3.6")
@pytest.mark.parametrize(
    ("data", "content_type", "code"),
    [
        (b"not JSON", "application/json", "UNDECODABLE"),
        (b'["a", "list"]', "application/json", "UNDECODABLE"),
        (b'{"id": 7, "priority": 1}', "application/json", "UNDECODABLE"),
        (b'{"id": ""}', "application/json", "INVALID_REQUEST"),
        (b"\xff\xfe\x00", "application/octet-stream", "UNDECODABLE"),
        (b"\x0a\xff\xff", "application/octet-stream", "UNDECODABLE"),
        (b"", "application/json", "UNDECODABLE"),
    ],
    ids=[
        "not JSON",
        "a list",
        "wrong types",
        "breaks a rule",
        "bytes",
        "broken protobuf",
        "nothing",
    ],
)
async def test_a_poison_event_is_a_dead_letter_and_the_next_good_one_is_handled(
    probe: Probe, data: bytes, content_type: str, code: str
) -> None:
    event = await probe.publish("tasks", data, data_content_type=content_type)
    good = f"t-good-{event}"
    await probe.publish("tasks", {"id": good, "unknown_field": {"deep": [1, 2]}})
    letter = await probe.dead("tasks.dead", event)
    assert (letter["dlcode"], letter["dlhandler"]) == (code, "probe.v1.ProbeEvents.OnTask")
    await probe.turns(good)
    await probe.all_acknowledged("tasks")


@pytest.mark.req("R3.6")
async def test_an_event_whose_data_daprd_does_not_carry_is_its_own_dead_letter_with_the_data(probe: Probe) -> None:
    event = await probe.publish("tasks", b"\x0a\x01a", data_content_type="application/protobuf")
    line = await probe.verdict(event, "DROP")
    assert "the event brings no data (application/protobuf)" in line["reason"]
    letter = await probe.dead("tasks.dead", event)
    assert "dlreason" not in letter
    assert letter["data"] == "\n\x01a"


@pytest.mark.req("R3.6")
async def test_an_event_on_which_a_rule_fails_is_daprds_own_dead_letter_and_blocks_nobody(probe: Probe) -> None:
    event = await probe.publish("tasks", {"id": "t-words", "priority": "many"})
    letter = await probe.dead("tasks.dead", event)
    assert "dlreason" not in letter
    await probe.publish("tasks", {"id": "t-after-words"})
    await probe.turns("t-after-words")
    await probe.all_acknowledged("tasks")


async def test_protobuf_data_is_decoded_like_json(probe: Probe, generated: Path) -> None:
    # Field 1, a string: what any language's generated code would write.
    await probe.publish("tasks", b"\x0a\x07t-proto", data_content_type="application/octet-stream")
    assert [line["handler"] for line in await probe.turns("t-proto")] == ["OnTask"]


async def test_what_can_never_be_handled_and_has_no_dead_letter_topic_is_dropped_and_said_so(probe: Probe) -> None:
    event = await probe.publish("hopeless", {"id": "t-hopeless", "wish": "drop"})
    line = await probe.verdict(event, "DROP")
    assert "ASKED_FOR" in line["reason"]
    assert any(line.get("level") == "ERROR" and event in line["message"] for line in probe.log())
    await probe.all_acknowledged("hopeless")


@pytest.mark.req("R3.5")
async def test_each_entry_of_a_batch_gets_its_own_verdict(probe: Probe) -> None:
    wishes = {"b-ok": "", "b-drop": "drop", "b-retry": "retry once", "b-ok-too": ""}
    events = {id_: await probe.publish("batches", {"id": id_, "wish": wish}) for id_, wish in wishes.items()}
    letter = await probe.dead("batches.dead", events["b-drop"])
    assert letter["dlcode"] == "ASKED_FOR"
    await probe.verdict(events["b-retry"], "RETRY")
    await probe.turns("b-retry", 2)
    for id_ in ("b-ok", "b-ok-too"):
        await probe.verdict(events[id_], "SUCCESS")
    await probe.all_acknowledged("batches")
    assert len(await probe.turns("b-ok")) == 1


async def test_a_record_that_is_no_cloud_event_is_read_as_the_message_itself(probe: Probe) -> None:
    await probe.redis.add("raw", b'{"id": "r-1"}')
    assert [line["handler"] for line in await probe.turns("r-1")] == ["OnRaw"]
    await probe.redis.add("raw", b"neither JSON nor a message \xff")
    await probe.redis.add("raw", b'{"id": "r-2"}')
    await probe.turns("r-2")

    async def buried() -> list[dict[str, Any]]:
        return await probe.redis.events("raw.dead")

    (letter,) = await eventually(buried, within=10, what="the record is a dead letter")
    assert letter["dlcode"] == "UNDECODABLE"
    # A task has a field that must not be shown, and nobody can tell whether it is in there.
    assert letter["dlredacted"] == "*"
    assert not {"data", "data_base64"} & set(letter)


@pytest.mark.req("R2.1")
async def test_an_invoked_methods_outcome_is_its_callers_status(probe: Probe) -> None:
    assert await probe.invoke("wish") == (grpc.StatusCode.OK, "granted")
    assert await probe.invoke("wish", "refuse") == (grpc.StatusCode.FAILED_PRECONDITION, "this can never be done")
    code, text = await probe.invoke("wish", "break once")
    assert code is grpc.StatusCode.INTERNAL
    assert "inner text" not in text
    code, text = await probe.invoke("nothing")
    assert (code, "no method 'nothing'" in text) == (grpc.StatusCode.UNIMPLEMENTED, True)


async def test_while_the_app_says_that_it_is_unwell_daprd_brings_it_nothing_and_afterwards_everything(
    probe: Probe,
) -> None:
    assert await probe.invoke("be-unwell", "5") == (grpc.StatusCode.OK, "")

    async def told() -> bool:
        return "not in a healthy state" in (await probe.invoke("wish"))[1]

    await eventually(told, within=10, what="daprd has stopped calling the app")
    await probe.publish("tasks", {"id": "t-unwell"})
    (line,) = await probe.turns("t-unwell")
    assert line["well"], "it came when the app was well again"


@pytest.mark.req("R6.1", "R6.3")
async def test_a_cron_binding_calls_its_handler_at_its_interval(probe: Probe) -> None:
    lines = await probe.turns("tick", 3)
    assert [line["handler"] for line in lines[:3]] == ["OnTick"] * 3


async def test_a_job_of_the_contract_is_registered_and_runs_as_often_as_declared(probe: Probe, dapr: str) -> None:
    # 1.14's scheduler counts a run that it could not deliver, as it can't before the sidecar's stream to it is open.
    lines = await probe.turns("nightly", 1 if dapr == "1.14" else 3)
    assert {line["handler"] for line in lines} == {"Nightly"}


async def test_a_job_that_fails_follows_its_failure_policy(probe: Probe, dapr: str) -> None:
    if dapr == "1.14":
        pytest.skip("1.14 knows no failure policy")
    lines = await probe.turns("probe.v1.ProbeEvents.Once", 2)
    assert {line["handler"] for line in lines} == {"Once"}


async def test_a_job_that_is_dropped_is_done_with(probe: Probe, dapr: str) -> None:
    if dapr == "1.14":
        pytest.skip("1.14 counts a run that it could not deliver, so a job that is due once may never run")
    await probe.turns("probe.v1.ProbeEvents.Hopeless", 1)
    # A job that fails comes again after a second; this one has not, when another that began with it has come three times.
    await probe.turns("tick", 5)
    assert len(await probe.turns("probe.v1.ProbeEvents.Hopeless")) == 1


async def test_a_listener_called_as_an_rpc_by_another_app_is_unimplemented(probe: Probe) -> None:
    channel = probe.caller.channel(app_id="probe")
    call = channel.unary_unary("/probe.v1.ProbeEvents/OnTask", request_serializer=bytes, response_deserializer=bytes)
    with pytest.raises(Exception, match="UNIMPLEMENTED"):
        await call(b"\x0a\x06forged")
    assert not [line for line in probe.log() if line.get("id") == "forged"]


async def test_a_burst_is_handled_whole(probe: Probe) -> None:
    ids = [f"burst-{number}" for number in range(200)]
    await asyncio.gather(*(probe.publish("tasks", {"id": id_}) for id_ in ids))

    async def all_taken() -> bool:
        taken = {line["id"] for line in probe.log() if line.get("logger") == "probe"}
        return set(ids) <= taken

    await eventually(all_taken, within=30, what="200 events are handled")
    await probe.all_acknowledged("tasks")
