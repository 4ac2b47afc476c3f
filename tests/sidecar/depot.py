"""The stack of `kafka_app/`: an app that Kafka feeds in every way, and a caller, by the real daprd and broker."""

from __future__ import annotations

import json
import sys
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from apibase import Settings, Sidecar
from apibase.contract.codegen import generate
from apibase.local.options import StackOptions
from apibase.local.stack import Stack
from apibase.local.topology import read_topology
from tests.plugins.stack_logs import running
from tests.sidecar.kafka_records import KafkaTopics, Record
from tests.sidecar.poison import envelope
from tests.sidecar.shop import eventually

HERE = Path(__file__).parent / "kafka_app"
MIB = 1024 * 1024
WITHIN = 20.0
PARCEL = "depot.v1.Parcel"


@dataclass
class Depot:
    """The app behind its sidecar, the caller's sidecar, and the broker itself."""

    stack: Stack
    caller: Sidecar
    kafka: KafkaTopics

    async def publish(
        self, topic: str, parcel: dict[str, Any] | bytes, *, type_: str = PARCEL, key: str = "", **metadata: str
    ) -> str:
        """Publish through the caller's sidecar and return the CloudEvent's id."""
        id_ = uuid.uuid4().hex
        metadata = {"cloudevent.id": id_, "cloudevent.type": type_, **metadata}
        if key:
            metadata["partitionKey"] = key
        await self.caller.client.publish_event(
            "log",
            topic,
            parcel if isinstance(parcel, bytes) else json.dumps(parcel),
            publish_metadata=metadata,
            data_content_type="application/json",
        )
        return id_

    def log(self, **fields: object) -> list[dict[str, Any]]:
        """The lines of the app's log that have these fields."""
        lines = self.stack.app("depot").log_path.read_text(encoding="utf-8").splitlines(keepends=True)
        read = [json.loads(line) for line in lines if line.startswith("{") and line.endswith("\n")]
        return [line for line in read if all(line.get(key) == value for key, value in fields.items())]

    async def turns(self, id_: str, count: int = 1) -> list[dict[str, Any]]:
        """Wait until a parcel was taken `count` times, and return each time's line."""

        async def probe() -> list[dict[str, Any]] | None:
            found = self.log(logger="depot", id=id_)
            return found if len(found) >= count else None

        return await eventually(probe, within=WITHIN, what=f"{id_} was taken {count} times")

    async def verdict(self, event_id: str, verdict: str) -> dict[str, Any]:
        """Wait until an event got a verdict, and return the line that says so."""

        async def probe() -> dict[str, Any] | None:
            return next(iter(self.log(event_id=event_id, verdict=verdict)), None)

        return await eventually(probe, within=WITHIN, what=f"event {event_id} is {verdict}")

    async def dead(self, topic: str, event_id: str) -> dict[str, Any]:
        """Wait for an event's dead letter."""

        async def probe() -> dict[str, Any] | None:
            return next((each for each in await self.kafka.events(topic) if each.get("id") == event_id), None)

        return await eventually(probe, within=WITHIN, what=f"event {event_id} lies on {topic}")


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("generated")
    generate([HERE / "protos"], out)
    return out


@pytest.fixture(scope="module", params=["1.18", "1.14"])
def dapr(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def depot(generated: Path, dapr: str) -> AsyncIterator[Depot]:
    path = ":".join([str(generated), *filter(None, sys.path)])
    options = StackOptions(env={"depot": {"PYTHONPATH": path}}, dapr=dapr)
    async with Stack(read_topology(HERE / "compose" / "dapr.yaml"), options) as stack:
        running.append(stack)
        caller = Sidecar(Settings(app_id="caller", dapr_grpc_endpoint=stack.sidecar("caller").grpc_address))
        assert stack.platform is not None
        kafka = KafkaTopics(stack.platform.env["DEPOT_KAFKA"])
        for topic in ("parcels", "parcels.dead", "loose", "batches", "batches.dead", "arrivals"):
            await kafka.create(topic, max_message_bytes=32 * MIB)
        for topic in ("raw", "raw.dead", "bare", "bare.dead", "locked"):
            await kafka.create(topic)
        yield Depot(stack, caller, kafka)
        await caller.close()
        running.remove(stack)


def cloud_event(id_: str, parcel: dict[str, Any] | None = None, **attributes: Any) -> Record:
    """A parcel's CloudEvent, as a producer without Dapr writes it to Kafka."""
    data = {"id": id_} if parcel is None else parcel
    return Record(json.dumps(envelope(id_, PARCEL, data=data, **attributes)).encode())
