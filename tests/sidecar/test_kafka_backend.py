"""An embedded Kafka under real sidecars: out by a binding, in by a binding and by a subscription, with what Kafka knows of a record."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
import pytest_asyncio
from dapr.proto.runtime.v1 import binding_pb2, dapr_pb2_grpc, pubsub_pb2

from apibase.local.options import StackOptions
from apibase.local.stack import Stack
from apibase.local.topology import read_topology
from tests.plugins.stack_logs import running
from tests.sidecar.shop import eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")

TOPOLOGY = Path(__file__).parent / "kafka" / "compose" / "dapr.yaml"


class Kafka:
    """The caller's sidecar, and what the listener has written down."""

    def __init__(self, stack: Stack, dapr: Any) -> None:
        self.stack = stack
        self.dapr = dapr

    async def delivered(self, kind: str, data: bytes) -> dict[str, Any]:
        """Wait for the delivery with this payload."""

        async def probe() -> dict[str, Any] | None:
            for line in self.stack.app("listener").log_path.read_text().splitlines():
                found: dict[str, Any] = json.loads(line)
                if (found["kind"], found["data"]) == (kind, data.decode()):
                    return found
            return None

        return await eventually(probe, within=20, what=f"{kind} with {data!r}")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def kafka() -> AsyncIterator[Kafka]:
    async with Stack(read_topology(TOPOLOGY), StackOptions()) as stack:
        running.append(stack)
        async with grpc.aio.insecure_channel(stack.sidecar("caller").grpc_address) as channel:
            yield Kafka(stack, dapr_pb2_grpc.DaprStub(channel))
        running.remove(stack)


@pytest.mark.req("R6.2")
async def test_what_an_output_binding_sends_comes_in_by_the_input_binding_of_its_topic(kafka: Kafka) -> None:
    request = binding_pb2.InvokeBindingRequest(name="dispatch", operation="create", data=b'{"sku":"MUG"}')
    request.metadata.update({"partitionKey": "MUG", "colour": "red"})
    await kafka.dapr.InvokeBinding(request, timeout=10)
    metadata = (await kafka.delivered("binding", request.data))["metadata"]
    assert (metadata["__topic"], metadata["__key"], metadata["__partition"]) == ("dispatched", "MUG", "0")
    assert metadata["colour"] == "red"
    first = int(metadata["__offset"])
    assert int(metadata["__timestamp"]) > 1_700_000_000_000, "milliseconds"

    request = binding_pb2.InvokeBindingRequest(name="dispatch", operation="create", data=b"no key")
    await kafka.dapr.InvokeBinding(request, timeout=10)
    metadata = (await kafka.delivered("binding", b"no key"))["metadata"]
    assert "__key" not in metadata
    assert int(metadata["__offset"]) == first + 1


async def test_what_is_published_comes_with_the_records_place_in_the_headers(kafka: Kafka) -> None:
    request = pubsub_pb2.PublishEventRequest(pubsub_name="log", topic="events", data=b'{"n":1}')
    request.data_content_type = "application/json"
    request.metadata.update({"partitionKey": "ann"})
    await kafka.dapr.PublishEvent(request, timeout=10)
    headers = (await kafka.delivered("topic", request.data))["headers"]
    assert (headers["__topic"], headers["__key"], headers["__partition"]) == ("events", "ann", "0")
    assert headers["__offset"].isdecimal()
    assert headers["__timestamp"].isdecimal()
