"""Handlers without a contract, by the SDK's decorators: methods, bindings, jobs, and where handlers run."""

from __future__ import annotations

import asyncio
import functools
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import dapr.ext.grpc as sdk
import grpc
import pytest
from dapr.ext.grpc._servicer import _CallbackServicer
from dapr.proto.common.v1 import common_pb2
from dapr.proto.runtime.v1 import appcallback_pb2
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.empty_pb2 import Empty
from google.protobuf.wrappers_pb2 import BytesValue, StringValue

import apibase
from apibase import (
    App,
    BindingRequest,
    ContractError,
    InvokeMethodRequest,
    InvokeMethodResponse,
    JobEvent,
    ServiceError,
)
from apibase.deadline import deadline
from apibase.observability import trace_ids
from tests.unit.decorated import started
from tests.unit.status import refused

if TYPE_CHECKING:
    from apibase import Settings
    from tests.unit.conftest import Log
    from tests.unit.fake_dapr import FakeDapr

TRACE = "ab" * 16
HEADERS = (
    ("traceparent", f"00-{TRACE}-{'cd' * 8}-01"),
    ("colour", "red"),
    ("colour", "blue"),
    ("key-bin", b"\x00\xff"),
)

pytestmark = pytest.mark.usefixtures("dapr", "log")


@pytest.fixture
def app(settings: Settings) -> App:
    return App(settings)


def call(method: str = "m", data: bytes = b"hi", content_type: str = "text/plain") -> common_pb2.InvokeRequest:
    return common_pb2.InvokeRequest(method=method, data=AnyMessage(value=data), content_type=content_type)


def test_every_name_that_the_sdk_exports_can_be_imported_from_here() -> None:
    for name in sdk.__all__:
        assert name in apibase.__all__
        if name not in {"App", "Rule"}:
            assert getattr(apibase, name) is getattr(sdk, name)
    assert vars(apibase.Rule("event.size > 1", 2)) == vars(sdk.Rule("event.size > 1", 2))


@pytest.mark.req("R2.4")
async def test_a_method_gets_the_request_with_all_its_headers(app: App) -> None:
    got: list[InvokeMethodRequest] = []

    @app.method("m")
    async def handler(request: InvokeMethodRequest) -> None:
        got.append(request)

    async with started(app) as daprd:
        answer = await daprd.app.OnInvoke(call(), metadata=(*HEADERS, ("dapr-api-token", "hunter2")))
        packed = AnyMessage()
        packed.Pack(StringValue(value="why"))
        await daprd.app.OnInvoke(common_pb2.InvokeRequest(method="m", data=packed))

    plain, message = got
    assert (plain.data, plain.text(), plain.content_type, plain.is_proto()) == (b"hi", "hi", "text/plain", False)
    assert {key: plain.metadata[key] for key in ("colour", "key-bin")} == {
        "colour": ["red", "blue"],
        "key-bin": [b"\x00\xff"],
    }
    assert "dapr-api-token" not in plain.metadata
    assert answer == common_pb2.InvokeResponse()
    unpacked = StringValue()
    message.unpack(unpacked)
    assert unpacked.value == "why"


@pytest.mark.parametrize(
    "returned",
    [
        pytest.param('{"a": 1}', id="text"),
        pytest.param(b"\x00", id="bytes"),
        pytest.param(StringValue(value="why"), id="a message"),
        pytest.param(AnyMessage(type_url="t", value=b"v"), id="a packed message"),
        pytest.param(InvokeMethodResponse("hi", "text/plain"), id="a response"),
        pytest.param(InvokeMethodResponse(b"hi"), id="a response without a type"),
        pytest.param(InvokeMethodResponse(StringValue(value="why")), id="a response with a message"),
        pytest.param(InvokeMethodResponse(), id="an empty response"),
        pytest.param(None, id="nothing"),
        pytest.param("", id="no text"),
        pytest.param(0, id="a zero"),
    ],
)
async def test_a_method_is_answered_as_the_sdk_answers_it(app: App, returned: object) -> None:
    @app.method("m")
    async def handler(request: InvokeMethodRequest) -> object:
        return returned

    theirs = _CallbackServicer()
    theirs.register_method("m", lambda request: returned)
    context = SimpleNamespace(invocation_metadata=lambda: ())

    async with started(app) as daprd:
        assert await daprd.app.OnInvoke(call()) == theirs.OnInvoke(call(), context)


