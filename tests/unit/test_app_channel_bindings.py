"""Events of input bindings: what a handler gets, and what goes back to the component."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from dapr.proto.runtime.v1 import appcallback_pb2, appcallback_pb2_grpc
from google.protobuf.empty_pb2 import Empty

from apibase import Drop, Retry, ServiceError, SidecarUnavailable
from apibase.observability import trace_ids
from apibase.routes import RouteTable
from tests.unit.app_channels import app_channel
from tests.unit.status import refused

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.unit.conftest import Desk, Log


@pytest.fixture
def grpc_add_to_server() -> Any:
    return appcallback_pb2_grpc.add_AppCallbackServicer_to_server


@pytest.fixture
def grpc_stub_cls() -> Any:
    return appcallback_pb2_grpc.AppCallbackStub


class Listener:
    """What the handlers got, and what they raise."""

    def __init__(self) -> None:
        self.got: list[tuple[Any, Any]] = []
        self.error: BaseException | None = None
        self.trace = ""

    async def handle(self, request: Any, context: Any) -> Empty:
        self.got.append((request, context))
        self.trace = trace_ids()[0]
        if self.error is not None:
            raise self.error
        return Empty()


@pytest.fixture
def listener() -> Listener:
    return Listener()


@pytest.fixture
async def daprd(desk: Desk, listener: Listener, grpc_aio_stub: Any, log: Log) -> AsyncIterator[Any]:
    """Return the app as daprd sees it."""
    methods = desk.pb2.DESCRIPTOR.services_by_name["DeskEvents"].methods_by_name
    handlers = {name: lambda _self, request, context: listener.handle(request, context) for name in methods}
    routes = RouteTable()
    routes.add(type("Events", (desk.grpc.DeskEventsServicer,), handlers)())
    async with grpc_aio_stub(servicer=app_channel(routes)) as stub:
        yield stub


def event(name: str = "mail", data: bytes = b'{"text": "why"}', **metadata: str) -> appcallback_pb2.BindingEventRequest:
    return appcallback_pb2.BindingEventRequest(name=name, data=data, metadata=metadata)


async def test_daprd_is_told_the_bindings(daprd: Any) -> None:
    assert list((await daprd.ListInputBindings(Empty())).bindings) == ["mail", "tick"]


@pytest.mark.req("R6.1")
async def test_a_handler_gets_the_message_and_the_components_metadata(
    desk: Desk, daprd: Any, listener: Listener, log: Log
) -> None:
    await daprd.OnBindingEvent(
        event(__offset="7", __partition="2"), metadata=(("traceparent", f"00-{'ab' * 16}-{'cd' * 8}-01"),)
    )

    ((message, context),) = listener.got
    assert message == desk.pb2.Question(text="why")
    assert (context.kind, context.source) == ("binding", "mail")
    assert context.metadata == {"__offset": "7", "__partition": "2"}
    assert listener.trace == "ab" * 16
    line = log.one(logger="apibase.event")
    assert (line["code"], line["source"], line["trace_id"]) == ("OK", "mail", "ab" * 16)


@pytest.mark.parametrize("data", [b"", b"2026-01-01", b"{}"])
async def test_a_handler_of_empty_takes_any_data(daprd: Any, listener: Listener, data: bytes) -> None:
    await daprd.OnBindingEvent(event("tick", data))

    assert listener.got[0][0] == Empty()


async def test_a_binding_that_nobody_listens_to_is_not_found(daprd: Any, listener: Listener) -> None:
    with refused() as told:
        await daprd.OnBindingEvent(event("post"))

    assert told.code is grpc.StatusCode.NOT_FOUND
    assert "'post'" in told.message
    assert listener.got == []


async def test_an_error_goes_back_to_the_component_with_its_status(daprd: Any, listener: Listener, log: Log) -> None:
    listener.error = ServiceError(
        grpc.StatusCode.RESOURCE_EXHAUSTED, "FULL", "the desk is full", metadata={"desk": "7"}
    )

    with refused() as told:
        await daprd.OnBindingEvent(event())

    assert (told.code, told.message) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "the desk is full")
    assert (told.reason, told.domain, told.metadata) == ("FULL", "desk.v1", {"desk": "7"})
    line = log.one(logger="apibase.event")
    assert (line["code"], line["level"]) == ("RESOURCE_EXHAUSTED", "WARNING")


async def test_an_event_that_asks_for_another_delivery_fails_without_a_stack(
    daprd: Any, listener: Listener, log: Log
) -> None:
    listener.error = Retry("not yet")

    with refused() as told:
        await daprd.OnBindingEvent(event())

    assert (told.code, told.reason, told.message) == (grpc.StatusCode.ABORTED, "RETRY", "not yet")
    assert log.of(level="ERROR") == []


@pytest.mark.parametrize(
    ("error", "code"),
    [
        pytest.param(RuntimeError("hunter2"), "INTERNAL", id="unexpected"),
        pytest.param(SidecarUnavailable("hunter2"), "UNAVAILABLE", id="no sidecar"),
        pytest.param(asyncio.CancelledError("hunter2"), "INTERNAL", id="a cancellation of its own making"),
    ],
)
async def test_what_breaks_within_a_handler_is_told_without_inner_text(
    daprd: Any, listener: Listener, log: Log, error: BaseException, code: str
) -> None:
    listener.error = error

    with refused() as told:
        await daprd.OnBindingEvent(event(), timeout=5)

    assert told.code.name == code
    assert "hunter2" not in told.everything
    assert log.one(error_id=told.metadata["error_id"])["error"]["type"] == type(error).__name__


@pytest.mark.parametrize("data", [b"", b"no JSON", b"[]"])
async def test_data_that_is_no_message_is_dropped_so_that_it_holds_up_nothing(
    daprd: Any, listener: Listener, log: Log, data: bytes
) -> None:
    await daprd.OnBindingEvent(event(data=data))

    assert listener.got == []
    assert "is no desk.v1.Question" in log.one(level="WARNING")["message"]


async def test_an_event_that_a_handler_drops_is_done_with(daprd: Any, listener: Listener, log: Log) -> None:
    listener.error = Drop("nobody wants it")

    await daprd.OnBindingEvent(event())

    assert "nobody wants it" in log.one(level="WARNING")["message"]


async def test_data_that_breaks_the_contract_is_done_with_and_its_violations_are_logged(
    daprd: Any, listener: Listener, log: Log
) -> None:
    await daprd.OnBindingEvent(event(data=b'{"text": ""}'))

    assert listener.got == []
    said = log.one(level="WARNING")["message"]
    assert "INVALID_REQUEST" in said
    assert "text: must be at least 1 characters" in said
    assert log.one(logger="apibase.event")["code"] == "OK"
