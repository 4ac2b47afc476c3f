"""Methods that are invoked by name: who answers, what the handler is told, what an error becomes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from dapr.proto import common_v1
from dapr.proto.runtime.v1 import appcallback_pb2_grpc
from google.protobuf.any_pb2 import Any as AnyMessage

from apibase import Drop, InvalidRequest, Retry, ServiceError, SidecarUnavailable
from apibase.deadline import deadline
from apibase.errors import FieldViolation
from apibase.invocation import Answer
from apibase.observability import trace_ids
from apibase.routes import Incoming, Route, RouteTable
from tests.unit.app_channels import app_channel, served
from tests.unit.conftest import Log
from tests.unit.fake_dapr import eventually
from tests.unit.status import refused

TRACEPARENT = f"00-{'ab' * 16}-{'cd' * 8}-01"


class Method:
    """The handler of the method "ask"."""

    def __init__(self) -> None:
        self.got: list[Incoming] = []
        self.do: Callable[[], Awaitable[object]] | None = None

    async def handle(self, incoming: Incoming, _event: Any) -> object:
        self.got.append(incoming)
        return await self.do() if self.do is not None else None


@pytest.fixture
def method() -> Method:
    return Method()


@pytest.fixture
async def daprd(method: Method, socket_folder: Path, log: Log) -> AsyncIterator[Any]:
    routes = RouteTable()
    routes.add_method("ask", Route("ask", method.handle))
    async with served(app_channel(routes), socket_folder) as channel:
        yield appcallback_pb2_grpc.AppCallbackStub(channel)


def invoke(method: str = "ask", data: bytes = b"why", content_type: str = "text/plain") -> common_v1.InvokeRequest:
    return common_v1.InvokeRequest(method=method, data=AnyMessage(value=data), content_type=content_type)


async def test_a_method_is_told_the_data_and_who_calls(daprd: Any, method: Method, log: Log) -> None:
    seen: list[tuple[str, float | None]] = []

    async def look() -> None:
        seen.append((trace_ids()[0], deadline.bound(None)))

    method.do = look
    headers = (
        ("dapr-caller-app-id", "forged"),
        ("dapr-caller-app-id", "shop"),
        ("traceparent", TRACEPARENT),
        ("grpc-trace-bin", b"\x00\x01"),
    )

    await daprd.OnInvoke(invoke(), metadata=headers, timeout=30)

    (incoming,) = method.got
    assert (incoming.data, incoming.request) == (b"why", invoke())
    assert (incoming.event.kind, incoming.event.source, incoming.event.content_type) == ("method", "shop", "text/plain")
    assert "grpc-trace-bin" not in incoming.event.headers
    assert seen == [("ab" * 16, pytest.approx(30, abs=1))]
    line = log.one(logger="apibase.call")
    assert (line["method"], line["code"], line["caller"], line["trace_id"]) == ("ask", "OK", "shop", "ab" * 16)


async def test_an_answer_goes_back_as_it_is_with_its_headers(daprd: Any, method: Method) -> None:
    response = common_v1.InvokeResponse(data=AnyMessage(value=b"because"), content_type="text/plain")

    async def answer() -> Answer:
        return Answer(response, (("x-desk", "7"),))

    method.do = answer
    call = daprd.OnInvoke(invoke())

    assert await call == response
    assert ("x-desk", "7") in tuple(await call.initial_metadata())


async def test_a_method_without_an_answer_answers_with_nothing(daprd: Any, method: Method) -> None:
    assert await daprd.OnInvoke(invoke()) == common_v1.InvokeResponse()


@pytest.mark.parametrize("name", ["", "Ask", "ask ", "ask/more", "../ask", "é" * 5_000, "x\x00", "{0}{name}%s"])
async def test_a_method_that_the_app_does_not_have_is_unimplemented(daprd: Any, method: Method, name: str) -> None:
    with refused() as told:
        await daprd.OnInvoke(invoke(name))

    assert (told.code, told.reason) == (grpc.StatusCode.UNIMPLEMENTED, "NO_SUCH_METHOD")
    assert method.got == []


@pytest.mark.parametrize(
    ("error", "code", "reason", "told_text"),
    [
        pytest.param(ServiceError(grpc.StatusCode.NOT_FOUND, "NO_DESK", "no desk"), "NOT_FOUND", "NO_DESK", True),
        pytest.param(InvalidRequest([FieldViolation("text", "is rude")]), "INVALID_ARGUMENT", "INVALID_REQUEST", True),
        pytest.param(SidecarUnavailable("hunter2"), "UNAVAILABLE", "SIDECAR_UNAVAILABLE", False),
        pytest.param(RuntimeError("hunter2"), "INTERNAL", "INTERNAL", False),
        pytest.param(Drop("hunter2"), "INTERNAL", "INTERNAL", False, id="Drop, which is for events"),
        pytest.param(Retry("hunter2"), "INTERNAL", "INTERNAL", False, id="Retry, which is for events"),
    ],
)
async def test_a_methods_error_goes_to_its_caller_as_that_of_an_rpc(
    daprd: Any, method: Method, log: Log, error: Exception, code: str, reason: str, told_text: bool
) -> None:
    async def fail() -> None:
        raise error

    method.do = fail
    with refused() as told:
        await daprd.OnInvoke(invoke())

    assert (told.code.name, told.reason) == (code, reason)
    assert ("hunter2" in told.everything) is False
    assert log.one(logger="apibase.call")["code"] == code
    if told_text and isinstance(error, ServiceError):
        assert told.message == error.message
    else:
        assert log.one(error_id=told.metadata["error_id"])["error"]["type"] == type(error).__name__


async def test_a_caller_that_leaves_ends_the_handler_and_the_next_one_is_served(
    daprd: Any, method: Method, log: Log
) -> None:
    at_work, ended = asyncio.Event(), asyncio.Event()

    async def wait() -> None:
        at_work.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    method.do = wait
    call = daprd.OnInvoke(invoke())
    await at_work.wait()
    call.cancel()
    await asyncio.wait_for(ended.wait(), 5)

    method.do = None
    assert await daprd.OnInvoke(invoke()) == common_v1.InvokeResponse()
    await eventually(lambda: log.of(logger="apibase.call", code="CANCELLED"))
    # grpc.aio's own poller logs an error through asyncio now and then.
    assert [line for line in log.of(level="ERROR") if line["logger"] != "asyncio"] == []
