"""What is counted of outbound calls: of the sidecar's API by building block, of other apps by method."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from dapr.proto import api_service_v1, api_v1

from apibase import ServiceInvocationClient, Settings, Sidecar, SidecarError, StateManager
from apibase.clients._metrics import _DAPR, building_block
from apibase.clients.outbound import OutboundCall, OutboundTarget
from apibase.middleware import Kind
from apibase.observability.metrics import Metrics
from apibase.observability.series import OTHER
from apibase.rpc import rpc_handlers
from tests.unit.chains import chain
from tests.unit.conftest import Desk
from tests.unit.fake_dapr import FakeDapr, eventually

ASK = {"grpc_type": "unary", "grpc_service": "desk.v1.Desk", "grpc_method": "Ask"}
HOSTILE = 10_000
# What Dapr's protocol has and no requirement names.
_UNNAMED = ("Index", "Document", "Search", "Collection", "Vectors", "BinaryFile")


@dataclass
class Counted:
    """A sidecar in this process with an app behind it, and what is counted of the calls that it gets."""

    sidecar: Sidecar
    metrics: Metrics
    dapr: FakeDapr
    desk: Desk

    def value(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(name, labels) or 0.0

    @property
    def others(self) -> Any:
        return ServiceInvocationClient(self.sidecar).client(self.desk.grpc.DeskStub, app_id="desk")


@pytest.fixture
async def counted(desk: Desk, settings: Settings, socket_folder: Path) -> AsyncIterator[Counted]:
    class DeskService(desk.grpc.DeskServicer):
        async def Ask(self, request: Any, context: Any) -> Any:
            if request.text == "wait":
                await asyncio.Event().wait()
            return desk.pb2.Answer()

        async def Listen(self, request: Any, context: Any) -> Any:
            yield desk.pb2.Answer()

    handlers = rpc_handlers(desk.pb2.DESCRIPTOR.services_by_name["Desk"], DeskService(), chain())
    metrics = Metrics()
    async with FakeDapr(settings.sidecar_address, (handlers,)) as dapr:
        sidecar = Sidecar(settings, metrics)
        yield Counted(sidecar, metrics, dapr, desk)
        await sidecar.close()


@pytest.mark.req("R10.3")
async def test_calls_of_a_building_block_are_counted_by_operation_and_code(counted: Counted) -> None:
    state = StateManager(counted.sidecar, "statestore")
    await state.get("key", counted.desk.pb2.Answer)
    counted.dapr.fail("GetState", grpc.StatusCode.PERMISSION_DENIED)
    with pytest.raises(SidecarError):
        await state.get("key", counted.desk.pb2.Answer)

    get = {"building_block": "state", "operation": "GetState"}
    await eventually(lambda: counted.value("apibase_building_block_calls_total", **get, code="PERMISSION_DENIED") == 1)
    assert counted.value("apibase_building_block_calls_total", **get, code="OK") == 1
    assert counted.value("apibase_building_block_seconds_count", **get) == 2


@pytest.mark.req("R10.3")
async def test_calls_of_another_app_are_counted_by_method_and_code(counted: Counted) -> None:
    question = counted.desk.pb2.Question
    await counted.others.Ask(question(text="why"))
    with pytest.raises(grpc.aio.AioRpcError):
        await counted.others.Ask(question())

    await eventually(lambda: counted.value("grpc_client_handled_total", **ASK, grpc_code="INVALID_ARGUMENT") == 1)
    assert counted.value("grpc_client_handled_total", **ASK, grpc_code="OK") == 1
    assert counted.value("grpc_client_started_total", **ASK) == 2
    assert counted.value("grpc_client_handling_seconds_count", **ASK) == 2


async def test_a_call_that_is_cancelled_or_late_is_counted_so(counted: Counted) -> None:
    question = counted.desk.pb2.Question(text="wait")
    counted.others.Ask(question).cancel()
    with pytest.raises(grpc.aio.AioRpcError):
        await counted.others.Ask(question, timeout=0.05)

    for code in ("CANCELLED", "DEADLINE_EXCEEDED"):
        await eventually(lambda code=code: counted.value("grpc_client_handled_total", **ASK, grpc_code=code) == 1)
    assert counted.value("grpc_client_started_total", **ASK) == 2


async def test_a_stream_is_counted_when_it_ends(counted: Counted) -> None:
    answers = [each async for each in counted.others.Listen(counted.desk.pb2.Question(text="why"))]

    assert len(answers) == 1
    labels = {**ASK, "grpc_type": "server_stream", "grpc_method": "Listen"}
    await eventually(lambda: counted.value("grpc_client_handled_total", **labels, grpc_code="OK") == 1)


async def test_a_stub_makes_no_series_before_it_is_called(counted: Counted) -> None:
    api_service_v1.DaprStub(counted.sidecar.channel())

    assert not [each for family in counted.metrics.block_seconds.collect() for each in family.samples]


async def test_a_call_is_the_same_without_metrics(counted: Counted, settings: Settings) -> None:
    sidecar = Sidecar(settings)
    stub = api_service_v1.DaprStub(sidecar.channel())

    assert (await stub.GetState(api_v1.GetStateRequest(store_name="statestore", key="key"))).data == b""
    await sidecar.close()


async def test_methods_that_are_made_up_are_bounded(counted: Counted) -> None:
    (calls,) = (each for each in counted.sidecar.outbound.order() if each.name == "metrics")

    class Done:
        def add_done_callback(self, callback: Any) -> None:
            callback(self)

        async def code(self) -> grpc.StatusCode:
            return grpc.StatusCode.OK

    for number in range(HOSTILE):
        target = OutboundTarget(Kind.UNARY, f"app{number}.Service/Method", f"app{number}")
        calls.wrap(target, lambda _call: Done())(OutboundCall(target))  # type: ignore[arg-type, return-value]

    samples = [each for family in counted.metrics.client_handled.collect() for each in family.samples]
    assert len(samples) == 501
    assert sum(each.value for each in samples) == HOSTILE
    assert (OTHER, OTHER) in {(each.labels["grpc_service"], each.labels["grpc_method"]) for each in samples}


def test_every_operation_of_a_building_block_has_its_name() -> None:
    known = {
        method.name: building_block(method.name)
        for method in _DAPR.methods
        if not any(word in method.name for word in _UNNAMED)
    }

    assert OTHER not in known.values()
    assert known["ExecuteActorStateTransaction"] == "actors"
    assert known["ExecuteStateTransaction"] == "state"
    assert known["UnlockAlpha1"] == "lock"
    assert known["ScheduleJob"] == "jobs"
    assert known["SubscribeTopicEventsAlpha1"] == "pubsub"
