"""What is counted of inbound calls and deliveries, and that nobody can make series by calling."""

from __future__ import annotations

import asyncio
import contextlib
import random
import uuid
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from dapr.proto import common_v1
from dapr.proto.runtime.v1 import appcallback_pb2, appcallback_pb2_grpc

from apibase import Drop, InvalidRequest, Retry, ServiceError, SidecarUnavailable
from apibase.app_channel import AppChannelServicer
from apibase.delivery import TopicDelivery
from apibase.events import EventContext
from apibase.middleware.call import Call, Kind, Target
from apibase.middleware.chain import Chain
from apibase.middleware.errors import Errors
from apibase.middleware.metrics import Metrics as MetricsMiddleware
from apibase.middleware.metrics import publication_time
from apibase.observability.metrics import Metrics
from apibase.observability.series import OTHER
from apibase.routes import Incoming, Route, RouteTable, TopicRoute
from apibase.rpc import rpc_handlers
from tests.unit.app_channels import Graveyard, Listener, served
from tests.unit.chains import chain
from tests.unit.conftest import Desk
from tests.unit.fake_dapr import eventually

ASK = {"grpc_type": "unary", "grpc_service": "desk.v1.Desk", "grpc_method": "Ask"}
ASKED = {"component": "events", "source": "desk", "handler": "desk.v1.DeskEvents.OnAsked"}
FORGED = (("dapr-caller-app-id", "mallory"),)
HOSTILE = 10_000


@dataclass
class Counted:
    """An app channel and a service behind one chain, and what that has counted."""

    metrics: Metrics
    desk: Desk
    channel: grpc.aio.Channel
    service: Any
    listener: Listener
    graveyard: Graveyard

    @property
    def rpcs(self) -> Any:
        return self.desk.grpc.DeskStub(self.channel)

    @property
    def daprd(self) -> Any:
        return appcallback_pb2_grpc.AppCallbackStub(self.channel)

    def value(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(name, labels) or 0.0

    def series(self) -> int:
        return sum(len(family.samples) for family in self.metrics.registry.collect())

    async def deliver(self, data: str = '{"text": "why"}', *, metadata: Any = (), **fields: Any) -> int:
        extensions = fields.pop("extensions", {})
        known = {"id": "1", "source": "shop", "type": "desk.v1.Asked", "topic": "desk", "pubsub_name": "events"}
        event = appcallback_pb2.TopicEventRequest(
            **{**known, "data_content_type": "application/json", "data": data.encode(), **fields}
        )
        event.extensions.update(extensions)
        return (await self.daprd.OnTopicEvent(event, metadata=metadata)).status


@pytest.fixture
async def counted(desk: Desk, socket_folder: Path) -> AsyncIterator[Counted]:
    metrics, listener, graveyard = Metrics(), Listener(), Graveyard()
    made = chain(graveyard=graveyard, metrics=metrics)
    routes = RouteTable()
    routes.add(listener.implement(desk, "DeskEvents"))
    service = desk.grpc.DeskServicer()
    rpcs = rpc_handlers(desk.pb2.DESCRIPTOR.services_by_name["Desk"], service, made)
    async with served(AppChannelServicer(routes, made), socket_folder, rpcs) as channel:
        yield Counted(metrics, desk, channel, service, listener, graveyard)


@pytest.fixture
def answering(desk: Desk, socket_folder: Path) -> Callable[..., Any]:
    """Return a context manager: what is counted of a Desk whose methods are the functions given by name."""

    def make(**handlers: Any) -> Any:
        metrics = Metrics()
        service = desk.grpc.DeskServicer()
        for name, handler in handlers.items():
            setattr(service, name.capitalize(), handler)
        made = chain(metrics=metrics)
        rpcs = rpc_handlers(desk.pb2.DESCRIPTOR.services_by_name["Desk"], service, made)
        opened = served(AppChannelServicer(RouteTable(), made), socket_folder, rpcs)

        class Opened:
            async def __aenter__(self) -> Counted:
                return Counted(metrics, desk, await opened.__aenter__(), service, Listener(), Graveyard())

            async def __aexit__(self, *error: object) -> None:
                await opened.__aexit__(*error)

        return Opened()

    return make


@pytest.mark.req("R10.3")
async def test_a_call_is_counted_timed_and_at_work_meanwhile(answering: Callable[..., Any], desk: Desk) -> None:
    may_end = asyncio.Event()

    async def ask(request: Any, context: Any) -> Any:
        await may_end.wait()
        return desk.pb2.Answer()

    async with answering(ask=ask) as counted:
        pending = counted.rpcs.Ask(desk.pb2.Question(text="why"))
        await eventually(lambda: counted.value("apibase_in_flight", kind="unary") == 1)
        assert counted.value("grpc_server_started_total", **ASK) == 1
        assert counted.value("grpc_server_handled_total", **ASK, grpc_code="OK") == 0
        may_end.set()
        await pending
        await eventually(lambda: counted.value("apibase_in_flight", kind="unary") == 0)

        assert counted.value("grpc_server_handled_total", **ASK, grpc_code="OK") == 1
        assert counted.value("grpc_server_handling_seconds_count", **ASK) == 1


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ServiceError(grpc.StatusCode.NOT_FOUND, "NO_SUCH_DESK", "there is none"), "NOT_FOUND"),
        (InvalidRequest([]), "INVALID_ARGUMENT"),
        (SidecarUnavailable("away"), "UNAVAILABLE"),
        (ZeroDivisionError(), "INTERNAL"),
    ],
)
async def test_a_call_that_fails_is_counted_under_its_code(
    answering: Callable[..., Any], desk: Desk, error: Exception, code: str
) -> None:
    async def ask(request: Any, context: Any) -> Any:
        raise error

    async with answering(ask=ask) as counted:
        with pytest.raises(grpc.aio.AioRpcError):
            await counted.rpcs.Ask(desk.pb2.Question(text="why"))

        assert counted.value("grpc_server_handled_total", **ASK, grpc_code=code) == 1


