"""Poison on a topic of Redis, by the real daprd: each record ends where the verdict table says, and the next good one is handled."""

from __future__ import annotations

import uuid

import pytest

from tests.sidecar.poison import HANDLED, OURS, POISON, SAID, THEIRS, end_of, good
from tests.sidecar.probe import Probe, dapr, generated, probe
from tests.sidecar.shop import eventually

__all__ = ["dapr", "generated", "probe"]

pytestmark = pytest.mark.asyncio(loop_scope="module")

TASK = "probe.v1.Task"


async def ended(probe: Probe, topic: str, mark: str, record: bytes) -> str:
    """Wait until a record has ended, and return where."""

    async def look() -> str:
        if any(line.get("logger") == "probe" and line["id"] == mark for line in probe.log()):
            return HANDLED
        dead = await probe.redis.records(f"{topic}.dead")
        if record in dead:
            return THEIRS
        letters = [event for event in await probe.redis.letters(f"{topic}.dead") if event.get("id") == mark]
        return f"{OURS}{letters[0]['dlcode']}" if letters and letters[0].get("dlreason") else ""

    return await eventually(look, within=20, what=f"{mark} has ended")


@pytest.mark.req("R3.3", "R3.4", "R3.6")
@pytest.mark.parametrize("topic", ["tasks", pytest.param("batches", marks=pytest.mark.full)])
@pytest.mark.parametrize("name", POISON)
async def test_poison_ends_where_the_table_says_and_the_next_good_event_is_handled(
    probe: Probe, name: str, topic: str
) -> None:
    await probe.redis.forget(f"{topic}.dead")
    mark = uuid.uuid4().hex
    record = POISON[name].record(mark, TASK)
    await probe.redis.add(topic, record)
    await probe.redis.add(topic, good(f"{mark}-next", TASK))
    await probe.turns(f"{mark}-next")
    assert await ended(probe, topic, mark, record) == end_of(name, batches=topic == "batches")
    await probe.all_acknowledged(topic)
    assert len([line for line in probe.log() if line.get("logger") == "probe" and line["id"] == mark]) <= 1


@pytest.mark.req("R3.4")
@pytest.mark.parametrize("name", SAID)
async def test_the_log_says_why_a_poison_is_left_to_daprds_dead_letters(probe: Probe, name: str) -> None:
    mark = uuid.uuid4().hex
    await probe.redis.add("tasks", POISON[name].record(mark, TASK))

    async def said() -> list[str]:
        lines = [line for line in probe.log() if line.get("event_id") == mark]
        return [line.get("reason", line["message"]) for line in lines]

    (reason,) = await eventually(said, within=20, what=f"the log says something of {mark}")
    assert SAID[name] in reason
    await probe.all_acknowledged("tasks")
    await probe.redis.forget("tasks.dead")


@pytest.mark.req("R3.4")
async def test_an_app_that_was_poisoned_is_as_well_as_before(probe: Probe) -> None:
    await probe.publish("tasks", {"id": "t-well"})
    await probe.turns("t-well")
    errors = [line["message"] for line in probe.log() if line.get("level") in {"ERROR", "CRITICAL"}]
    assert [line for line in errors if "ProbeEvents.Once" not in line] == [], "a job that fails once, and nothing else"
