"""Who may call an rpc, by the contract and by what the sidecars say of a call."""

from __future__ import annotations

import importlib
import inspect
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from dapr.proto.runtime.v1 import appcallback_pb2, appcallback_pb2_grpc

from apibase import App, ContractError
from apibase.contract import allowed_callers
from apibase.middleware.callers import is_relayed, named_callers
from apibase.routes import RouteTable
from apibase.rpc import rpc_handlers
from tests.unit.app_channels import DROP, SUCCESS, Graveyard, Listener, app_channel
from tests.unit.app_channels import served as served_channel
from tests.unit.chains import chain
from tests.unit.conftest import Desk
from tests.unit.fake_dapr import eventually
from tests.unit.status import refused

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from apibase import Settings
    from tests.unit.conftest import Log

CALLER = "dapr-caller-app-id"


@pytest.fixture(scope="session")
def till(desk: Desk) -> Desk:
    return Desk(importlib.import_module("till.v1.till_pb2"), importlib.import_module("till.v1.till_pb2_grpc"))


@pytest.fixture
async def stub(till: Desk, socket_folder: Path) -> AsyncIterator[Any]:
    """Return a stub of a Till that takes everything, and keeps a list of the methods that were reached."""

    class Till(till.grpc.TillServicer):
        def __init__(self) -> None:
            self.reached: list[str] = []

        def _reached(self) -> Any:
            self.reached.append(inspect.stack()[1].function)
            return till.pb2.Coin()

        async def Take(self, request: Any, context: Any) -> Any:
            return self._reached()

        async def Watch(self, request: Any, context: Any) -> AsyncIterator[Any]:
            yield self._reached()

        async def Fill(self, requests: Any, context: Any) -> Any:
            return self._reached()

        async def Swap(self, requests: Any, context: Any) -> AsyncIterator[Any]:
            yield self._reached()

        async def Count(self, request: Any, context: Any) -> Any:
            return self._reached()

        async def Empty(self, request: Any, context: Any) -> Any:
            return self._reached()

    servicer = Till()
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((rpc_handlers(till.pb2.DESCRIPTOR.services_by_name["Till"], servicer, chain()),))
    server.add_insecure_port(f"unix:{socket_folder}/till.sock")
    await server.start()
    async with grpc.aio.insecure_channel(f"unix:{socket_folder}/till.sock") as channel:
        stub = till.grpc.TillStub(channel)
        stub.reached = servicer.reached
        yield stub
    await server.stop(None)


async def call(till: Desk, stub: Any, method: str, *callers: str) -> None:
    """Make a call of any kind, with these callers in its metadata."""
    descriptor = till.pb2.DESCRIPTOR.services_by_name["Till"].methods_by_name[method]
    request = iter([till.pb2.Coin()]) if descriptor.client_streaming else till.pb2.Coin()
    calling = getattr(stub, method)(request, metadata=tuple((CALLER, caller) for caller in callers), timeout=5)
    if descriptor.server_streaming:
        async for _ in calling:
            pass
    else:
        await calling


async def logged(log: Log) -> dict[str, Any]:
    """Return the call's line, which is written once the caller has its answer."""
    await eventually(lambda: log.of(logger="apibase.call"))
    return log.one(logger="apibase.call")


KINDS = ["Take", "Watch", "Fill", "Swap"]


@pytest.mark.parametrize("method", KINDS)
async def test_an_app_that_the_service_names_may_call(till: Desk, stub: Any, log: Log, method: str) -> None:
    await call(till, stub, method, "shop")

    assert stub.reached == [method]
    assert (await logged(log))["caller"] == "shop"


@pytest.mark.parametrize("method", KINDS)
async def test_any_other_app_is_refused_and_not_told_who_may(till: Desk, stub: Any, log: Log, method: str) -> None:
    with refused() as told:
        await call(till, stub, method, "thief")

    assert stub.reached == []
    assert told.code is grpc.StatusCode.PERMISSION_DENIED
    assert (told.reason, told.domain) == ("CALLER_NOT_ALLOWED", "dapr_contract.v1")
    assert told.metadata == {"caller": "thief", "method": f"till.v1.Till.{method}"}
    assert "shop" not in told.everything
    line = await logged(log)
    assert (line["code"], line["reason"], line["caller"]) == ("PERMISSION_DENIED", "CALLER_NOT_ALLOWED", "thief")


