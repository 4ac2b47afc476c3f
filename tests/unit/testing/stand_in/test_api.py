"""The stand-in as its callers see it: fast, token, faults, and what it says that it does not have."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from dapr.proto import api_service_v1, api_v1
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from apibase import Sidecar, SidecarError, SidecarUnavailable, StateManager
from apibase.testing import Component, StandIn

STORES = [Component("store", "state.postgresql", "v2"), Component("events", "pubsub.redis")]


@pytest.fixture
async def stand_in() -> AsyncIterator[StandIn]:
    async with StandIn(components=STORES) as running:
        yield running


@pytest.fixture
async def client(stand_in: StandIn) -> AsyncIterator[Sidecar]:
    sidecar = Sidecar(stand_in.settings(call_timeout=2.0))
    yield sidecar
    await sidecar.close()


@pytest.fixture
async def stub(stand_in: StandIn) -> AsyncIterator[Any]:
    """Return the API without the chassis' client, which tries again."""
    async with grpc.aio.insecure_channel(stand_in.address) as channel:
        yield api_service_v1.DaprStub(channel)


@pytest.mark.req("R14.4")
async def test_it_is_up_within_a_twentieth_of_a_second() -> None:
    seconds = []
    for _ in range(15):
        began = time.perf_counter()
        async with StandIn(components=STORES) as running, grpc.aio.insecure_channel(running.address) as channel:
            await api_service_v1.DaprStub(channel).GetMetadata(api_v1.GetMetadataRequest())
            seconds.append(time.perf_counter() - began)

    assert statistics.median(seconds) < 0.050, sorted(seconds)


async def test_an_operation_that_it_does_not_have_says_what_to_do(stub: Any) -> None:
    with pytest.raises(grpc.aio.AioRpcError, match=r"has no GetActorState.*real sidecar") as caught:
        await stub.GetActorState(api_v1.GetActorStateRequest(actor_type="a", actor_id="b", key="c"))
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
    with pytest.raises(grpc.aio.AioRpcError, match="has no EncryptAlpha1") as caught:
        await stub.EncryptAlpha1(iter([api_v1.EncryptRequest()])).read()
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_errors_have_the_details_that_daprd_sends(stub: Any) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.GetState(api_v1.GetStateRequest(store_name="nowhere", key="k"))

    status, info = rpc_status.from_call(caught.value), error_details_pb2.ErrorInfo()
    assert status is not None
    assert status.details[0].Unpack(info)
    assert (info.reason, info.domain) == ("DAPR_STATE_NOT_FOUND", "dapr.io")


@pytest.mark.req("R13.2")
@pytest.mark.parametrize("metadata", [(), (("dapr-api-token", "wrong"),)], ids=["none", "another"])
async def test_who_has_not_the_apis_token_is_refused(metadata: Any) -> None:
    async with StandIn(components=STORES, api_token="right") as running:
        async with grpc.aio.insecure_channel(running.address) as channel:
            stub = api_service_v1.DaprStub(channel)
            for call in (
                stub.GetMetadata(api_v1.GetMetadataRequest(), metadata=metadata),
                stub.SubscribeConfiguration(api_v1.SubscribeConfigurationRequest(), metadata=metadata).read(),
                channel.unary_unary("/a.B/C")(b"", metadata=(*metadata, ("dapr-app-id", "x"))),
            ):
                with pytest.raises(grpc.aio.AioRpcError, match="api token") as caught:
                    await call
                assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
        sidecar = Sidecar(running.settings())
        await sidecar.wait_ready(5)
        await sidecar.close()


async def test_a_fault_fails_what_it_is_asked_for(stand_in: StandIn, client: Sidecar) -> None:
    state = StateManager(client, "store")
    fault = stand_in.faults.add(operation="SaveState", key="b*", status=grpc.StatusCode.INTERNAL, message="full")

    await state.save("apple", 1)
    with pytest.raises(SidecarError, match="full"):
        await state.save("banana", 1)
    assert (fault.hits, "banana" in stand_in.state("store")) == (1, False)
    fault.remove()
    await state.save("banana", 1)


async def test_an_answer_that_gets_lost_has_taken_effect(stand_in: StandIn, stub: Any) -> None:
    stand_in.answer_faults.add(operation="SaveState", status=grpc.StatusCode.UNAVAILABLE, times=1)

    with pytest.raises(grpc.aio.AioRpcError):
        await stub.SaveState(api_v1.SaveStateRequest(store_name="store", states=[{"key": "k", "value": b"1"}]))

    assert stand_in.state("store")["k"] == 1


async def test_no_answer_ends_with_the_callers_deadline(stand_in: StandIn, stub: Any) -> None:
    stand_in.faults.add(operation="GetState", drop=True)

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.GetState(api_v1.GetStateRequest(store_name="store", key="k"), timeout=0.2)

    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


async def test_a_connection_that_breaks_comes_back_at_the_same_address(stand_in: StandIn, client: Sidecar) -> None:
    waiting = client.stub.SubscribeConfiguration(api_v1.SubscribeConfigurationRequest(store_name="settings"))
    stand_in.registry.add(Component("settings", "configuration.redis"))
    assert (await waiting.read()).id
    address = stand_in.address
    stand_in.faults.add(operation="SaveState", disconnect=True, times=1)

    with pytest.raises(SidecarUnavailable):
        await client.call(
            lambda: client.stub.SaveState(api_v1.SaveStateRequest(store_name="store", states=[{"key": "k"}]))
        )
    with pytest.raises(grpc.aio.AioRpcError):  # who shares the connection
        await asyncio.wait_for(waiting.read(), 5)
    await client.wait_ready(5)
    assert stand_in.address == address


async def test_calls_are_kept_with_what_was_asked(stand_in: StandIn, client: Sidecar) -> None:
    await StateManager(client, "store").save("k", {"a": 1})

    [call] = stand_in.calls("SaveState")
    assert call.request is not None
    assert call.request.states[0].key == "k"
    assert call.header("user-agent").startswith("grpc")


async def test_what_is_not_loaded_is_said_with_what_is(stand_in: StandIn) -> None:
    with pytest.raises(LookupError, match="no state store 'events' is loaded; components are store, events"):
        stand_in.state("events")
    for ask in (stand_in.secrets, stand_in.configuration):
        with pytest.raises(LookupError, match="is loaded"):
            ask("store")
    with pytest.raises(LookupError, match="no pub/sub 'store'"):
        await stand_in.publish("x", pubsub_name="store", topic="t")
    with pytest.raises(LookupError, match="is no input binding"):
        await stand_in.push("store")


async def test_a_port_that_is_taken_is_an_error_that_names_it(stand_in: StandIn) -> None:
    with pytest.raises(OSError, match=f"cannot listen on 127.0.0.1:{stand_in.grpc_port}"):
        await StandIn(grpc_port=stand_in.grpc_port).start()


async def test_it_listens_on_daprds_unix_sockets(socket_folder: Path) -> None:
    async with StandIn(app_id="a", socket_folder=str(socket_folder), http_port=0) as running:
        assert running.address == f"unix:{socket_folder}/dapr-a-grpc.socket"
        async with grpc.aio.insecure_channel(running.address) as channel:
            found = await api_service_v1.DaprStub(channel).GetMetadata(api_v1.GetMetadataRequest())
        assert found.id == "a"
        assert (socket_folder / "dapr-a-http.socket").exists()