async def test_the_messages_of_streams_are_counted(answering: Callable[..., Any], desk: Desk) -> None:
    async def talk(requests: Any, context: Any) -> Any:
        async for request in requests:
            yield desk.pb2.Answer(text=request.text)
            yield desk.pb2.Answer(text=request.text)

    async with answering(talk=talk) as counted:
        call = counted.rpcs.Talk(iter([desk.pb2.Question(text="why")] * 3))
        assert len([answer async for answer in call]) == 6

        labels = {**ASK, "grpc_type": "bidi_stream", "grpc_method": "Talk"}
        assert counted.value("grpc_server_msg_received_total", **labels) == 3
        assert counted.value("grpc_server_msg_sent_total", **labels) == 6
        await eventually(lambda: counted.value("grpc_server_handled_total", **labels, grpc_code="OK") == 1)


async def test_a_caller_that_leaves_is_counted_and_no_longer_at_work(answering: Callable[..., Any], desk: Desk) -> None:
    async def ask(request: Any, context: Any) -> Any:
        await asyncio.Event().wait()

    async with answering(ask=ask) as counted:
        pending = counted.rpcs.Ask(desk.pb2.Question(text="why"))
        await eventually(lambda: counted.value("apibase_in_flight", kind="unary") == 1)
        pending.cancel()

        await eventually(lambda: counted.value("grpc_server_handled_total", **ASK, grpc_code="CANCELLED") == 1)
        assert counted.value("apibase_in_flight", kind="unary") == 0


@pytest.mark.req("R10.3")
@pytest.mark.parametrize(
    ("error", "verdict"),
    [(None, "SUCCESS"), (Retry(), "RETRY"), (ZeroDivisionError(), "RETRY"), (SidecarUnavailable("away"), "RETRY")],
)
async def test_an_event_is_counted_by_its_verdict(counted: Counted, error: Exception | None, verdict: str) -> None:
    counted.listener.error = error

    await counted.deliver()

    labels = {"kind": "event", **ASKED}
    found = {
        each: counted.value("apibase_deliveries_total", **labels, outcome=each) for each in ("SUCCESS", "RETRY", "DROP")
    }
    assert found == {"SUCCESS": 0, "RETRY": 0, "DROP": 0} | {verdict: 1}
    assert counted.value("apibase_delivery_seconds_count", **labels) == 1
    assert not [each for family in counted.metrics.dead_letters.collect() for each in family.samples]


async def test_a_handlers_verdicts_are_there_before_its_first_event(counted: Counted) -> None:
    await counted.deliver()

    assert (
        counted.metrics.registry.get_sample_value(
            "apibase_deliveries_total", {"kind": "event", **ASKED, "outcome": "DROP"}
        )
        == 0
    )


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (Drop("no"), "DROPPED"),
        (Drop("no", code="GONE"), "GONE"),
        (ServiceError(grpc.StatusCode.FAILED_PRECONDITION, "CLOSED", "it is closed"), "CLOSED"),
    ],
)
async def test_a_dead_letter_is_counted_by_its_code(counted: Counted, error: Exception, code: str) -> None:
    counted.listener.error = error

    await counted.deliver()

    assert len(counted.graveyard.buried) == 1
    assert counted.value("apibase_dead_letters_total", **ASKED, code=code, end="dead_letter") == 1