@pytest.mark.parametrize(
    "returned",
    [StringValue(value="why"), InvokeMethodResponse(StringValue(value="why"))],
    ids=["bare", "in a response"],
)
async def test_a_message_is_answered_as_a_message(app: App, returned: object) -> None:
    @app.method("m")
    def handler(request: InvokeMethodRequest) -> object:
        return returned

    async with started(app) as daprd:
        answer = await daprd.app.OnInvoke(call())

    message = StringValue()
    assert answer.data.Unpack(message)
    assert message.value == "why"


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param((("Colour", "red"), ("colour", "blue"), ("key-bin", b"\x00\xff")), id="pairs"),
        pytest.param([["colour", "red"], ["colour", "blue"], ["key-bin", b"\x00\xff"]], id="lists"),
        pytest.param(("colour", "red"), id="one pair"),
        pytest.param({"colour": "red"}, id="a dict"),
    ],
)
async def test_the_headers_of_a_response_reach_the_caller(app: App, headers: Any) -> None:
    @app.method("m")
    async def handler(request: InvokeMethodRequest) -> InvokeMethodResponse:
        response = InvokeMethodResponse("hi", "text/plain")
        response.headers = headers
        return response

    async with started(app) as daprd:
        rpc = daprd.app.OnInvoke(call())
        got = [tuple(pair) for pair in await rpc.initial_metadata() if pair[0] in {"colour", "key-bin"}]
        await rpc

    assert got[0] == ("colour", "red")
    assert got[1:] in ([], [("colour", "blue"), ("key-bin", b"\x00\xff")])


@pytest.mark.parametrize(
    "headers", [(("a b", "c"),), (("a", "ü"),), (("a", "b\n"),), (("a", b"b"),), (("a-bin", "b"),), (("a", "b", "c"),)]
)
async def test_headers_that_grpc_would_choke_on_are_an_error_in_the_log(app: App, log: Log, headers: Any) -> None:
    @app.method("m")
    async def handler(request: InvokeMethodRequest) -> InvokeMethodResponse:
        return InvokeMethodResponse("hi", headers=headers)

    async with started(app) as daprd:
        with refused() as told:
            await daprd.app.OnInvoke(call())

    assert told.code is grpc.StatusCode.INTERNAL
    assert log.one(error_id=told.metadata["error_id"])["error"]["type"] in {"ValueError", "TypeError"}


@pytest.mark.parametrize(
    ("outcome", "code", "reason"),
    [
        pytest.param(7, grpc.StatusCode.OUT_OF_RANGE, "INVALID_RETURN_TYPE", id="a number returned"),
        pytest.param({"a": 1}, grpc.StatusCode.OUT_OF_RANGE, "INVALID_RETURN_TYPE", id="a dict returned"),
        pytest.param(
            ServiceError(grpc.StatusCode.NOT_FOUND, "NO_DESK", "there is none"),
            grpc.StatusCode.NOT_FOUND,
            "NO_DESK",
            id="an error of the service",
        ),
        pytest.param(RuntimeError("hunter2"), grpc.StatusCode.INTERNAL, "INTERNAL", id="unexpected"),
        pytest.param(StopIteration("hunter2"), grpc.StatusCode.INTERNAL, "INTERNAL", id="what asyncio can't carry"),
    ],
)
@pytest.mark.parametrize("plain", [False, True], ids=["async def", "def"])
async def test_an_error_of_a_method_is_a_status(
    app: App, log: Log, outcome: object, code: grpc.StatusCode, reason: str, plain: bool
) -> None:
    def act(request: InvokeMethodRequest) -> object:
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    async def act_on_loop(request: InvokeMethodRequest) -> object:
        return act(request)

    app.method("m")(act if plain else act_on_loop)
    async with started(app) as daprd:
        with refused() as told:
            await daprd.app.OnInvoke(call(), timeout=5)

    assert (told.code, told.reason) == (code, reason)
    assert "hunter2" not in told.everything
    assert log.one(logger="apibase.call")["code"] == code.name


async def test_a_method_that_nobody_registered_is_unimplemented(app: App) -> None:
    async with started(app) as daprd:
        with refused() as told:
            await daprd.app.OnInvoke(call("other"))

    assert (told.code, told.reason) == (grpc.StatusCode.UNIMPLEMENTED, "NO_SUCH_METHOD")


