"""The stack of `inbound/`: an app with every way in, one that takes little at a time, and a caller, by the real daprd and Redis."""

from __future__ import annotations

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
from dapr.clients.grpc._jobs import ConstantFailurePolicy
from dapr.proto import api_service_v1, api_v1
from dapr.proto.common.v1 import common_pb2
from dapr.proto.runtime.v1 import dapr_pb2_grpc, invoke_pb2

from apibase import Settings, Sidecar
from apibase.contract.codegen import generate
from apibase.local.options import StackOptions
from apibase.local.stack import Stack
from apibase.local.topology import read_topology
from tests.plugins.stack_logs import running
from tests.sidecar.redis_streams import RedisStreams
from tests.sidecar.shop import eventually

HERE = Path(__file__).parent / "inbound"


@dataclass
class Probe:
    """The apps behind their sidecars, the caller's sidecar, the broker, and the jobs of the app `narrow`."""

    stack: Stack
    caller: Sidecar
    redis: RedisStreams
    narrow: Sidecar

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

    async def invoke(self, method: str, text: str = "", *, app: str = "probe") -> tuple[grpc.StatusCode, str]:
        """Invoke a method of an app by its name; return the status, and the answer or what is wrong."""
        request = invoke_pb2.InvokeServiceRequest(id=app)
        request.message.method, request.message.content_type = method, "text/plain"
        request.message.data.value = text.encode()
        request.message.http_extension.verb = common_pb2.HTTPExtension.POST
        try:
            answer = await dapr_pb2_grpc.DaprStub(self.caller.channel()).InvokeService(request, timeout=10)
        except grpc.aio.AioRpcError as error:
            return error.code(), error.details() or ""
        return grpc.StatusCode.OK, answer.data.value.decode()

    async def schedule(self, name: str, data: bytes = b"", *, retries: int | None = None) -> None:
        """Have `narrow` do a job at once, and again after a second, `retries` times, where it fails."""
        job = api_v1.Job(name=name, due_time="0s")
        job.data.type_url, job.data.value = "tests/octets", data
        if retries is not None:
            job.failure_policy.CopyFrom(ConstantFailurePolicy(retries, 1)._to_proto())
        await self._jobs().ScheduleJobAlpha1(api_v1.ScheduleJobRequest(job=job, overwrite=True))

    async def done_with(self, name: str) -> None:
        """Wait until the scheduler has forgotten a job of `narrow`."""

        async def probe() -> str:
            try:
                await self._jobs().GetJobAlpha1(api_v1.GetJobRequest(name=name))
            except grpc.aio.AioRpcError as error:
                return error.details() or ""
            return ""

        assert "not found" in await eventually(probe, within=5, what=f"the scheduler has forgotten {name}")

    def _jobs(self) -> Any:
        # The names that both versions know.
        return api_service_v1.DaprStub(self.narrow.channel())

    def log(self, app: str = "probe") -> list[dict[str, Any]]:
        """The JSON lines of an app's log so far."""
        lines = self.stack.app(app).log_path.read_text(encoding="utf-8").splitlines(keepends=True)
        return [json.loads(line) for line in lines if line.startswith("{") and line.endswith("\n")]

    async def turns(self, id_: str, count: int = 1, *, app: str = "probe") -> list[dict[str, Any]]:
        """Wait until an id was taken `count` times, and return each time's line."""

        async def probe() -> list[dict[str, Any]] | None:
            found = [line for line in self.log(app) if line.get("logger") == app and line["id"] == id_]
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

    async def says(self, text: str, *, app: str = "probe") -> dict[str, Any]:
        """Wait for the line of an app's log in whose message a text stands."""

        async def probe() -> dict[str, Any] | None:
            return next((line for line in self.log(app) if text in line["message"]), None)

        return await eventually(probe, within=20, what=f"{app} says {text!r}")

    async def all_acknowledged(self, topic: str, *, app: str = "probe") -> None:
        async def probe() -> bool:
            return await self.redis.pending(topic, app) == 0

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
    options = StackOptions(env={app: {"PYTHONPATH": path} for app in ("probe", "narrow")}, dapr=dapr)
    async with Stack(read_topology(HERE / "compose" / "dapr.yaml"), options) as stack:
        running.append(stack)
        caller, narrow = (
            Sidecar(Settings(app_id=app, dapr_grpc_endpoint=stack.sidecar(app).grpc_address))
            for app in ("caller", "narrow")
        )
        assert stack.platform is not None
        yield Probe(stack, caller, RedisStreams(stack.platform.env["PROBE_REDIS"]), narrow)
        await caller.close()
        await narrow.close()
        running.remove(stack)
