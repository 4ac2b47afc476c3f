"""The app's token: asked of everything that daprd sends one with, and of nothing else."""

from __future__ import annotations

import hmac
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from dapr.proto import common_v1
from dapr.proto.runtime.v1 import appcallback_pb2, appcallback_pb2_grpc
from google.protobuf.empty_pb2 import Empty
from grpc_health.v1 import health_pb2, health_pb2_grpc
from pydantic import SecretStr

from apibase import App, Settings
from apibase.invocation import Answer
from apibase.middleware.app_token import AppToken
from apibase.routes import Incoming, Route, RouteTable
from apibase.rpc import rpc_handlers
from tests.unit.app_channels import SUCCESS, Listener, app_channel, served
from tests.unit.chains import chain
from tests.unit.conftest import Desk, Log
from tests.unit.status import refused

TOKEN = "hunter2-e"
RIGHT = (("dapr-api-token", TOKEN),)
WRONG = [
    pytest.param((), id="none"),
    pytest.param((("dapr-api-token", ""),), id="empty"),
    pytest.param((("dapr-api-token", "hunter2"),), id="another"),
    pytest.param((("dapr-api-token", "hunter2-f"),), id="one of the same length"),
    pytest.param((("dapr-api-token-bin", b"hunter2-e"),), id="in another header"),
    pytest.param((("authorization", "hunter2-e"),), id="in one of HTTP's"),
]


@pytest.fixture
def listener() -> Listener:
    return Listener()


@pytest.fixture
async def channel(post: Desk, listener: Listener, socket_folder: Path, log: Log) -> AsyncIterator[grpc.aio.Channel]:
    async def ask(incoming: Incoming, _event: Any) -> Answer:
        listener.got.append(("ask", incoming, incoming.event))
        return Answer(common_v1.InvokeResponse(content_type="text/plain"))

    routes = RouteTable()
    routes.add(listener.implement(post, "PostEvents"))
    routes.add_method("ask", Route("ask", ask))
    async with served(app_channel(routes, token=TOKEN), socket_folder) as opened:
        yield opened


def batch() -> appcallback_pb2.TopicEventBulkRequest:
    request = appcallback_pb2.TopicEventBulkRequest(id="batch", topic="notes", pubsub_name="events")
    request.entries.add(entry_id="1").cloud_event.CopyFrom(
        appcallback_pb2.TopicEventCERequest(id="1", type="post.v1.Note", data=b'{"text": "why"}')
    )
    return request


CALLS = [
    pytest.param("", "OnInvoke", common_v1.InvokeRequest(method="ask"), id="OnInvoke"),
    pytest.param(
        "",
        "OnTopicEvent",
        appcallback_pb2.TopicEventRequest(
            id="1", type="post.v1.Note", topic="notes", pubsub_name="events", data=b'{"text": "why"}'
        ),
        id="OnTopicEvent",
    ),
    pytest.param("", "OnBulkTopicEvent", batch(), id="OnBulkTopicEvent"),
    pytest.param("Alpha", "OnBulkTopicEventAlpha1", batch(), id="OnBulkTopicEventAlpha1"),
    pytest.param(
        "",
        "OnBindingEvent",
        appcallback_pb2.BindingEventRequest(name="mail", data=b'{"text": "a"}'),
        id="OnBindingEvent",
    ),
    pytest.param("", "OnJobEvent", appcallback_pb2.JobEventRequest(name="post.v1.PostEvents.Sweep"), id="OnJobEvent"),
    pytest.param(
        "Alpha",
        "OnJobEventAlpha1",
        appcallback_pb2.JobEventRequest(name="post.v1.PostEvents.Sweep"),
        id="OnJobEventAlpha1",
    ),
]


def rpc(channel: grpc.aio.Channel, alpha: str, method: str) -> Any:
    return getattr(getattr(appcallback_pb2_grpc, f"AppCallback{alpha}Stub")(channel), method)


@pytest.mark.parametrize(("alpha", "method", "request_"), CALLS)
@pytest.mark.parametrize("metadata", WRONG)
async def test_a_callback_without_the_token_is_refused_before_anything_is_done(
    channel: grpc.aio.Channel,
    listener: Listener,
    log: Log,
    alpha: str,
    method: str,
    request_: Any,
    metadata: Any,
) -> None:
    with refused() as told:
        await rpc(channel, alpha, method)(request_, metadata=metadata, timeout=5)

    assert (told.code, told.reason) == (grpc.StatusCode.UNAUTHENTICATED, "APP_TOKEN_REFUSED")
    assert "hunter2" not in told.everything
    assert "hunter2" not in log.text
    assert listener.got == []


@pytest.mark.parametrize(("alpha", "method", "request_"), CALLS)
async def test_a_callback_with_the_token_is_served_and_its_handler_does_not_see_it(
    channel: grpc.aio.Channel,
    listener: Listener,
    log: Log,
    alpha: str,
    method: str,
    request_: Any,
) -> None:
    answer = await rpc(channel, alpha, method)(request_, metadata=(*RIGHT, ("x-mine", "yes")), timeout=5)

    if isinstance(answer, appcallback_pb2.TopicEventResponse):
        assert answer.status == SUCCESS
    if isinstance(answer, appcallback_pb2.TopicEventBulkResponse):
        assert [each.status for each in answer.statuses] == [SUCCESS]
    ((_, seen, event),) = listener.got
    assert event.headers["x-mine"] == "yes"
    assert "hunter2" not in repr((seen, event))
    assert "hunter2" not in log.text


@pytest.mark.parametrize("metadata", WRONG)
@pytest.mark.parametrize("method", ["ListTopicSubscriptions", "ListInputBindings"])
async def test_daprds_questions_at_the_start_come_without_the_token(
    channel: grpc.aio.Channel, method: str, metadata: Any
) -> None:
    await rpc(channel, "", method)(Empty(), metadata=metadata, timeout=5)


