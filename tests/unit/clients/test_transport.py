"""What every call to the sidecar carries: token, app id, trace and deadline, on all four kinds of rpc."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import grpc
import pytest
from dapr.proto import api_service_v1, api_v1

from apibase import ServiceInvocationClient, Settings, Sidecar
from apibase.clients._transport import sidecar_call
from apibase.deadline import deadline
from apibase.errors import SidecarError, SidecarUnavailable
from apibase.observability import call_context
from tests.unit.clients.remote import KINDS, Remote, call
from tests.unit.fake_dapr import FakeDapr, eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.unit.conftest import Desk

TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@pytest.fixture
async def remote(desk: Desk, settings: Settings) -> AsyncIterator[Remote]:
    remote = Remote(desk)
    async with FakeDapr(settings.sidecar_address, [remote.handler()]):
        yield remote


@pytest.fixture
async def sidecar(settings: Settings) -> AsyncIterator[Sidecar]:
    sidecar = Sidecar(settings.model_copy(update={"call_timeout": 7.0}))
    yield sidecar
    await sidecar.close()


@pytest.mark.req("R2.1", "R2.4")
@pytest.mark.parametrize("kind", KINDS)
async def test_a_call_to_another_app_goes_through_the_sidecar_by_app_id(
    desk: Desk, remote: Remote, sidecar: Sidecar, kind: str
) -> None:
    stub = ServiceInvocationClient(sidecar).client(desk.grpc.DeskStub, app_id="other")

    assert await call(desk, stub, kind) == "why"

    assert remote.metadata[kind]["dapr-app-id"] == "other"
    assert remote.metadata[kind].get("dapr-stream") == (None if kind == "Ask" else "true")
    assert "dapr-api-token" not in remote.metadata[kind]


@pytest.mark.req("R13.2")
@pytest.mark.parametrize("kind", KINDS)
async def test_every_call_carries_the_sidecars_token(desk: Desk, remote: Remote, settings: Settings, kind: str) -> None:
    sidecar = Sidecar(settings.model_validate({**settings.model_dump(), "dapr_api_token": "hunter2"}))
    stub = ServiceInvocationClient(sidecar).client(desk.grpc.DeskStub, app_id="other")

    await call(desk, stub, kind)
    await sidecar.close()

    assert remote.metadata[kind]["dapr-api-token"] == "hunter2"


async def test_a_stream_to_the_sidecar_itself_is_no_proxied_stream(
    desk: Desk, remote: Remote, sidecar: Sidecar
) -> None:
    await call(desk, desk.grpc.DeskStub(sidecar.channel()), "Listen")

    assert "dapr-stream" not in remote.metadata["Listen"]
    assert "dapr-app-id" not in remote.metadata["Listen"]


@pytest.mark.req("R2.5")
@pytest.mark.parametrize("kind", KINDS)
async def test_a_call_within_a_call_carries_its_trace_and_correlation_id(
    desk: Desk, remote: Remote, sidecar: Sidecar, kind: str
) -> None:
    stub = ServiceInvocationClient(sidecar).client(desk.grpc.DeskStub, app_id="other")

    with call_context({"traceparent": TRACEPARENT, "tracestate": "vendor=1", "x-correlation-id": "c7"}):
        await call(desk, stub, kind)

    metadata = remote.metadata[kind]
    assert (metadata["traceparent"], metadata["tracestate"]) == (TRACEPARENT, "vendor=1")
    assert metadata["x-correlation-id"] == "c7"


async def test_a_call_outside_of_any_call_carries_no_trace(desk: Desk, remote: Remote, sidecar: Sidecar) -> None:
    await call(desk, desk.grpc.DeskStub(sidecar.channel(app_id="other")), "Ask")

    assert "traceparent" not in remote.metadata["Ask"]


async def test_headers_that_a_caller_gives_win(desk: Desk, remote: Remote, sidecar: Sidecar) -> None:
    given = grpc.aio.Metadata(("dapr-app-id", "chosen"), ("traceparent", "mine"), ("x-more", "yes"))
    with call_context({"traceparent": TRACEPARENT}):
        await call(desk, desk.grpc.DeskStub(sidecar.channel(app_id="other")), "Ask", metadata=given)

    metadata = remote.metadata["Ask"]
    assert (metadata["dapr-app-id"], metadata["traceparent"], metadata["x-more"]) == ("chosen", "mine", "yes")


def test_an_app_id_may_not_be_empty(desk: Desk, settings: Settings) -> None:
    with pytest.raises(ValueError, match="app_id is empty"):
        ServiceInvocationClient(Sidecar(settings)).client(desk.grpc.DeskStub, app_id="")


@pytest.mark.req("R9.1")
@pytest.mark.parametrize(
    ("inherited", "given", "expected"),
    [
        pytest.param(None, None, 7.0, id="the setting, where there is no other"),
        pytest.param(None, 3.0, 3.0, id="the call's own"),
        pytest.param(None, 60.0, 60.0, id="the call's own, beyond the setting"),
        pytest.param(2.0, None, 2.0, id="what the inbound call has left"),
        pytest.param(2.0, 3.0, 2.0, id="what the inbound call has left, before the call's own"),
        pytest.param(60.0, 3.0, 3.0, id="the call's own, before the inbound call's end"),
        pytest.param(60.0, None, 7.0, id="the setting, before the inbound call's end"),
    ],
)
async def test_a_unary_calls_deadline_is_the_nearest(
    desk: Desk, remote: Remote, sidecar: Sidecar, inherited: float | None, given: float | None, expected: float
) -> None:
    token = deadline.set_remaining(inherited)
    await call(desk, desk.grpc.DeskStub(sidecar.channel(app_id="other")), "Ask", timeout=given)
    deadline.reset(token)

    assert remote.seconds_left["Ask"] == pytest.approx(expected, abs=1)


@pytest.mark.parametrize("kind", ["Listen", "Tell", "Talk"])
async def test_a_stream_has_a_deadline_only_where_somebody_set_one(
    desk: Desk, remote: Remote, sidecar: Sidecar, kind: str
) -> None:
    stub = desk.grpc.DeskStub(sidecar.channel(app_id="other"))

    await call(desk, stub, kind)
    assert remote.seconds_left[kind] is None

    token = deadline.set_remaining(30.0)
    await call(desk, stub, kind)
    deadline.reset(token)
    assert remote.seconds_left[kind] == pytest.approx(30, abs=1)


async def test_a_call_after_the_inbound_calls_end_waits_for_nothing(
    desk: Desk, remote: Remote, sidecar: Sidecar
) -> None:
    remote.hold.clear()
    stub = desk.grpc.DeskStub(sidecar.channel(app_id="other"))
    token = deadline.set_remaining(-1.0)
    started = time.monotonic()

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call(desk, stub, "Ask")
    deadline.reset(token)

    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert time.monotonic() - started < 1


def test_nothing_is_opened_before_the_first_call(settings: Settings, desk: Desk) -> None:
    sidecar = Sidecar(settings)

    ServiceInvocationClient(sidecar).client(desk.grpc.DeskStub, app_id="other")

    assert sidecar.client is sidecar.client
    assert not sidecar._channels


@pytest.mark.req("R1.4")
async def test_closing_waits_for_the_calls_that_are_pending(desk: Desk, remote: Remote, sidecar: Sidecar) -> None:
    remote.hold.clear()
    stub = desk.grpc.DeskStub(sidecar.channel(app_id="other"))
    pending = asyncio.ensure_future(call(desk, stub, "Ask"))
    await eventually(lambda: remote.metadata)

    closing = asyncio.ensure_future(sidecar.close())
    await asyncio.sleep(0)
    assert not closing.done()
    remote.hold.set()

    assert await pending == "why"
    await closing


async def test_closing_twice_or_before_any_call_does_nothing(sidecar: Sidecar) -> None:
    await sidecar.close()
    await sidecar.close()


async def test_a_stub_made_before_the_connection_was_closed_works_after_it_is_opened_again(
    desk: Desk, remote: Remote, sidecar: Sidecar
) -> None:
    stub = desk.grpc.DeskStub(sidecar.channel(app_id="other"))
    await call(desk, stub, "Ask")

    await sidecar.close()

    assert await call(desk, stub, "Ask") == "why"


@pytest.mark.parametrize("code", [code for code in grpc.StatusCode if code is not grpc.StatusCode.OK])
@pytest.mark.parametrize("method", ["GetState", "SaveState", "PublishEvent"])
async def test_the_status_of_a_failed_call_survives_the_sdks_exceptions(
    dapr: FakeDapr, sidecar: Sidecar, method: str, code: grpc.StatusCode
) -> None:
    calls = {
        "GetState": lambda: sidecar.client.get_state("store", "key"),
        "SaveState": lambda: sidecar.client.save_state("store", "key", "value"),
        "PublishEvent": lambda: sidecar.client.publish_event("events", "desk", "{}"),
    }
    dapr.fail(method, code, "as told")

    with pytest.raises(SidecarError) as caught:
        await sidecar_call(calls[method](), component="store")

    assert caught.value.code is code
    assert caught.value.message == "as told"
    assert isinstance(caught.value, SidecarUnavailable) == (code is grpc.StatusCode.UNAVAILABLE)
    if code is not grpc.StatusCode.UNAVAILABLE:
        assert caught.value.component == "store"


async def test_a_write_is_never_tried_again_behind_its_callers_back(
    dapr: FakeDapr, settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # A second try of a write that took effect would find its own first one, and call it somebody else's.
    monkeypatch.setattr("dapr.conf.settings.DAPR_API_MAX_RETRIES", 3)
    sidecar = Sidecar(settings)
    dapr.fail("SaveState", grpc.StatusCode.UNAVAILABLE)

    with pytest.raises(SidecarUnavailable):
        await sidecar_call(sidecar.client.save_state("store", "key", "value"), component="store")
    await sidecar.close()

    assert [call.method for call in dapr.calls] == ["SaveState"]
    assert capsys.readouterr().out == ""


async def test_the_sdks_client_is_made_without_its_blocking_health_check(settings: Settings) -> None:
    started = time.monotonic()

    assert Sidecar(settings).client is not None  # nothing listens there

    assert time.monotonic() - started < 0.5


async def test_other_calls_of_the_sdks_client_go_the_same_way(dapr: FakeDapr, settings: Settings) -> None:
    sidecar = Sidecar(settings.model_validate({**settings.model_dump(), "dapr_api_token": "hunter2"}))

    metadata = await api_service_v1.DaprStub(sidecar.channel()).GetMetadata(api_v1.GetMetadataRequest())
    await sidecar.close()

    assert metadata.runtime_version == "1.18.2"
    assert dapr.last("GetMetadata").metadata["dapr-api-token"] == "hunter2"
