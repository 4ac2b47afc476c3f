"""The life of an app's process: it listens, becomes ready with its sidecar, serves, drains and ends."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import sys
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from dapr.proto.runtime.v1 import appcallback_pb2, appcallback_pb2_grpc
from google.protobuf.empty_pb2 import Empty
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from apibase import App, Settings
from tests.unit.fake_dapr import FakeDapr, eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from tests.unit.conftest import Desk, Log

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class Clerk:
    """What the handlers of the app under test wait for."""

    def __init__(self) -> None:
        self.at_work = asyncio.Event()
        self.may_end = asyncio.Event()
        self.events: list[Any] = []


@pytest.fixture
def clerk() -> Clerk:
    return Clerk()


@pytest.fixture
def make_app(desk: Desk, clerk: Clerk, log: Log) -> Callable[[Settings], App]:
    class DeskService(desk.grpc.DeskServicer):
        async def Ask(self, request: Any, context: Any) -> Any:
            if request.text == "wait":
                clerk.at_work.set()
                await clerk.may_end.wait()
            if request.text == "repeat":
                return desk.pb2.Answer(text="four" * request.items[0].quantity)
            return desk.pb2.Answer(text=request.text)

    class DeskEvents(desk.grpc.DeskEventsServicer):
        async def OnAsked(self, request: Any, context: Any) -> Empty:
            clerk.events.append(request)
            return Empty()

        OnAnswered = OnMail = OnTick = OnAsked

    def make(settings: Settings) -> App:
        app = App(settings)
        app.add_servicer(DeskService())
        app.add_servicer(DeskEvents())
        return app

    return make


@pytest.fixture
def app(make_app: Callable[[Settings], App], settings: Settings) -> App:
    return make_app(settings)


class Client:
    """An app as its callers, its sidecar and its orchestrator see it."""

    def __init__(self, desk: Desk, channel: grpc.aio.Channel) -> None:
        self.channel = channel
        self.desk = desk.grpc.DeskStub(channel)
        self.daprd = appcallback_pb2_grpc.AppCallbackStub(channel)
        self.daprd_health = appcallback_pb2_grpc.AppCallbackHealthCheckStub(channel)
        self.health = health_pb2_grpc.HealthStub(channel)
        self.reflection = reflection_pb2_grpc.ServerReflectionStub(channel)

    async def status(self, service: str = "") -> int:
        return (await self.health.Check(health_pb2.HealthCheckRequest(service=service))).status


@asynccontextmanager
async def client(desk: Desk, app: App) -> AsyncIterator[Client]:
    await eventually(lambda: app.port)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{app.port}") as channel:
        await channel.channel_ready()
        yield Client(desk, channel)


@asynccontextmanager
async def started(app: App) -> AsyncIterator[None]:
    await app.start()
    try:
        yield
    finally:
        await app.stop()


@asynccontextmanager
async def serving(app: App) -> AsyncIterator[asyncio.Task[int]]:
    """Serve until the block ends, as the process does: it takes signals."""
    task = asyncio.create_task(app.serve())
    try:
        yield task
    finally:
        if not task.done():
            os.kill(os.getpid(), signal.SIGTERM)
        await task


async def code_of(call: Any) -> grpc.StatusCode:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code()


@pytest.mark.req("R15.3", "R15.5")
async def test_an_app_is_not_ready_until_its_sidecar_answers(desk: Desk, app: App, settings: Settings) -> None:
    starting = asyncio.create_task(app.start())
    async with client(desk, app) as seen:
        assert await seen.status() == await seen.status("desk.v1.Desk") == NOT_SERVING
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await seen.daprd_health.HealthCheck(Empty())
        assert (caught.value.code(), caught.value.details()) == (grpc.StatusCode.UNAVAILABLE, "starting")
        # daprd asks for these while it starts itself, and takes no second look at an empty list.
        assert (await seen.daprd.ListInputBindings(Empty())).bindings

        async with FakeDapr(settings.sidecar_address):
            await starting
            assert await seen.status() == await seen.status("desk.v1.Desk") == SERVING
            await seen.daprd_health.HealthCheck(Empty())
            await app.stop()


async def test_rpcs_are_served_and_listeners_are_the_sidecars_alone(
    desk: Desk, app: App, clerk: Clerk, dapr: FakeDapr
) -> None:
    async with started(app), client(desk, app) as seen:
        assert (await seen.desk.Ask(desk.pb2.Question(text="why"))).text == "why"

        forged = seen.channel.unary_unary("/desk.v1.DeskEvents/OnAsked")(desk.pb2.Asked(text="x").SerializeToString())
        assert await code_of(forged) is grpc.StatusCode.UNIMPLEMENTED
        assert clerk.events == []

        event = appcallback_pb2.TopicEventRequest(
            id="1", type="desk.v1.Asked", pubsub_name="events", topic="desk", data=b'{"text": "why"}'
        )
        await seen.daprd.OnTopicEvent(event)
        assert clerk.events == [desk.pb2.Asked(text="why")]


async def test_health_knows_the_services_that_are_served_and_no_others(desk: Desk, app: App, dapr: FakeDapr) -> None:
    async with started(app), client(desk, app) as seen:
        assert await seen.status("desk.v1.Desk") == SERVING
        for unknown in ("desk.v1.DeskEvents", "desk.v1.Counter"):
            assert await code_of(seen.status(unknown)) is grpc.StatusCode.NOT_FOUND


async def test_a_call_in_flight_ends_before_the_process_does(
    desk: Desk, app: App, clerk: Clerk, dapr: FakeDapr, log: Log
) -> None:
    async with serving(app) as process, client(desk, app) as seen:
        await eventually(lambda: app.health.ready)
        call = seen.desk.Ask(desk.pb2.Question(text="wait"))
        await clerk.at_work.wait()

        os.kill(os.getpid(), signal.SIGTERM)
        await eventually(lambda: not app.health.ready)
        assert app.health.reason == "draining"
        assert not process.done()
        clerk.may_end.set()

        assert (await call).text == "wait"
        assert await process == 0
    told = [line["message"] for line in log.of(level="INFO", logger="apibase.process")]
    assert told[-2:] == ["desk received SIGTERM: draining for at most 5 s", "desk stopped"]


async def test_a_call_that_does_not_end_is_cut_off_when_the_time_to_drain_is_over(
    desk: Desk, make_app: Callable[[Settings], App], settings: Settings, clerk: Clerk, dapr: FakeDapr
) -> None:
    app = make_app(settings.model_copy(update={"drain_timeout": 0.1}))
    async with serving(app) as process, client(desk, app) as seen:
        await eventually(lambda: app.health.ready)
        call = seen.desk.Ask(desk.pb2.Question(text="wait"))
        await clerk.at_work.wait()
        os.kill(os.getpid(), signal.SIGINT)

        assert await process == 0
        assert await code_of(call) in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}


async def test_who_watches_the_health_is_told_of_the_end_and_holds_nothing_up(
    desk: Desk, app: App, dapr: FakeDapr
) -> None:
    async with serving(app) as process, client(desk, app) as seen:
        await eventually(lambda: app.health.ready)
        watch = seen.health.Watch(health_pb2.HealthCheckRequest())
        assert (await watch.read()).status == SERVING
        started_at = time.monotonic()
        os.kill(os.getpid(), signal.SIGTERM)

        assert (await watch.read()).status == NOT_SERVING
        assert await process == 0
        assert time.monotonic() - started_at < 2  # and not the 5 s that a call in flight would get


@pytest.mark.req("R1.5")
async def test_without_a_sidecar_the_process_gives_up_with_an_exit_code_and_says_why(
    make_app: Callable[[Settings], App], settings: Settings, log: Log
) -> None:
    app = make_app(settings.model_copy(update={"sidecar_timeout": 0.1}))

    assert await app.serve() == 1

    line = log.one(level="ERROR")
    assert line["message"].startswith("desk could not start: UNAVAILABLE SIDECAR_UNAVAILABLE: no sidecar at unix://")
    assert "APIBASE_SIDECAR_TIMEOUT" in line["message"]
    assert "error" not in line


async def test_a_signal_while_the_sidecar_is_waited_for_ends_the_process_at_once(app: App, log: Log) -> None:
    process = asyncio.create_task(app.serve())
    await eventually(lambda: app.port)
    os.kill(os.getpid(), signal.SIGTERM)

    assert await asyncio.wait_for(process, 2) == 0
    assert log.of(level="ERROR") == []


async def test_a_port_that_is_taken_is_named_with_its_settings(
    make_app: Callable[[Settings], App], settings: Settings, dapr: FakeDapr, log: Log
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        app = make_app(settings.model_copy(update={"app_port": port}))

        assert await app.serve() == 1

    assert f"cannot listen on 127.0.0.1:{port} (APP_HOST, APP_PORT)" in log.one(level="ERROR")["message"]


async def test_two_apps_never_share_a_port(
    make_app: Callable[[Settings], App], settings: Settings, app: App, dapr: FakeDapr
) -> None:
    async with started(app):
        twin = make_app(settings.model_copy(update={"app_port": app.port}))

        assert await twin.serve() == 1


async def test_an_app_listens_on_an_ipv6_address(
    make_app: Callable[[Settings], App], settings: Settings, dapr: FakeDapr
) -> None:
    if not socket.has_ipv6:
        pytest.skip("no IPv6 here")
    app = make_app(settings.model_copy(update={"app_host": "::1"}))
    async with started(app), grpc.aio.insecure_channel(f"[::1]:{app.port}") as channel:
        await asyncio.wait_for(channel.channel_ready(), 5)


async def test_reflection_is_served_on_request_only(
    desk: Desk, make_app: Callable[[Settings], App], settings: Settings, dapr: FakeDapr
) -> None:
    request = reflection_pb2.ServerReflectionRequest(list_services="")

    without = make_app(settings)
    async with started(without), client(desk, without) as seen:
        assert (
            await code_of(seen.reflection.ServerReflectionInfo(iter([request])).read()) is grpc.StatusCode.UNIMPLEMENTED
        )

    having = make_app(settings.model_copy(update={"reflection": True}))
    async with started(having), client(desk, having) as seen:
        response = await seen.reflection.ServerReflectionInfo(iter([request])).read()

    names = {service.name for service in response.list_services_response.service}
    assert {"desk.v1.Desk", "grpc.health.v1.Health"} <= names
    assert "desk.v1.DeskEvents" not in names


async def test_the_log_tells_what_is_served_and_listened_to(app: App, dapr: FakeDapr, log: Log) -> None:
    async with started(app):
        pass

    line = log.one(message=f"desk listens on 127.0.0.1:{app.port}")
    assert (line["services"], line["topics"], line["bindings"]) == (["desk.v1.Desk"], ["events/desk"], ["mail", "tick"])
    assert log.one(message="desk is ready")


async def test_stopping_an_app_that_never_started_does_nothing(app: App) -> None:
    await app.stop()
    await app.stop()


@pytest.mark.req("R1.4")
async def test_stopping_closes_the_connection_to_the_sidecar(app: App, dapr: FakeDapr) -> None:
    async with started(app):
        assert app.sidecar._channels

    assert not app.sidecar._channels


@pytest.mark.parametrize("way", ["in", "out"])
async def test_a_larger_message_than_the_setting_is_refused(
    desk: Desk, make_app: Callable[[Settings], App], settings: Settings, dapr: FakeDapr, way: str
) -> None:
    app = make_app(settings.model_copy(update={"max_message_bytes": 1000}))

    def question(size: int) -> Any:
        """Return a question of that size, or one whose answer has it."""
        if way == "in":
            return desk.pb2.Question(text="why", items=[desk.pb2.Item(quantity=1)] * (size // 4))
        return desk.pb2.Question(text="repeat", items=[desk.pb2.Item(quantity=size // 4)])

    async with started(app), client(desk, app) as seen:
        assert await seen.desk.Ask(question(900))
        assert await code_of(seen.desk.Ask(question(1100))) is grpc.StatusCode.RESOURCE_EXHAUSTED


@pytest.mark.parametrize("with_sidecar", [True, False], ids=["beside a sidecar", "without a sidecar"])
async def test_the_process_itself_exits_with_the_code(
    settings: Settings, socket_folder: Path, with_sidecar: bool
) -> None:
    async def run() -> tuple[int, str]:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            "from apibase import App; App().run()",
            env={
                **os.environ,
                "APP_ID": "desk",
                "APP_PORT": "0",
                "DAPR_GRPC_ENDPOINT": settings.sidecar_address,
                "APIBASE_SIDECAR_TIMEOUT": "30" if with_sidecar else "0.1",
            },
            stderr=asyncio.subprocess.PIPE,
        )
        assert process.stderr is not None
        lines = []
        async for line in process.stderr:
            lines.append(line.decode())
            if "is ready" in lines[-1]:
                process.send_signal(signal.SIGTERM)
        return await process.wait(), "".join(lines)

    if with_sidecar:
        async with FakeDapr(settings.sidecar_address):
            code, log = await run()
    else:
        code, log = await run()

    assert code == (0 if with_sidecar else 1), log
    assert ("draining" if with_sidecar else "could not start") in log
    assert "Traceback" not in log


STUCK = """
import threading
from apibase import App