@pytest.mark.req("R6.1")
async def test_a_binding_gets_the_components_metadata_apart_from_the_headers(app: App) -> None:
    got: list[BindingRequest] = []

    @app.binding("mail")
    async def handler(request: BindingRequest) -> str:
        got.append(request)
        return "not used"

    async with started(app) as daprd:
        assert list((await daprd.app.ListInputBindings(Empty())).bindings) == ["mail"]
        event = appcallback_pb2.BindingEventRequest(name="mail", data=b"hi", metadata={"__offset": "7"})
        assert await daprd.app.OnBindingEvent(event, metadata=HEADERS) == appcallback_pb2.BindingEventResponse()
        with refused() as told:
            await daprd.app.OnBindingEvent(appcallback_pb2.BindingEventRequest(name="post"))

    (request,) = got
    assert (request.data, request.text(), request.binding_metadata) == (b"hi", "hi", {"__offset": "7"})
    assert request.metadata["colour"] == ["red", "blue"]
    assert told.code is grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize("stable", [True, False], ids=["the stable method", "the one that Dapr 1.14 calls"])
async def test_a_job_gets_its_name_and_its_data(app: App, stable: bool) -> None:
    got: list[JobEvent] = []

    @app.job_event("tidy")
    def handler(event: JobEvent) -> None:
        got.append(event)

    async with started(app) as daprd:
        run = daprd.app.OnJobEvent if stable else daprd.alpha.OnJobEventAlpha1
        packed = AnyMessage()
        packed.Pack(BytesValue(value=b"hi"))
        for data in (AnyMessage(value=b'{"a": 1}'), packed, None):
            await run(appcallback_pb2.JobEventRequest(name="tidy", method="job/tidy", data=data))
        with refused() as told:
            await run(appcallback_pb2.JobEventRequest(name="other"))

    assert [(event.name, event.data) for event in got] == [
        ("tidy", b'{"a": 1}'),
        ("tidy", BytesValue(value=b"hi").SerializeToString()),
        ("tidy", b""),
    ]
    assert got[0].get_data_as_string() == '{"a": 1}'
    assert told.code is grpc.StatusCode.NOT_FOUND, "which the scheduler takes for done"


colour: ContextVar[str] = ContextVar("colour", default="none")


class Callable:
    """An object with a handler's signature."""

    def __init__(self, seen: list[Any]) -> None:
        self.seen = seen

    async def __call__(self, request: InvokeMethodRequest) -> None:
        self.seen.append(threading.current_thread())

    def plain(self, request: InvokeMethodRequest) -> None:
        self.seen.append(threading.current_thread())


async def test_a_plain_function_runs_in_a_thread_and_a_coroutine_on_the_loop(app: App) -> None:
    seen: list[Any] = []
    there = Callable(seen)

    async def coroutine(extra: int, request: InvokeMethodRequest) -> None:
        seen.append(threading.current_thread())

    def awaitable(request: InvokeMethodRequest) -> Any:
        return there(request)

    handlers = [there, functools.partial(coroutine, 1), there.plain, functools.partial(there.plain), awaitable]
    for number, handler in enumerate(handlers):
        assert app.method(f"m{number}")(handler) is handler
    async with started(app) as daprd:
        for number in range(len(handlers)):
            await daprd.app.OnInvoke(call(f"m{number}"))

    here = threading.current_thread()
    assert [thread is here for thread in seen] == [True, True, False, False, True]


async def test_context_variables_come_along_into_the_thread(app: App) -> None:
    seen: list[Any] = []

    @app.method("m")
    def handler(request: InvokeMethodRequest) -> None:
        seen.append((trace_ids()[0], deadline.bound(None)))
        colour.set("green")

    async with started(app) as daprd:
        await daprd.app.OnInvoke(call(), metadata=HEADERS, timeout=30)

    assert seen == [(TRACE, pytest.approx(30, abs=1))]
    assert colour.get() == "none"


async def test_functions_that_wait_hold_up_neither_the_loop_nor_each_other(settings: Settings) -> None:
    with ThreadPoolExecutor(20, thread_name_prefix="desk") as pool:
        app = App(settings, thread_pool=pool)
        together = threading.Barrier(20)
        names: set[str] = set()

        @app.method("wait")
        def handler(request: InvokeMethodRequest) -> None:
            names.add(threading.current_thread().name.split("_")[0])
            together.wait(5)

        @app.method("ask")
        async def answer(request: InvokeMethodRequest) -> str:
            return "here"

        async with started(app) as daprd:
            waiting = [asyncio.ensure_future(daprd.app.OnInvoke(call("wait"), timeout=10)) for _ in range(19)]
            assert (await daprd.app.OnInvoke(call("ask"), timeout=2)).data.value == b"here"
            await asyncio.gather(*waiting, daprd.app.OnInvoke(call("wait"), timeout=10))
        assert names == {"desk"}