async def test_data_that_is_no_message_is_a_dead_letter_too(counted: Counted) -> None:
    await counted.deliver("no JSON")

    assert counted.value("apibase_dead_letters_total", **ASKED, code="UNDECODABLE", end="dead_letter") == 1


async def test_an_event_whose_dead_letter_could_not_be_published_is_none_yet(counted: Counted) -> None:
    counted.listener.error, counted.graveyard.error = Drop("no"), SidecarUnavailable("away")

    await counted.deliver()

    assert counted.value("apibase_dead_letters_total", **ASKED, code="DROPPED", end="dead_letter") == 0
    assert counted.value("apibase_deliveries_total", kind="event", **ASKED, outcome="RETRY") == 1


async def run(
    metrics: Metrics, target: Target, error: BaseException | None = None, event: EventContext | None = None
) -> Call:
    """Have a delivery pass metrics and errors to a handler that raises, or not."""

    async def handler(call: Call) -> None:
        if error is not None:
            raise error

    event = event or EventContext(kind="topic", source="shop")
    incoming = Incoming(event, b"", appcallback_pb2.TopicEventRequest())
    call = Call(target, (), {}, lambda call: None, incoming=incoming, event=event)
    made = Chain([MetricsMiddleware(metrics), Errors(TopicDelivery(Graveyard()))])
    await made.compile(target, handler)(call)
    return call


def topic(name: str = "desk", *, dead: str = "", own: bool = False) -> Target:
    route = TopicRoute("OnAsked", nobody, pubsub_name="events", topic=name, dead_letter_topic=dead)
    return Target(Kind.EVENT, "OnAsked", route=route, source=name, own=own)


async def nobody(*_: Any) -> None:
    """Stand for a handler."""


@pytest.mark.parametrize(
    ("target", "kind"),
    [(topic(), "event"), (Target(Kind.BINDING, "OnAsked", route=Route("OnAsked", nobody), source="desk"), "binding")],
)
async def test_what_is_dropped_without_a_dead_letter_is_told_as_lost(target: Target, kind: str) -> None:
    metrics = Metrics()

    await run(metrics, target, Drop("no"))

    labels = {"component": "events" if kind == "event" else "desk", "source": "desk", "handler": "OnAsked"}
    found = metrics.registry.get_sample_value(
        "apibase_dead_letters_total", {**labels, "code": "DROPPED", "end": "lost"}
    )
    assert found == 1


async def test_what_is_left_to_the_sidecar_is_told_so(counted: Counted) -> None:
    await counted.deliver(type="", pubsub_name="events", topic="desk")

    samples = [each for family in counted.metrics.dead_letters.collect() for each in family.samples]
    assert [(each.labels["end"], each.labels["code"], each.value) for each in samples] == [
        ("sidecar", "UNDECODABLE", 1)
    ]


async def test_an_event_that_was_handled_before_is_counted_as_repeated() -> None:
    metrics = Metrics()
    target = topic()

    async def repeated(call: Call) -> None:
        call.outcome, call.repeated = "SUCCESS", True

    call = Call(target, (), {}, lambda call: None)
    await MetricsMiddleware(metrics).wrap(target, repeated)(call)

    labels = {"component": "events", "source": "desk", "handler": "OnAsked"}
    assert metrics.registry.get_sample_value("apibase_repeated_events_total", labels) == 1


@pytest.mark.req("R10.3")
async def test_how_old_an_event_is_when_it_comes_is_measured(counted: Counted) -> None:
    stamp = (datetime.now(UTC) - timedelta(seconds=90)).isoformat(timespec="seconds").replace("+00:00", "Z")

    await counted.deliver(extensions={"time": stamp})

    age = counted.value("apibase_event_age_seconds_sum", component="events", source="desk")
    assert age == pytest.approx(90, abs=2)


async def test_an_event_from_the_future_has_no_age_below_0(counted: Counted) -> None:
    await counted.deliver(extensions={"time": "2999-01-01T00:00:00Z"})

    assert counted.value("apibase_event_age_seconds_sum", component="events", source="desk") == 0
    assert counted.value("apibase_event_age_seconds_count", component="events", source="desk") == 1


async def test_what_another_app_pretends_to_be_an_event_has_no_age(counted: Counted) -> None:
    await counted.deliver(extensions={"time": "2000-01-01T00:00:00Z"}, metadata=FORGED)

    assert counted.value("apibase_event_age_seconds_count", component="events", source="desk") == 0