@pytest.mark.parametrize("metadata", WRONG)
async def test_daprds_health_probes_come_without_the_token(channel: grpc.aio.Channel, metadata: Any) -> None:
    await rpc(channel, "HealthCheck", "HealthCheck")(Empty(), metadata=metadata, timeout=5)


async def test_of_two_tokens_the_last_is_the_sidecars(channel: grpc.aio.Channel) -> None:
    ask = rpc(channel, "", "OnInvoke")
    forged = ("dapr-api-token", "forged")

    await ask(common_v1.InvokeRequest(method="ask"), metadata=(forged, *RIGHT), timeout=5)
    with refused() as told:
        await ask(common_v1.InvokeRequest(method="ask"), metadata=(*RIGHT, forged), timeout=5)

    assert told.code is grpc.StatusCode.UNAUTHENTICATED


@pytest.fixture
def grpc_add_to_server(desk: Desk) -> Any:
    service = desk.pb2.DESCRIPTOR.services_by_name["Desk"]
    return lambda servicer, server: server.add_generic_rpc_handlers(
        (rpc_handlers(service, servicer, chain(token=TOKEN)),)
    )


async def ask_in_every_way(desk: Desk, stub: Any, metadata: Any, kind: str) -> list[str]:
    async def questions() -> AsyncIterator[Any]:
        yield desk.pb2.Question(text="why")

    asked: Any = questions() if kind in {"Tell", "Talk"} else desk.pb2.Question(text="why")
    call = getattr(stub, kind)(asked, metadata=metadata, timeout=5)
    return [answer.text async for answer in call] if kind in {"Listen", "Talk"} else [(await call).text]


@pytest.mark.parametrize("kind", ["Ask", "Listen", "Tell", "Talk"])
async def test_rpcs_of_all_four_kinds_need_the_token(desk: Desk, served: Any, log: Log, kind: str) -> None:
    handled: list[str] = []

    async def once(request: Any, context: Any) -> Any:
        if kind == "Tell":
            assert [each.text async for each in request] == ["why"]
        handled.append(kind)
        return desk.pb2.Answer(text="because")

    async def often(request: Any, context: Any) -> AsyncIterator[Any]:
        handled.append(kind)
        yield desk.pb2.Answer(text="because")

    async with served(ask=once, tell=once, listen=often, talk=often) as stub:
        for wrong in WRONG:
            with refused() as told:
                await ask_in_every_way(desk, stub, wrong.values[0], kind)
            assert (told.code, told.reason) == (grpc.StatusCode.UNAUTHENTICATED, "APP_TOKEN_REFUSED")
        assert handled == []
        assert await ask_in_every_way(desk, stub, RIGHT, kind) == ["because"]

    assert handled == [kind]
    assert len(log.of(logger="apibase.call", reason="APP_TOKEN_REFUSED")) == len(WRONG)
    assert "hunter2" not in log.text


async def test_an_rpc_that_nobody_wrote_needs_the_token_too(desk: Desk, served: Any) -> None:
    async with served() as stub:
        with refused() as told:
            await stub.Ask(desk.pb2.Question(text="why"))
        assert told.code is grpc.StatusCode.UNAUTHENTICATED
        with refused() as told:
            await stub.Ask(desk.pb2.Question(text="why"), metadata=RIGHT)
        assert told.code is grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize("token", [None, SecretStr("")])
def test_an_app_without_a_token_asks_for_none(token: SecretStr | None) -> None:
    assert AppToken(token).refusal("") is None
    assert AppToken(token).refusal("whatever") is None


@pytest.mark.parametrize("given", ["", "x", "hunter2-é", "hunter2-e ", "HUNTER2-E", "\u0000" * 10_000])
def test_tokens_are_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    compared: list[tuple[bytes, bytes]] = []

    def compare(one: bytes, other: bytes) -> bool:
        compared.append((one, other))
        return hmac_compare(one, other)

    hmac_compare = hmac.compare_digest
    monkeypatch.setattr(hmac, "compare_digest", compare)
    token = AppToken(SecretStr(TOKEN))

    assert token.refusal(given)
    assert token.refusal(TOKEN) is None

    assert len(compared) == 2


async def test_a_whole_app_asks_for_its_token_where_daprd_has_one(
    desk: Desk, settings: Settings, dapr: Any, log: Log
) -> None:
    class DeskService(desk.grpc.DeskServicer):
        async def Ask(self, request: Any, context: Any) -> Any:
            return desk.pb2.Answer(text="because")

    app = App(settings.model_copy(update={"app_api_token": SecretStr(TOKEN)}))
    app.add_servicer(DeskService())
    await app.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{app.port}") as channel:
            stub = desk.grpc.DeskStub(channel)
            with refused() as told:
                await stub.Ask(desk.pb2.Question(text="why"))
            assert told.code is grpc.StatusCode.UNAUTHENTICATED
            assert (await stub.Ask(desk.pb2.Question(text="why"), metadata=RIGHT)).text == "because"
            with refused() as told:
                await rpc(channel, "", "OnBindingEvent")(appcallback_pb2.BindingEventRequest(name="mail"))
            assert told.code is grpc.StatusCode.UNAUTHENTICATED
            await rpc(channel, "", "ListTopicSubscriptions")(Empty())
            await rpc(channel, "HealthCheck", "HealthCheck")(Empty())
            await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
    finally:
        await app.stop()


def test_a_token_may_have_any_characters() -> None:
    token = AppToken(SecretStr("gehört ñ"))

    assert token.refusal("gehört ñ") is None
    assert token.refusal("gehort n")
