"""Services written for `dapr.ext.grpc`, and moved over by an import and `async` alone: the same from outside, on real sidecars."""

from __future__ import annotations

import json
import re
import shutil
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
import pytest_asyncio
from dapr.proto.common.v1 import common_pb2
from dapr.proto.runtime.v1 import dapr_pb2_grpc, invoke_pb2, jobs_pb2, pubsub_pb2
from google.protobuf.any_pb2 import Any as AnyMessage

from apibase.local.options import StackOptions
from apibase.local.stack import Stack
from apibase.local.topology import read_topology
from tests.plugins.stack_logs import running
from tests.sidecar.shop import eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")

EXAMPLES = Path(__file__).parent / "sdk_examples"
ALL = pytest.mark.parametrize(
    "moved", ["before", "import", "after"], ids=["as written for the SDK", "the import alone", "moved over"]
)
BOTH = pytest.mark.parametrize("moved", ["before", "after"], ids=["as written for the SDK", "moved over"])


def change_import(source: str) -> str:
    """Do the first step of the migration guide."""
    return source.replace("from dapr.ext.grpc import", "from apibase import")


def move_over(source: str) -> str:
    """Do both steps: the import, and handlers from `def` to `async def`."""
    return re.sub(r"^(@app\..*\n)def ", r"\1async def ", change_import(source), flags=re.MULTILINE)


class Examples:
    """The caller's sidecar, and what the examples have written down."""

    def __init__(self, stack: Stack, dapr: Any) -> None:
        self.stack = stack
        self.dapr = dapr

    def notes(self, app_id: str) -> list[dict[str, Any]]:
        lines = self.stack.app(app_id).log_path.read_text().splitlines()
        return [json.loads(line) for line in lines if line.startswith('{"handler"')]

    async def noted(self, app_id: str, *, times: int = 1, **fields: object) -> list[dict[str, Any]]:
        """Wait until this has been written down so many times."""

        async def probe() -> list[dict[str, Any]]:
            found = [note for note in self.notes(app_id) if fields.items() <= note.items()]
            return found if len(found) >= times else []

        return await eventually(probe, within=15, what=f"{app_id} notes {fields} {times} times")

    async def publish(self, topic: str, fate: str, kind: str = "parcel.posted") -> str:
        """Publish a parcel and return the event's id."""
        event_id = uuid.uuid4().hex
        request = pubsub_pb2.PublishEventRequest(
            pubsub_name="events", topic=topic, data_content_type="application/json"
        )
        request.data = json.dumps({"fate": fate}).encode()
        request.metadata.update({"cloudevent.id": event_id, "cloudevent.type": kind})
        await self.dapr.PublishEvent(request, timeout=10)
        return event_id


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def examples(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Examples]:
    folder = tmp_path_factory.mktemp("examples")
    shutil.copytree(EXAMPLES / "compose", folder / "compose")
    for name, change in (("before", str), ("import", change_import), ("after", move_over)):
        (folder / name).mkdir()
        for source in EXAMPLES.glob("*.py"):
            (folder / name / source.name).write_text(change(source.read_text()))
    async with Stack(read_topology(folder / "compose/dapr.yaml"), StackOptions()) as stack:
        running.append(stack)
        async with grpc.aio.insecure_channel(stack.sidecar("caller").grpc_address) as channel:
            yield Examples(stack, dapr_pb2_grpc.DaprStub(channel))
        running.remove(stack)


async def test_moving_over_changes_the_import_and_the_handlers_and_nothing_else() -> None:
    for source in EXAMPLES.glob("*.py"):
        before, after = source.read_text().splitlines(), move_over(source.read_text()).splitlines()
        changed = [(old, new) for old, new in zip(before, after, strict=True) if old != new]
        handlers = [line for line in before if re.match(r"@app\.(method|subscribe|binding|job_event)", line)]
        assert len(changed) == 1 + len(handlers)
        assert all(new in {f"async {old}", old.replace("dapr.ext.grpc", "apibase")} for old, new in changed)


@ALL
@pytest.mark.req("R2.1", "R2.4")
async def test_a_method_is_invoked_by_name_with_headers_both_ways(examples: Examples, moved: str) -> None:
    async def invoke(method: str, data: bytes) -> tuple[common_pb2.InvokeResponse, dict[str, Any]]:
        request = invoke_pb2.InvokeServiceRequest(id=f"parcels-{moved}")
        request.message.method, request.message.content_type = method, "application/json"
        request.message.data.value = data
        request.message.http_extension.verb = common_pb2.HTTPExtension.POST
        call = examples.dapr.InvokeService(request, metadata=(("colour", "red"),), timeout=10)
        headers = dict(await call.initial_metadata())
        return await call, headers

    async def healthy() -> bool:
        try:
            await invoke("ping", b"")
        except grpc.aio.AioRpcError as error:
            if "not in a healthy state" not in (error.details() or ""):
                raise
            return False
        return True

    await eventually(healthy, within=10, what="its sidecar has probed the app")

    answer, headers = await invoke("quote", b'{"grams": 20}')
    assert json.loads(answer.data.value) == {"cents": 120, "colour": ["red"]}
    assert answer.content_type == "application/json"
    assert headers["tariff"] == "7"
    answer, _ = await invoke("ping", b"")
    assert (answer.data.value, answer.content_type) == (b"pong", "application/json; charset=utf-8")


@ALL
@pytest.mark.req("R3.3", "R3.4", "R3.6")
async def test_events_are_routed_by_rules_and_end_as_the_handler_says(examples: Examples, moved: str) -> None:
    app_id = f"parcels-{moved}"
    ids = {fate: await examples.publish(app_id, fate) for fate in ("fine", "later", "broken", "never", "insured")}
    hurried = await examples.publish(app_id, "insured", "parcel.express")

    for fate, times in (("fine", 1), ("later", 2), ("broken", 2), ("never", 1)):
        await examples.noted(app_id, times=times, handler="posted", id=ids[fate], data={"fate": fate})
    await examples.noted(app_id, handler="insured", id=ids["insured"])
    await examples.noted(app_id, handler="express", id=hurried)
    await examples.noted(app_id, handler="buried", id=ids["never"], data={"fate": "never"})

    notes = examples.notes(app_id)
    assert {note["thread"] == "MainThread" for note in notes} == {moved == "after"}
    taken = [(note["handler"], note["id"]) for note in notes]
    assert sorted(taken) == sorted(
        [("posted", ids[fate]) for fate in ("fine", "later", "later", "broken", "broken", "never")]
        + [("insured", ids["insured"]), ("express", hurried), ("buried", ids["never"])]
    )


@BOTH
@pytest.mark.req("R6.1", "R6.3")
async def test_a_cron_binding_fires_at_its_interval(examples: Examples, moved: str) -> None:
    ticks = await examples.noted(f"clock-{moved}", times=2, handler="tick")

    assert ticks[0]["component"] == ["readTimeUTC", "timeZone"]
    assert "readTimeUTC" not in ticks[0]["call"]


@BOTH
async def test_a_job_runs_with_its_data(examples: Examples, moved: str) -> None:
    app_id = f"clock-{moved}"
    async with grpc.aio.insecure_channel(examples.stack.sidecar(app_id).grpc_address) as channel:
        job = jobs_pb2.Job(name="tidy", due_time="0s", data=AnyMessage(value=b'{"a": 1}'))
        await dapr_pb2_grpc.DaprStub(channel).ScheduleJobAlpha1(jobs_pb2.ScheduleJobRequest(job=job), timeout=10)

    await examples.noted(app_id, handler="tidy", name="tidy", data='{"a": 1}')