@pytest.mark.parametrize("callers", [("shop", "thief"), ("thief", "shop"), ("", "shop")])
@pytest.mark.parametrize("method", KINDS)
async def test_callers_that_differ_are_refused_whichever_is_last(
    till: Desk, stub: Any, log: Log, method: str, callers: tuple[str, ...]
) -> None:
    with refused() as told:
        await call(till, stub, method, *callers)

    assert stub.reached == []
    assert (told.code, told.reason) == (grpc.StatusCode.PERMISSION_DENIED, "CALLER_NOT_ALLOWED")
    assert told.metadata["caller"] == callers[-1]
    assert (await logged(log))["caller"] == callers[-1]


async def test_a_caller_that_says_twice_who_it_is_may_call(till: Desk, stub: Any) -> None:
    await call(till, stub, "Take", "shop", "shop")

    assert stub.reached == ["Take"]


@pytest.mark.parametrize("callers", [(), ("",)])
async def test_a_call_without_a_caller_is_refused(till: Desk, stub: Any, callers: tuple[str, ...]) -> None:
    with refused() as told:
        await call(till, stub, "Take", *callers)

    assert stub.reached == []
    assert (told.code, told.reason) == (grpc.StatusCode.PERMISSION_DENIED, "CALLER_NOT_ALLOWED")
    assert told.metadata["caller"] == ""


@pytest.mark.parametrize(
    ("method", "caller", "may"),
    [
        ("Count", "audit", True),
        ("Count", "shop", True),
        ("Take", "audit", False),
        ("Count", "thief", False),
        ("Empty", "shop", False),
        ("Take", "SHOP", False),
        ("Take", "shop ", False),
        ("Take", "shop,thief", False),
    ],
)
async def test_what_an_rpc_says_itself_goes_before_what_its_service_says(
    till: Desk, stub: Any, method: str, caller: str, may: bool
) -> None:
    if may:
        await call(till, stub, method, caller)
    else:
        with refused() as told:
            await call(till, stub, method, caller)
        assert told.code is grpc.StatusCode.PERMISSION_DENIED

    assert stub.reached == ([method] if may else [])


async def test_a_caller_of_any_length_still_gets_its_answer(till: Desk, stub: Any) -> None:
    with refused() as told:
        await call(till, stub, "Take", "x" * 5000)

    assert (told.code, told.reason) == (grpc.StatusCode.PERMISSION_DENIED, "CALLER_NOT_ALLOWED")
    assert told.metadata["caller"] == "x" * 100


def test_without_the_options_any_app_may_call(desk: Desk) -> None:
    (ask, *_) = desk.pb2.DESCRIPTOR.services_by_name["Desk"].methods

    assert allowed_callers(ask) is None


def test_only_text_under_the_header_names_a_caller() -> None:
    assert named_callers(None) == ()
    metadata = ((CALLER, "a"), ("other", "b"), (CALLER, "c"), (f"{CALLER}-bin", b"d"))
    assert named_callers(metadata) == ("a", "c")


@pytest.mark.parametrize(
    ("service", "said"),
    [
        (
            "ListenersWithCallers",
            "till.v1.ListenersWithCallers names callers of listeners; only the sidecar calls a listener, so take callers away",
        ),
        (
            "ListenerWithCallers",
            (
                "till.v1.ListenerWithCallers.OnCoin names callers of listeners; only the sidecar calls a listener, so take "
                "method_callers away"
            ),
        ),
        (
            "EmptyCaller",
            "till.v1.EmptyCaller.Take: option (dapr_contract.v1.method_callers) has an empty app id; name the app",
        ),
        (
            "CallerTwice",
            "till.v1.CallerTwice: option (dapr_contract.v1.callers) names shop more than once; once will do",
        ),
    ],
)
async def test_a_contradiction_stops_the_start_and_names_its_line(
    till: Desk, settings: Settings, service: str, said: str
) -> None:
    app = App(settings)
    servicer = type("Servicer", (getattr(till.grpc, f"{service}Servicer"),), {"OnCoin": None, "Take": None})()
    with pytest.raises(ContractError) as caught:
        app.add_servicer(servicer)
    await app.stop()

    place, _, problem = str(caught.value).partition(": ")
    assert problem == said
    file, _, line = place.partition(":")
    assert file == "till/v1/till.proto"
    assert int(line) > 30


