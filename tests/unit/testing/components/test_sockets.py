"""Where daprd finds the mock components, and how they go and come back."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from apibase.testing.components import MockComponents
from dapr_components.v1 import common_pb2, state_pb2
from tests.unit.testing.components.wire import connected

pytestmark = pytest.mark.req("R14.4")


async def services_at(path: Path) -> set[str]:
    async with grpc.aio.insecure_channel(f"unix:{path}") as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        call = stub.ServerReflectionInfo(iter([reflection_pb2.ServerReflectionRequest(list_services="")]))
        answers = [each async for each in call]
    return {each.name.rpartition(".")[2] for each in answers[0].list_services_response.service}


async def test_each_kind_has_a_socket_that_lists_its_services(mocks: MockComponents) -> None:
    found = {path.name: await services_at(path) - {"ServerReflection"} for path in mocks.folder.iterdir()}
    assert found == {
        "mock.state": {"StateStore", "TransactionalStateStore", "TransactionalStoreMultiMaxSize"},
        "mock.pubsub": {"PubSub"},
        "mock.input": {"InputBinding"},
        "mock.output": {"OutputBinding"},
        "mock.secrets": {"SecretStore"},
    }
    assert mocks.environment == {"DAPR_COMPONENTS_SOCKETS_FOLDER": str(mocks.folder)}


async def test_a_folder_of_its_own_is_gone_at_the_end_and_one_that_was_given_is_empty(tmp_path: Path) -> None:
    async with MockComponents() as own:
        assert own.folder.is_dir()
    assert not own.folder.exists()
    folder = tmp_path / "s"
    async with MockComponents(folder, name="one"), MockComponents(folder, name="two"):
        assert {path.name for path in folder.iterdir()} >= {"one.state", "two.state"}
    assert list(folder.iterdir()) == []


async def test_a_socket_that_an_earlier_process_left_is_replaced(tmp_path: Path) -> None:
    left = tmp_path / "mock.state"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(left))
    async with MockComponents(tmp_path), connected(left, "StateStore") as store:
        await store.Ping(common_pb2.PingRequest())


async def test_a_folder_whose_path_no_socket_can_have_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="give MockComponents a folder with a shorter path"):
        async with MockComponents(tmp_path / ("long" * 25)):
            pass


async def test_what_daprd_initialises_a_component_with_is_known_by_the_resources_name(
    mocks: MockComponents, store: Any
) -> None:
    metadata = common_pb2.MetadataRequest(properties={"region": "north"})
    await store.Init(state_pb2.InitRequest(metadata=metadata))
    assert mocks.state.properties == {"stock": {"region": "north"}}


async def test_calls_are_counted_by_operation_and_key_those_that_fail_too(mocks: MockComponents, store: Any) -> None:
    mocks.faults.add(operation="state.get", status=grpc.StatusCode.UNAVAILABLE, times=1)
    with pytest.raises(grpc.aio.AioRpcError):
        await store.Get(state_pb2.GetRequest(key="app||mug"))
    await store.Get(state_pb2.GetRequest(key="app||mug"))
    await store.Get(state_pb2.GetRequest(key="app||cup"))
    await store.Features(common_pb2.FeaturesRequest())
    assert mocks.count("state.get") == 3
    assert mocks.count("state.get", "mug") == mocks.count("state.get", "app||mug") == 2
    assert mocks.count("state.*") == 4
    assert mocks.count("state.set") == 0
    assert mocks.calls[0].component == "stock"


async def test_a_component_that_stops_is_gone_and_has_what_it_had_when_it_starts_again(
    mocks: MockComponents, store: Any
) -> None:
    await store.Set(state_pb2.SetRequest(key="k", value=b"v"))
    await mocks.state.stop()
    await mocks.state.stop()
    assert not (mocks.folder / "mock.state").exists()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await store.Get(state_pb2.GetRequest(key="k"))
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    await mocks.state.start()
    await mocks.state.start()
    assert (await store.Get(state_pb2.GetRequest(key="k"), wait_for_ready=True, timeout=5)).data == b"v"


async def test_a_broken_connection_ends_every_call_of_its_kind_and_no_other(mocks: MockComponents, store: Any) -> None:
    mocks.faults.add(operation="state.get", key="slow", drop=True)
    mocks.faults.add(operation="state.get", key="broken", disconnect=True, times=1)
    async with connected(mocks.folder / "mock.secrets", "SecretStore") as secrets:
        await secrets.Ping(common_pb2.PingRequest())
        slow = store.Get(state_pb2.GetRequest(key="slow"))
        for call in (store.Get(state_pb2.GetRequest(key="broken")), slow):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        await store.Get(state_pb2.GetRequest(key="broken"), wait_for_ready=True, timeout=5)
        await secrets.Ping(common_pb2.PingRequest())
    assert (mocks.folder / "mock.state").is_socket()
