"""The readiness model, as `grpc.health.v1` and daprd's probe tell it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from dapr.proto.runtime.v1 import appcallback_pb2_grpc
from google.protobuf.empty_pb2 import Empty
from grpc_health.v1 import health_pb2, health_pb2_grpc

from apibase.health import AppHealthServicer, Health, HealthServicer
from tests.unit.status import refused

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

Status = health_pb2.HealthCheckResponse


@pytest.fixture
def model() -> Health:
    model = Health()
    model.declare(("desk.v1.Desk",))
    return model


@pytest.fixture
def grpc_add_to_server() -> Any:
    def add(model: Health, server: Any) -> None:
        health_pb2_grpc.add_HealthServicer_to_server(HealthServicer(model), server)
        appcallback_pb2_grpc.add_AppCallbackHealthCheckServicer_to_server(AppHealthServicer(model), server)

    return add


@pytest.fixture
async def channel(model: Health, grpc_aio_channel: Any) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc_aio_channel(servicer=model) as channel:
        yield channel


@pytest.mark.parametrize("service", ["", "desk.v1.Desk"])
async def test_a_check_follows_the_model(model: Health, channel: grpc.aio.Channel, service: str) -> None:
    stub = health_pb2_grpc.HealthStub(channel)

    async def status() -> int:
        return (await stub.Check(health_pb2.HealthCheckRequest(service=service))).status

    assert (model.ready, model.reason, await status()) == (False, "starting", Status.NOT_SERVING)
    model.set_ready()
    assert (model.ready, model.reason, await status()) == (True, "", Status.SERVING)
    model.set_draining()
    assert (model.ready, model.reason, await status()) == (False, "draining", Status.NOT_SERVING)


async def test_a_service_that_is_not_served_is_not_found(channel: grpc.aio.Channel) -> None:
    with refused() as told:
        await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service="other.v1.Other"))

    assert told.code is grpc.StatusCode.NOT_FOUND


async def test_daprds_probe_is_told_why_not(model: Health, channel: grpc.aio.Channel) -> None:
    stub = appcallback_pb2_grpc.AppCallbackHealthCheckStub(channel)
    with refused() as told:
        await stub.HealthCheck(Empty())
    assert (told.code, told.message) == (grpc.StatusCode.UNAVAILABLE, "starting")

    model.set_ready()
    await stub.HealthCheck(Empty())

    model.set_draining()
    with refused() as told:
        await stub.HealthCheck(Empty())
    assert told.message == "draining"


@pytest.mark.parametrize("service", ["", "desk.v1.Desk"])
async def test_a_watch_tells_every_change_and_ends_with_the_app(
    model: Health, channel: grpc.aio.Channel, service: str
) -> None:
    watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service=service), timeout=5)

    assert (await watch.read()).status == Status.NOT_SERVING
    model.set_ready()
    assert (await watch.read()).status == Status.SERVING
    model.set_draining()
    assert (await watch.read()).status == Status.NOT_SERVING
    assert await watch.read() is grpc.aio.EOF


async def test_a_watch_of_an_unknown_service_waits_for_it_to_be_declared(
    model: Health, channel: grpc.aio.Channel
) -> None:
    watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service="late.v1.Late"), timeout=5)

    assert (await watch.read()).status == Status.SERVICE_UNKNOWN
    model.set_ready()
    model.declare(("desk.v1.Desk", "late.v1.Late"))
    assert (await watch.read()).status == Status.SERVING


async def test_a_watch_that_begins_while_the_app_drains_ends_at_once(model: Health, channel: grpc.aio.Channel) -> None:
    model.set_draining()
    watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=5)

    assert [told.status async for told in watch] == [Status.NOT_SERVING]


async def test_many_watches_are_all_told(model: Health, channel: grpc.aio.Channel) -> None:
    stub = health_pb2_grpc.HealthStub(channel)
    watches = [stub.Watch(health_pb2.HealthCheckRequest(), timeout=5) for _ in range(10)]
    await asyncio.gather(*(watch.read() for watch in watches))

    model.set_ready()

    assert {(await watch.read()).status for watch in watches} == {Status.SERVING}