@pytest.mark.parametrize(
    ("event", "seconds"),
    [
        pytest.param({"extensions": {"time": "1970-01-01T00:01:40Z"}}, 100.0, id="the CloudEvent's time"),
        pytest.param({"extensions": {"time": "1970-01-01T01:01:40.250+01:00"}}, 100.25, id="with a zone"),
        pytest.param({"metadata": {"__timestamp": "1500"}}, 1.5, id="Kafka's, of an entry of a batch or a binding"),
        pytest.param(
            {"headers": {"__timestamp": "1500"}, "extensions": {"time": "1970-01-01T00:01:40Z"}},
            1.5,
            id="Kafka's first",
        ),
        pytest.param({"extensions": {"time": "1970-01-01T00:01:40"}}, None, id="no zone, so no moment"),
        pytest.param({"extensions": {"time": "yesterday"}}, None, id="no time"),
        pytest.param({"extensions": {"time": 7.0}}, None, id="a number"),
        pytest.param({"headers": {"__timestamp": "soon"}}, None, id="no number"),
        pytest.param({}, None, id="nothing"),
    ],
)
def test_when_an_event_was_published(event: dict[str, Any], seconds: float | None) -> None:
    assert publication_time(EventContext(kind="topic", source="shop", **event)) == seconds


@pytest.mark.req("R10.3")
@pytest.mark.parametrize("times", [400, pytest.param(HOSTILE, marks=pytest.mark.full)])
async def test_hostile_callers_make_no_series(counted: Counted, times: int) -> None:
    numbers = random.Random(7)
    ask = counted.channel.unary_unary("/desk.v1.Desk/Ask")
    attacks: list[Callable[[str], Any]] = [
        lambda name: counted.daprd.OnInvoke(
            common_v1.InvokeRequest(method=name), metadata=(("dapr-caller-app-id", name),)
        ),
        lambda name: counted.channel.unary_unary(f"/desk.v1.Desk/{name}")(b""),
        lambda name: ask(name.encode(), metadata=(("dapr-caller-app-id", name),)),
        lambda name: counted.deliver(topic=name, pubsub_name=name, type=name, source=name, extensions={name: name}),
        lambda name: counted.deliver(name, id=name, source=name, extensions={"time": name}),
        lambda name: counted.deliver(id=name, metadata=(("dapr-caller-app-id", name),)),
        lambda name: counted.daprd.OnBindingEvent(appcallback_pb2.BindingEventRequest(name=name)),
        lambda name: counted.daprd.OnJobEvent(appcallback_pb2.JobEventRequest(name=name)),
    ]

    async def attack(count: int) -> int:
        for number in range(count):
            name = f"x{numbers.getrandbits(64):x}"
            with contextlib.suppress(grpc.aio.AioRpcError):
                await attacks[number % len(attacks)](name)
        return counted.series()

    at_first = await attack(2 * len(attacks))

    assert await attack(times) == at_first


async def test_a_service_whose_codes_are_made_up_gets_as_many_as_are_bounded() -> None:
    metrics = Metrics()
    made = MetricsMiddleware(metrics)
    codes = {made._code(Drop("no", code=f"CODE_{number}")) for number in range(HOSTILE)}
    odd = {made._code(Drop("no", code=code)) for code in ("lower", "A" * 64, "", "WITH SPACE", "LINE\nBREAK")}

    assert len(codes) == 101
    assert OTHER in codes
    assert odd == {OTHER}


async def test_topics_that_are_subscribed_to_as_the_app_runs_are_bounded() -> None:
    metrics = Metrics()
    made = MetricsMiddleware(metrics)
    for number in range(HOSTILE // 10):
        made.wrap(topic(f"tenant-{number}", own=True), nobody)

    sources = {each.labels["source"] for family in metrics.delivered.collect() for each in family.samples}
    assert len(sources) == 201
    assert OTHER in sources


async def test_an_outcome_that_nobody_knows_is_unknown() -> None:
    metrics = Metrics()
    target = topic()

    async def strange(call: Call) -> None:
        call.outcome = uuid.uuid4().hex

    for _ in range(3):
        await MetricsMiddleware(metrics).wrap(target, strange)(Call(target, (), {}, lambda call: None))

    outcomes = {each.labels["outcome"] for family in metrics.delivered.collect() for each in family.samples}
    assert outcomes == {"SUCCESS", "RETRY", "DROP", "UNKNOWN"}