@pytest.mark.parametrize("register", ["method", "binding", "job_event"])
def test_two_handlers_of_one_name_are_refused_with_their_places(app: App, register: str) -> None:
    def handler(request: Any) -> None: ...

    getattr(app, register)("m")(handler)
    with pytest.raises(
        ValueError, match=r"test_decorators\.py:\d+: handler and .*test_decorators\.py:\d+: handler"
    ) as told:
        getattr(app, register)("m")(handler)

    assert isinstance(told.value, ContractError)


def test_a_generator_is_no_handler(app: App) -> None:
    def plain(request: Any) -> Any:
        yield

    async def coroutine(request: Any) -> Any:
        yield

    for handler in (plain, coroutine):
        with pytest.raises(TypeError, match="is a generator"):
            app.method("m")(handler)


async def test_port_and_address_win_over_the_settings(settings: Settings, dapr: FakeDapr) -> None:
    app = App(settings.model_copy(update={"app_port": 1, "app_host": "256.0.0.1"}))
    await app.start(0, "127.0.0.1")
    assert app.port > 1
    await app.stop()


async def test_the_sdks_arguments_of_a_constructor_are_taken(settings: Settings) -> None:
    assert App(5000).settings.max_message_bytes == 5000
    app = App(
        settings,
        max_grpc_message_length=5000,
        options=[("grpc.max_receive_message_length", 6000)],
        maximum_concurrent_rpcs=10,
        compression=grpc.Compression.Gzip,
    )
    app.method("m")(lambda request: json.dumps(len(request.data)))
    async with started(app) as daprd:
        assert (await daprd.app.OnInvoke(call(data=b"x" * 5500))).data.value == b"5500"
        with refused() as told:
            await daprd.app.OnInvoke(call(data=b"x" * 6500))
    assert told.code is grpc.StatusCode.RESOURCE_EXHAUSTED

    with pytest.raises(TypeError, match="App takes no handlers"):
        App(handlers=[])  # type: ignore[call-arg]


async def test_an_event_above_grpcs_own_limit_is_told_by_itself(settings: Settings) -> None:
    app = App(settings, options=[("grpc.max_receive_message_length", 6000)])
    got: list[apibase.SubscriptionMessage] = []

    @app.subscribe("events", "desk")
    async def handle(event: apibase.SubscriptionMessage) -> None:
        got.append(event)

    async with started(app) as daprd:
        event = appcallback_pb2.TopicEventRequest(topic="desk", pubsub_name="events", data=b"x" * 6500)
        answer = await daprd.app.OnTopicEvent(event)
    assert answer.status == appcallback_pb2.TopicEventResponse.DROP
    assert got == []


async def test_a_health_check_of_the_apps_own_is_asked_by_every_probe(app: App, log: Log) -> None:
    error: list[Exception] = []

    def check() -> None:
        if error:
            raise error[0]

    assert app.register_health_check(check) is check
    async with started(app) as daprd:
        await daprd.health.HealthCheck(Empty())
        assert await daprd.status() == 1

        error.append(RuntimeError("no database"))
        for _ in range(3):
            with refused() as told:
                await daprd.health.HealthCheck(Empty())
            assert (told.code, told.message) == (grpc.StatusCode.UNAVAILABLE, "the app's own health check fails")
        assert not app.health.ready
        assert await daprd.status() == 2
        assert log.one(level="WARNING")["error"]["message"] == "no database"

        error.clear()
        assert await daprd.status() == 1
        await daprd.health.HealthCheck(Empty())


async def test_a_health_check_is_not_asked_before_the_sidecar_has_come(app: App) -> None:
    app.register_health_check(lambda: pytest.fail("asked"))
    await app.health.probe()
    assert app.health.reason == "starting"

    with pytest.raises(ValueError, match="none was given"):
        app.register_health_check(None)  # type: ignore[type-var]


async def test_a_health_check_does_not_wait_for_handlers(app: App) -> None:
    may_end = threading.Event()
    app.method("wait")(lambda request: may_end.wait(5) and None)
    app.register_health_check(lambda: None)
    async with started(app) as daprd:
        waiting = [asyncio.ensure_future(daprd.app.OnInvoke(call("wait"), timeout=10)) for _ in range(30)]
        try:
            await daprd.health.HealthCheck(Empty(), timeout=2)
        finally:
            may_end.set()
        await asyncio.gather(*waiting)