async def test_named_callers_are_not_lost_on_an_external_service(till: Desk, settings: Settings) -> None:
    app = App(settings)
    with pytest.raises(
        ContractError, match=r"^till\.v1\.Till names callers, which nobody checks here; add it with add_"
    ):
        app.add_external_service(till.grpc.add_TillServicer_to_server, till.grpc.TillServicer())
    await app.stop()


# What only the app's own sidecar brings, called by an app through the sidecars: daprd relays it like any rpc.

RELAYED = ((CALLER, "thief"), ("dapr-callee-app-id", "desk"))


@pytest.fixture
def listener() -> Listener:
    return Listener()


@pytest.fixture
async def channel(desk: Desk, listener: Listener, socket_folder: Path) -> AsyncIterator[grpc.aio.Channel]:
    routes = RouteTable()
    routes.add(listener.implement(desk, "DeskEvents"))
    async with served_channel(app_channel(routes, Graveyard()), socket_folder) as channel:
        yield channel


def event() -> Any:
    return appcallback_pb2.TopicEventRequest(
        id="1",
        source="shop",
        type="desk.v1.Asked",
        pubsub_name="events",
        topic="desk",
        data=b'{"text": "why"}',
        data_content_type="application/json",
    )


async def test_an_app_cannot_bring_an_event_as_if_it_were_the_sidecar(
    channel: grpc.aio.Channel, listener: Listener, log: Log
) -> None:
    daprd = appcallback_pb2_grpc.AppCallbackStub(channel)

    assert (await daprd.OnTopicEvent(event(), metadata=RELAYED)).status == DROP
    batch = appcallback_pb2.TopicEventBulkRequest(
        pubsub_name="events", topic="desk", entries=[{"entry_id": "e", "bytes": b"{}", "content_type": "text/plain"}]
    )
    alpha = appcallback_pb2_grpc.AppCallbackAlphaStub(channel)
    for bring in (daprd.OnBulkTopicEvent, alpha.OnBulkTopicEventAlpha1):
        assert [each.status for each in (await bring(batch, metadata=RELAYED)).statuses] == [DROP]

    assert listener.got == []
    warnings = log.of(level="WARNING", logger="apibase.middleware.callers")
    assert [line["caller"] for line in warnings] == ["thief"] * 3


async def test_an_app_cannot_run_a_binding_or_a_job_as_if_it_were_the_sidecar(
    channel: grpc.aio.Channel, listener: Listener
) -> None:
    daprd = appcallback_pb2_grpc.AppCallbackStub(channel)
    alpha = appcallback_pb2_grpc.AppCallbackAlphaStub(channel)
    job = appcallback_pb2.JobEventRequest(name="nightly")
    calls = (
        (daprd.OnBindingEvent, appcallback_pb2.BindingEventRequest(name="tick")),
        (daprd.OnJobEvent, job),
        (alpha.OnJobEventAlpha1, job),
    )
    for bring, request in calls:
        with refused() as told:
            await bring(request, metadata=RELAYED)
        assert (told.code, told.reason) == (grpc.StatusCode.PERMISSION_DENIED, "CALLER_NOT_ALLOWED")

    assert listener.got == []


async def test_what_the_sidecar_brings_is_handled(channel: grpc.aio.Channel, listener: Listener) -> None:
    daprd = appcallback_pb2_grpc.AppCallbackStub(channel)

    assert (await daprd.OnTopicEvent(event(), metadata=(("traceparent", "x"),))).status == SUCCESS
    assert [name for name, _, _ in listener.got] == ["OnAsked"]


def test_a_call_is_relayed_by_any_of_the_headers_that_daprd_relays_with() -> None:
    assert not is_relayed({"traceparent": "x", "dapr-api-token": "t"})
    for header in (CALLER, "dapr-callee-app-id"):
        assert is_relayed({header: ""})