app = App()

@app.register_health_check
def check():
    print("checking", flush=True)
    threading.Event().wait()

app.run()
"""


async def test_a_plain_function_that_does_not_end_does_not_hold_the_process_up(settings: Settings) -> None:
    """A thread can't be cancelled, and the interpreter waits for each."""
    environment = {
        **os.environ,
        "APP_PORT": "0",
        "DAPR_GRPC_ENDPOINT": settings.sidecar_address,
        "APIBASE_DRAIN_TIMEOUT": "0.1",
        "APIBASE_LOG_FORMAT": "json",
    }
    async with FakeDapr(settings.sidecar_address):
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", STUCK, env=environment, stdout=pipe, stderr=pipe
        )
        assert process.stdout is not None
        assert process.stderr is not None
        log = ""
        while "is ready" not in log:
            log += (await asyncio.wait_for(process.stderr.readline(), 20)).decode()
        port = re.search(r"listens on (127.0.0.1:\d+)", log)
        assert port
        async with grpc.aio.insecure_channel(port[1]) as channel:
            asking = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
            assert await asyncio.wait_for(process.stdout.readline(), 10) == b"checking\n"
            process.send_signal(signal.SIGTERM)
            code = await asyncio.wait_for(process.wait(), 10)
            asking.cancel()
        log += (await process.stderr.read()).decode()

    assert code == 0, log
    assert "ended while functions ran in threads, which can't be cancelled: check" in log
