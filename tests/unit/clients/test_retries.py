"""Second tries of calls that may be made twice, and what an unavailable sidecar looks like."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator

import grpc
import pytest
from dapr.proto import api_v1
from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc import error_details_pb2, status_pb2

from apibase import Settings, Sidecar
from apibase.clients._retries import RetryBudget
from apibase.clients._transport import sidecar_call
from apibase.deadline import deadline
from apibase.errors import SidecarError, SidecarUnavailable
from tests.unit.fake_dapr import FakeDapr

GET = api_v1.GetStateRequest(store_name="store", key="a")
REFUSED = "failed to connect to all addresses; last error: UNKNOWN: ipv4:127.0.0.1:9: Failed to connect to remote host"


@pytest.fixture
async def sidecar(settings: Settings) -> AsyncIterator[Sidecar]:
    sidecar = Sidecar(settings.model_copy(update={"call_timeout": 3.0}))
    yield sidecar
    await sidecar.close()


async def get(sidecar: Sidecar, *, safe: bool = True):
    return await sidecar.call(lambda: sidecar.stub.GetState(GET), component="store", safe=safe)


@pytest.mark.req("R1.5")
async def test_what_may_be_made_twice_is_made_again_when_the_sidecar_could_not_be_reached(
    dapr: FakeDapr, sidecar: Sidecar
) -> None:
    dapr.fail("GetState", grpc.StatusCode.UNAVAILABLE, REFUSED)
    dapr.fail("GetState", grpc.StatusCode.UNAVAILABLE, REFUSED)

    await get(sidecar)

    assert [call.method for call in dapr.calls] == ["GetState"] * 3


async def test_what_may_not_be_made_twice_fails_at_once(dapr: FakeDapr, sidecar: Sidecar) -> None:
    dapr.fail("GetState", grpc.StatusCode.UNAVAILABLE, REFUSED)

    with pytest.raises(SidecarUnavailable) as caught:
        await get(sidecar, safe=False)

    assert caught.value.retryable
    assert len(dapr.calls) == 1


@pytest.mark.parametrize("code", [grpc.StatusCode.INTERNAL, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.ABORTED])
async def test_what_a_component_answers_is_not_asked_for_twice(
    dapr: FakeDapr, sidecar: Sidecar, code: grpc.StatusCode
) -> None:
    dapr.fail("GetState", code)

    with pytest.raises(SidecarError):
        await get(sidecar)

    assert len(dapr.calls) == 1


@pytest.mark.parametrize(
    "details",
    [
        'connection error: desc = "transport: Error while dialing: dial tcp 127.0.0.1:9: connect: connection refused"',
        "failed getting state from the store",
        "error invoking the binding",
        "rpc error: code = Unavailable desc = no scheduler",
        "the component's own words",
        "the bank's transport is down, and no channel is left",
    ],
)
async def test_unavailable_in_daprs_own_words_is_no_sidecar_that_is_away(
    dapr: FakeDapr, sidecar: Sidecar, details: str
) -> None:
    dapr.fail("GetState", grpc.StatusCode.UNAVAILABLE, details)

    with pytest.raises(SidecarError) as caught:
        await get(sidecar)

    assert not isinstance(caught.value, SidecarUnavailable)
    assert (caught.value.code, caught.value.component) == (grpc.StatusCode.UNAVAILABLE, "store")
    assert caught.value.retryable
    assert len(dapr.calls) == 1


@pytest.mark.parametrize(
    "details",
    [
        REFUSED,
        "Socket closed",
        "recvmsg:Connection reset by peer",
        "GOAWAY received; Error code: 2; Debug Text: Cancelling all calls",
        "keepalive watchdog timeout",
    ],
)
async def test_unavailable_in_grpcs_own_words_is_a_sidecar_that_is_away(
    dapr: FakeDapr, sidecar: Sidecar, details: str
) -> None:
    dapr.fail("GetState", grpc.StatusCode.UNAVAILABLE, details)

    with pytest.raises(SidecarUnavailable):
        await get(sidecar, safe=False)


@pytest.mark.parametrize("code", [grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN])
async def test_a_time_that_daprd_says_is_over_is_a_deadline_that_is_exceeded(
    dapr: FakeDapr, sidecar: Sidecar, code: grpc.StatusCode
) -> None:
    dapr.fail(
        "GetState", code, "failed getting state: rpc error: code = DeadlineExceeded desc = context deadline exceeded"
    )

    with pytest.raises(SidecarError) as caught:
        await get(sidecar)

    assert caught.value.code is grpc.StatusCode.DEADLINE_EXCEEDED
    assert caught.value.retryable


async def test_a_call_that_a_sidecar_which_ends_gives_up_may_be_tried_again(dapr: FakeDapr, sidecar: Sidecar) -> None:
    dapr.fail("GetState", grpc.StatusCode.INTERNAL, "failed getting state: context canceled")

    with pytest.raises(SidecarError) as caught:
        await get(sidecar)

    assert (caught.value.code, caught.value.retryable) == (grpc.StatusCode.UNAVAILABLE, True)


@pytest.mark.req("R1.4")
async def test_a_call_that_outlives_the_end_of_the_connection_is_told_so(
    dapr: FakeDapr, sidecar: Sidecar, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("apibase.clients._transport._GRACE_SECONDS", 0.05)
    entered = asyncio.Event()

    async def hold() -> None:
        entered.set()
        await asyncio.Event().wait()

    dapr.after("GetState", hold)
    pending = asyncio.ensure_future(get(sidecar, safe=False))
    await entered.wait()

    await sidecar.close()

    with pytest.raises(SidecarUnavailable):
        await pending


@pytest.mark.req("R1.4")
async def test_a_call_that_begins_while_the_connection_closes_leaves_none_open(
    dapr: FakeDapr, sidecar: Sidecar
) -> None:
    entered, go_on = asyncio.Event(), asyncio.Event()

    async def hold() -> None:
        entered.set()
        await go_on.wait()

    dapr.after("GetState", hold)
    pending = asyncio.ensure_future(get(sidecar))
    await entered.wait()
    closing = asyncio.ensure_future(sidecar.close())
    await asyncio.sleep(0)

    await get(sidecar)
    go_on.set()
    await pending
    await closing

    assert not sidecar._channels


async def test_the_channel_of_a_loop_that_has_ended_is_forgotten(dapr: FakeDapr, sidecar: Sidecar) -> None:
    loop = asyncio.new_event_loop()
    sidecar._channels[loop] = object()  # type: ignore[assignment]
    loop.close()

    await get(sidecar)

    assert list(sidecar._channels) == [asyncio.get_running_loop()]


async def test_what_a_sidecar_says_of_a_component_is_asked_anew_after_a_while(
    dapr: FakeDapr, sidecar: Sidecar, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (await sidecar.component("statestore")).type == "state.postgresql"
    dapr.components["statestore"] = "state.redis"
    assert (await sidecar.component("statestore")).type == "state.postgresql"

    monkeypatch.setattr("apibase.clients._transport._COMPONENTS_SECONDS", 0.0)

    assert (await sidecar.component("statestore")).type == "state.redis"


@pytest.mark.req("R1.5")
async def test_a_sidecar_that_comes_back_within_the_time_is_used(settings: Settings, sidecar: Sidecar) -> None:
    waiting = asyncio.ensure_future(get(sidecar))
    await asyncio.sleep(0.05)
    async with FakeDapr(settings.sidecar_address):
        await waiting


@pytest.mark.parametrize("inherited", [None, 0.3])
async def test_all_tries_together_take_no_longer_than_the_call_may(sidecar: Sidecar, inherited: float | None) -> None:
    token = deadline.set_remaining(inherited)
    began = time.monotonic()

    with pytest.raises(SidecarUnavailable):
        await get(sidecar)
    deadline.reset(token)

    assert time.monotonic() - began < (inherited or 3.0) + 0.3


async def test_a_budget_that_is_used_up_ends_second_tries(sidecar: Sidecar) -> None:
    sidecar._budget.tokens = 2.5
    began = time.monotonic()

    with pytest.raises(SidecarUnavailable):
        await get(sidecar)

    assert sidecar._budget.tokens == 0.5
    assert time.monotonic() - began < 1.0


def test_ten_answers_pay_for_one_second_try() -> None:
    budget = RetryBudget(2)
    assert budget.spend()
    assert budget.spend()
    assert not budget.spend()

    for _ in range(11):
        budget.earn()

    assert budget.spend()
    assert not budget.spend()


def test_no_more_is_saved_up_than_there_was() -> None:
    budget = RetryBudget(1)
    budget.earn()

    assert budget.tokens == 1


async def test_daprs_own_code_of_an_error_is_kept(dapr: FakeDapr, sidecar: Sidecar) -> None:
    info = AnyMessage()
    info.Pack(error_details_pb2.ErrorInfo(reason="DAPR_STATE_NOT_FOUND", domain="dapr.io"))
    details = status_pb2.Status(code=3, message="state store x is not found", details=[info])

    async def refuse() -> None:
        raise grpc.aio.AioRpcError(
            grpc.StatusCode.INVALID_ARGUMENT,
            grpc.aio.Metadata(),
            grpc.aio.Metadata(("grpc-status-details-bin", details.SerializeToString())),
            details=details.message,
        )

    with pytest.raises(SidecarError) as caught:
        await sidecar_call(refuse(), component="x")

    assert caught.value.dapr_code == "DAPR_STATE_NOT_FOUND"


async def test_a_second_event_loop_has_a_connection_of_its_own_to_the_same_sidecar(
    dapr: FakeDapr, sidecar: Sidecar
) -> None:
    await get(sidecar)
    ended = threading.Event()

    async def elsewhere() -> None:
        for _ in range(3):
            await get(sidecar)
            await sidecar.client.get_state("store", "a")

    thread = threading.Thread(target=lambda: (asyncio.run(elsewhere()), ended.set()), daemon=True)
    thread.start()
    while not ended.is_set() and thread.is_alive():
        await asyncio.sleep(0.005)

    assert ended.is_set()
    await get(sidecar)
    assert len(dapr.calls) == 8


async def test_closing_closes_the_connections_of_other_loops_too(dapr: FakeDapr, sidecar: Sidecar) -> None:
    called, closed = threading.Event(), threading.Event()
    states: list[grpc.ChannelConnectivity] = []

    async def elsewhere() -> None:
        await get(sidecar)
        channel = sidecar._channels[asyncio.get_running_loop()]
        called.set()
        while not closed.is_set():
            await asyncio.sleep(0.005)
        states.append(channel.get_state())

    thread = threading.Thread(target=lambda: asyncio.run(elsewhere()), daemon=True)
    thread.start()
    while not called.is_set():
        assert thread.is_alive()
        await asyncio.sleep(0.005)

    await sidecar.close()
    closed.set()
    thread.join(5)

    assert states == [grpc.ChannelConnectivity.SHUTDOWN]
