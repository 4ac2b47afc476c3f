"""Every way in that a contract can declare, and every row of the verdict table, by the real daprd and Redis."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import grpc
import pytest

from tests.sidecar.poison import envelope, good
from tests.sidecar.probe import Probe, dapr, generated, probe
from tests.sidecar.shop import eventually

__all__ = ["dapr", "generated", "probe"]

pytestmark = pytest.mark.asyncio(loop_scope="module")

TASK = "probe.v1.Task"
NARROW_LIMIT = 4096


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


@pytest.mark.req("R3.4")
@pytest.mark.parametrize("topic", ["tasks", "batches"])
async def test_an_event_of_a_type_that_nobody_listens_to_is_acknowledged(probe: Probe, topic: str) -> None:
    event = await probe.publish(topic, {"id": f"x-{topic}"}, type_="elsewhere.v1.Thing")
    await probe.publish(topic, {"id": f"t-after-{topic}"})
    await probe.turns(f"t-after-{topic}")
    await probe.all_acknowledged(topic)
    assert event in {each["id"] for each in await probe.redis.events(topic)}
    assert event not in {each["id"] for each in await probe.redis.events(f"{topic}.dead")}
    assert not [line for line in probe.log() if line.get("id") == f"x-{topic}"]


@pytest.mark.req("R3.4")
@pytest.mark.parametrize("wish", ["retry once", "break once", "be unavailable once", "lack a component once"])
async def test_what_asks_for_another_try_or_breaks_is_delivered_again(probe: Probe, wish: str) -> None:
    id_ = f"t-{wish.replace(' ', '-')}"
    event = await probe.publish("tasks", {"id": id_, "wish": wish})
    await probe.verdict(event, "RETRY")
    await probe.turns(id_, 2)
    await probe.verdict(event, "SUCCESS")
    assert all("inner text" not in str(line.get("reason")) for line in probe.log())


@pytest.mark.req("R3.4", "R3.6")
@pytest.mark.parametrize("topic", ["tasks", "batches"])
async def test_an_event_whose_retries_are_used_up_is_daprds_dead_letter_and_blocks_nobody(
    probe: Probe, topic: str
) -> None:
    event = await probe.publish(topic, {"id": f"t-always-{topic}", "wish": "always retry"})
    letter = await probe.dead(f"{topic}.dead", event)
    assert "dlreason" not in letter
    assert len(await probe.turns(f"t-always-{topic}", 2)) > 1
    await probe.all_acknowledged(topic)


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


@pytest.mark.req("R3.4", "R3.6")
async def test_an_event_whose_dead_letter_can_not_be_published_is_delivered_again(probe: Probe) -> None:
    event = await probe.publish("locked", {"id": "t-locked", "wish": "drop once"})
    line = await probe.verdict(event, "RETRY")
    assert "ASKED_FOR: the task asked for it; its dead letter could not be published" in line["reason"]
    await probe.turns("t-locked", 2)
    await probe.verdict(event, "SUCCESS")
    await probe.all_acknowledged("locked")


@pytest.mark.req("R3.4", "R3.6")
@pytest.mark.parametrize("topic", ["tasks", "batches"])
async def test_an_event_whose_dead_letter_is_too_large_is_daprds_own_dead_letter(probe: Probe, topic: str) -> None:
    mark = f"t-large-letter-{topic}"
    # More than daprd's API takes (`--max-body-size`); its own dead letters don't pass it.
    task = envelope(mark, TASK, data={"id": mark, "wish": "drop"}, huge="x" * (4 * 1024 * 1024))
    record = json.dumps(task).encode()
    await probe.redis.add(topic, record)
    line = await probe.verdict(mark, "DROP")
    assert line["reason"].startswith("ASKED_FOR: the task asked for it; its dead letter is too large")
    await probe.dead(f"{topic}.dead", mark)
    assert record in await probe.redis.records(f"{topic}.dead"), "as it came"
    await probe.all_acknowledged(topic)
    await probe.redis.forget(f"{topic}.dead")


@pytest.mark.req("R3.6")
async def test_an_event_that_is_larger_than_the_apps_server_reads_is_daprds_own_dead_letter_and_blocks_nobody(
    probe: Probe,
) -> None:
    # Sixteen times the limit, and a MiB beside.
    record = json.dumps(envelope("n-huge", TASK, data="x" * (17 * NARROW_LIMIT + 1024 * 1024))).encode()
    await probe.redis.add("narrow", record)
    await probe.redis.add("narrow", good("n-next", TASK))
    await probe.turns("n-next", app="narrow")
    await probe.dead("narrow.dead", "n-huge")
    assert await probe.redis.records("narrow.dead") == [record]
    await probe.all_acknowledged("narrow", app="narrow")
    assert not [line for line in probe.log("narrow") if line.get("id") == "n-huge"]


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


async def test_a_request_that_is_larger_than_the_app_takes_is_its_callers_resource_exhausted(probe: Probe) -> None:
    assert await probe.invoke("measure", "x" * NARROW_LIMIT, app="narrow") == (grpc.StatusCode.OK, str(NARROW_LIMIT))
    assert await probe.invoke("measure", "x" * (NARROW_LIMIT + 1), app="narrow") == (
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        f"the message has {NARROW_LIMIT + 1} bytes, this app takes {NARROW_LIMIT}",
    )


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


@pytest.mark.req("R6.1")
async def test_a_binding_that_nobody_listens_to_is_not_read(probe: Probe) -> None:
    # It has the schedule of the one that has a handler.
    await probe.turns("tick", 3)
    assert not [line for line in probe.log() if "unheard" in line["message"]]
    assert "app has not subscribed to binding unheard" in probe.stack.sidecar("probe").log_path.read_text()


async def test_a_job_of_the_contract_is_registered_and_runs_as_often_as_declared(probe: Probe, dapr: str) -> None:
    # 1.14's scheduler counts a run that it could not deliver, as it can't before the sidecar's stream to it is open.
    await probe.turns("nightly", 1 if dapr == "1.14" else 6)
    # The binding has the same schedule, and no end.
    await probe.turns("tick", 8)
    taken = [line["handler"] for line in await probe.turns("nightly")]
    assert taken == ["Nightly"] * (len(taken) if dapr == "1.14" else 6)
    assert len(taken) <= 6


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


async def test_a_jobs_error_is_the_status_upon_which_its_failure_policy_is_followed(probe: Probe, dapr: str) -> None:
    if dapr == "1.14":
        pytest.skip("1.14 knows no failure policy")
    codes = {
        "retry": "ABORTED",
        "refuse": "FAILED_PRECONDITION",
        "break": "INTERNAL",
        # As it is, daprd would take it for done with.
        "miss-for-now": "ABORTED",
        # As it is, daprd would have it done twice each time.
        "lack": "INTERNAL",
    }
    await asyncio.gather(*(probe.schedule(name, retries=1) for name in codes))
    for name, code in codes.items():
        await probe.done_with(name)
        assert len(await probe.turns(name, app="narrow")) == 2, f"{name}: once, and one retry"
        ended = [line for line in probe.log("narrow") if line.get("source") == name and "code" in line]
        assert [line["code"] for line in ended] == [code, code]


@pytest.mark.parametrize(
    ("name", "size", "said"),
    [
        ("drop", 0, "dropped an event of drop: the job asked for it"),
        ("miss", 0, "on_job NOT_FOUND NEVER: what the job is about is gone"),
        ("large", NARROW_LIMIT + 1, f"{NARROW_LIMIT + 1} bytes, more than APIBASE_MAX_MESSAGE_BYTES allows"),
        ("unheard", 0, "no handler listens to job 'unheard'"),
    ],
    ids=["dropped by the handler", "its subject is gone", "too large", "nobody listens"],
)
async def test_a_job_that_can_never_be_done_is_done_with_and_said_so(
    probe: Probe, dapr: str, name: str, size: int, said: str
) -> None:
    await probe.schedule(name, b"x" * size, retries=None if dapr == "1.14" else 5)
    line = await probe.says(said, app="narrow")
    assert line["level"] == "WARNING"
    await probe.done_with(name)
    assert len([line for line in probe.log("narrow") if said in line["message"]]) == 1
    taken = [line for line in probe.log("narrow") if line.get("logger") == "narrow" and line["id"] == name]
    assert len(taken) == (1 if name in {"drop", "miss"} else 0)


async def test_a_job_as_large_as_may_be_is_done(probe: Probe) -> None:
    await probe.schedule("measure", b"x" * NARROW_LIMIT)
    (line,) = await probe.turns("measure", app="narrow")
    assert line["size"] == NARROW_LIMIT


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
