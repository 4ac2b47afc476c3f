"""The route table: what is filled in, what is found, and what two handlers may not both claim."""

from __future__ import annotations

import asyncio
import importlib
import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from google.protobuf.empty_pb2 import Empty

from apibase import App, ContractError, Settings
from apibase.routes import RouteTable
from tests.unit.app_channels import topic_event

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.unit.conftest import Desk


@pytest.fixture
def events(desk: Desk) -> type:
    class DeskEvents(desk.grpc.DeskEventsServicer):
        async def OnAsked(self, request: Any, context: Any) -> None: ...

        async def OnAnswered(self, request: Any, context: Any) -> None: ...

        async def OnMail(self, request: Any, context: Any) -> None: ...

        async def OnTick(self, request: Any, context: Any) -> None: ...

    return DeskEvents


@pytest.fixture
def clash(desk: Desk) -> Callable[[str], object]:
    """Return a function from the name of a service of clash/v1/clash.proto to an implementation of it."""
    module = importlib.import_module("clash.v1.clash_pb2_grpc")

    async def handler(self: Any, request: Any, context: Any) -> None: ...

    def implement(name: str) -> object:
        base = getattr(module, f"{name}Servicer")
        return type(name, (base,), {method: handler for method in vars(base) if method.startswith("On")})()

    return implement


def test_listeners_are_found_by_where_and_what_they_listen_to(desk: Desk, events: type) -> None:
    routes = RouteTable()

    assert routes.add(events()) == 4

    asked = routes.topic(topic_event(), "")
    assert asked is not None
    assert (asked.name, asked.request) == ("desk.v1.DeskEvents.OnAsked", desk.pb2.Asked)
    answered = routes.topic(topic_event(type="desk.v1.Answered"), "")
    assert answered is not None
    assert answered.name == "desk.v1.DeskEvents.OnAnswered"
    assert {name: route.name for name, route in routes.bindings.items()} == {
        "mail": "desk.v1.DeskEvents.OnMail",
        "tick": "desk.v1.DeskEvents.OnTick",
    }
    for nowhere in (
        topic_event(type="desk.v1.Question"),
        topic_event(topic="d"),
        topic_event(pubsub_name="e"),
    ):
        assert routes.topic(nowhere, "") is None
    assert "post" not in routes.bindings


def test_two_event_types_on_one_topic_are_one_subscription(events: type) -> None:
    routes = RouteTable()
    routes.add(events())

    (subscription,) = routes.subscriptions
    assert (subscription.pubsub_name, subscription.topic, subscription.dead_letter_topic) == (
        "events",
        "desk",
        "desk.dead",
    )


def test_a_service_of_rpcs_adds_no_route(desk: Desk) -> None:
    routes = RouteTable()

    assert routes.add(desk.grpc.DeskServicer()) == 0
    assert (routes.subscriptions, routes.topics) == ([], [])
    assert (routes.bindings, routes.jobs, routes.methods) == ({}, {}, {})


@pytest.mark.parametrize(
    ("other", "says"),
    [
        pytest.param(
            "SameEvent",
            "clash/v1/clash.proto:28: clash.v1.SameEvent.OnToo and clash/v1/clash.proto:14: clash.v1.First.OnA both listen to clash.v1.A on topic 'desk' of 'events'; take one away",
            id="the same event",
        ),
        pytest.param(
            "OtherDeadLetters",
            "clash/v1/clash.proto:39: clash.v1.OtherDeadLetters.OnB and clash/v1/clash.proto:14: clash.v1.First.OnA name different dead-letter topic settings for topic 'desk' of 'events'; agree on one",
            id="another dead-letter topic",
        ),
        pytest.param(
            "SameBinding",
            "clash/v1/clash.proto:49: clash.v1.SameBinding.OnPost and clash/v1/clash.proto:21: clash.v1.First.OnMail both listen to binding 'mail'; take one away",
            id="the same binding",
        ),
    ],
)
def test_two_handlers_that_clash_stop_start_up(clash: Callable[[str], object], other: str, says: str) -> None:
    routes = RouteTable()
    routes.add(clash("First"))

    with pytest.raises(ContractError) as caught:
        routes.add(clash(other))

    assert str(caught.value) == says


def test_the_same_topic_of_two_brokers_is_two_subscriptions(clash: Callable[[str], object]) -> None:
    routes = RouteTable()
    routes.add(clash("First"))
    routes.add(clash("OtherBroker"))

    assert [listener.pubsub_name for listener in routes.subscriptions] == ["events", "other"]


def test_a_listener_that_nobody_wrote_stops_start_up(desk: Desk) -> None:
    class Lazy(desk.grpc.DeskEventsServicer):
        async def OnAsked(self, request: Any, context: Any) -> None: ...

    with pytest.raises(
        ContractError,
        match=r"desk/v1/desk\.proto:31: desk\.v1\.DeskEvents\.OnAnswered is not implemented by .*Lazy; add the method",
    ):
        RouteTable().add(Lazy())


def test_an_app_takes_one_implementation_of_a_service(desk: Desk) -> None:
    app = App(Settings(app_port=0))
    app.add_servicer(desk.grpc.DeskServicer())

    with pytest.raises(ContractError, match=r"desk.v1.Desk is served twice; add one implementation of it"):
        app.add_servicer(desk.grpc.DeskServicer())


def test_a_listener_that_is_a_plain_function_runs_in_a_thread(desk: Desk, events: type) -> None:
    threads = []

    class Plain(events):  # type: ignore[misc]
        def OnTick(self, request: Any, context: Any) -> None:
            threads.append(threading.current_thread())

    routes = RouteTable()
    routes.add(Plain())
    event = replace(topic_event(), kind="binding", source="tick")
    asyncio.run(routes.bindings["tick"].handler(Empty(), event))  # type: ignore[arg-type]

    (thread,) = threads
    assert thread is not threading.main_thread()


def test_a_listener_that_is_a_generator_stops_start_up(events: type) -> None:
    class Yielding(events):  # type: ignore[misc]
        async def OnTick(self, request: Any, context: Any) -> Any:
            yield

    with pytest.raises(TypeError, match="is a generator"):
        RouteTable().add(Yielding())
