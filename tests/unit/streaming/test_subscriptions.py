"""Streaming subscriptions: what becomes of events, how many at once, and what is refused. The streams themselves: test_streams."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
import pytest
from dapr.clients.grpc._response import TopicEventResponse
from dapr.proto import api_v1
from pydantic import SecretStr

from apibase import (
    App,
    ContractError,
    Drop,
    EventContext,
    Retry,
    ServiceError,
    Settings,
    SidecarError,
    StreamingSubscription,
)
from apibase.deadline import deadline
from apibase.observability import call_context
from apibase.observability.context import trace_ids
from tests.unit.app_channels import Listener
from tests.unit.conftest import Desk, Log
from tests.unit.fake_dapr import eventually
from tests.unit.streaming.streaming_dapr import PlayedStream, StreamingDapr, deep_event_frame, event_frame

TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@pytest.fixture
async def dapr(settings: Settings) -> AsyncIterator[StreamingDapr]:
    async with StreamingDapr(settings.sidecar_address) as fake:
        yield fake


@pytest.fixture
async def app(settings: Settings) -> AsyncIterator[App]:
    made = App(settings)
    yield made
    await made.stop()


Subscribe = Callable[..., Awaitable[tuple[StreamingSubscription, PlayedStream]]]


@pytest.fixture
def subscribe(app: App, dapr: StreamingDapr) -> Subscribe:
    """Subscribe to topic `desk` of `events` and return the subscription, open, and the sidecar's side of its stream."""

    async def open_one(handler: Any, **options: Any) -> tuple[StreamingSubscription, PlayedStream]:
        opening = asyncio.ensure_future(app.subscribe_stream("events", "desk", handler, **options))
        stream = await dapr.next_stream()
        return await opening, stream

    return open_one


class Recorder:
    """A handler that remembers what it got, raises or returns what it is told to, and can be held up."""

    def __init__(self, outcome: object = None) -> None:
        self.got: list[tuple[Any, EventContext]] = []
        self.outcome = outcome
        self.at_work = 0
        self.most = 0
        self.go = asyncio.Event()
        self.go.set()

    async def __call__(self, event: Any, context: EventContext) -> object:
        self.got.append((event, context))
        self.at_work += 1
        self.most = max(self.most, self.at_work)
        try:
            await self.go.wait()
        finally:
            self.at_work -= 1
        if isinstance(self.outcome, BaseException):
            raise self.outcome
        return self.outcome

    @property
    def ids(self) -> list[str]:
        return [context.id for _, context in self.got]


# -- What becomes of an event ------------------------------------------------------------------------------------------


@pytest.mark.req("R3.2", "R3.3")
async def test_an_event_is_handled_as_the_contracts_message_and_acknowledged(subscribe: Subscribe, desk: Desk) -> None:
    handler = Recorder()
    subscription, stream = await subscribe(
        handler, message=desk.pb2.Asked, metadata={"a": "b"}, dead_letter_topic="dead"
    )

    await stream.send(event_frame("e-1", {"text": "how?", "number": 3}))

    await stream.told(("e-1", "SUCCESS"))
    [(event, context)] = handler.got
    assert event == desk.pb2.Asked(text="how?", number=3)
    assert (context.kind, context.pubsub_name, context.topic) == ("topic", "events", "desk")
    assert (context.id, context.type, context.source) == ("e-1", "desk.v1.Asked", "shop")
    initial = stream.initial
    assert (initial.pubsub_name, initial.topic, initial.dead_letter_topic) == ("events", "desk", "dead")
    assert dict(initial.metadata) == {"a": "b"}
    assert (subscription.state, subscription.verdicts["SUCCESS"]) == ("receiving", 1)


async def test_without_a_message_the_handler_gets_the_bytes(subscribe: Subscribe) -> None:
    handler = Recorder()
    _, stream = await subscribe(handler)

    await stream.send(event_frame("e-1", b"\x00\xff", type_="whatever"), event_frame("e-2", b"not JSON", type_=""))

    await stream.told(("e-1", "SUCCESS"), ("e-2", "SUCCESS"))
    assert [event for event, _ in handler.got] == [b"\x00\xff", b"not JSON"]


async def test_a_plain_function_runs_in_a_thread(subscribe: Subscribe) -> None:
    threads: list[threading.Thread] = []

    def handle(_data: bytes, _context: EventContext) -> None:
        threads.append(threading.current_thread())

    _, stream = await subscribe(handle)
    await stream.send(event_frame("e-1"))

    await stream.told(("e-1", "SUCCESS"))
    assert threads[0] is not threading.main_thread()


OUTCOMES = [
    (None, "SUCCESS"),
    ("whatever", "SUCCESS"),
    (TopicEventResponse("success"), "SUCCESS"),
    (TopicEventResponse("retry"), "RETRY"),
    (TopicEventResponse("drop"), "DROP"),
    (Retry(), "RETRY"),
    (Drop("never"), "DROP"),
    (ServiceError(grpc.StatusCode.FAILED_PRECONDITION, "NEVER", "never"), "DROP"),
    (ServiceError(grpc.StatusCode.UNIMPLEMENTED, "NEVER", "never"), "DROP"),
    (ServiceError(grpc.StatusCode.UNAVAILABLE, "LATER", "later"), "RETRY"),
    (SidecarError(grpc.StatusCode.UNIMPLEMENTED, "ERR", "no such API"), "RETRY"),
    (RuntimeError("broken"), "RETRY"),
    (TimeoutError("its own"), "RETRY"),
    (StopAsyncIteration(), "RETRY"),
    (asyncio.CancelledError(), "RETRY"),
]


@pytest.mark.req("R3.4")
@pytest.mark.parametrize(("outcome", "verdict"), OUTCOMES, ids=[repr(each) for each, _ in OUTCOMES])
async def test_a_handlers_outcome_means_what_it_means_to_a_listener_and_never_ends_the_subscription(
    subscribe: Subscribe, outcome: object, verdict: str
) -> None:
    handler = Recorder(outcome)
    subscription, stream = await subscribe(handler)

    await stream.send(event_frame("e-1"))
    await stream.told(("e-1", verdict))
    handler.outcome = None
    await stream.send(event_frame("e-2"))

    await stream.told(("e-1", verdict), ("e-2", "SUCCESS"))
    assert (subscription.state, subscription.reconnects, subscription.last_error) == ("receiving", 0, None)


@pytest.mark.req("R3.6")
@pytest.mark.parametrize(
    ("data", "code"), [(b"{", "UNDECODABLE"), ({"text": ""}, "INVALID_REQUEST"), ({"number": "x"}, "UNDECODABLE")]
)
async def test_what_is_no_valid_message_is_a_dead_letter_with_its_reason(
    subscribe: Subscribe, dapr: StreamingDapr, desk: Desk, data: Any, code: str
) -> None:
    handler = Recorder()
    _, stream = await subscribe(handler, message=desk.pb2.Asked, dead_letter_topic="desk.dead")

    await stream.send(event_frame("e-1", data))

    await stream.told(("e-1", "SUCCESS"))
    [letter] = dapr.published
    assert (letter.pubsub_name, letter.topic) == ("events", "desk.dead")
    assert f'"dlcode": "{code}"'.encode() in letter.data
    assert not handler.got


async def test_an_event_of_another_type_is_acknowledged_and_one_without_a_type_is_handled(
    subscribe: Subscribe, desk: Desk
) -> None:
    handler = Recorder()
    _, stream = await subscribe(handler, message=desk.pb2.Asked)

    await stream.send(
        event_frame("other", type_="desk.v1.Answered"),
        event_frame("none", type_=""),
        event_frame("generic", type_="com.dapr.event.sent"),
    )

    await stream.told(("other", "SUCCESS"), ("none", "SUCCESS"), ("generic", "SUCCESS"))
    assert sorted(handler.ids) == ["generic", "none"]


async def test_a_raw_payload_is_read_without_its_type(subscribe: Subscribe, desk: Desk) -> None:
    handler = Recorder()
    _, stream = await subscribe(handler, message=desk.pb2.Asked, metadata={"rawPayload": "true"})

    await stream.send(event_frame("e-1", desk.pb2.Asked(text="raw").SerializeToString(), type_="any"))

    await stream.told(("e-1", "SUCCESS"))
    assert handler.got[0][0].text == "raw"


async def test_an_event_larger_than_the_app_takes_is_left_to_the_sidecars_dead_letters(
    settings: Settings, dapr: StreamingDapr
) -> None:
    app = App(settings.model_copy(update={"max_message_bytes": 1000}))
    handler = Recorder()
    opening = asyncio.ensure_future(app.subscribe_stream("events", "desk", handler))
    stream = await dapr.next_stream()
    subscription = await opening

    await stream.send(event_frame("large", b"x" * 5000), event_frame("small", b"x"))

    await stream.told(("large", "DROP"), ("small", "SUCCESS"))
    assert (handler.ids, subscription.reconnects) == (["small"], 0)
    await app.stop()


async def test_an_event_that_protobuf_can_not_read_is_dropped_alone(subscribe: Subscribe, log: Log) -> None:
    handler = Recorder()
    subscription, stream = await subscribe(handler)
    await stream.send(deep_event_frame("deep"), event_frame("e-2"))

    await stream.told(("deep", "DROP"), ("e-2", "SUCCESS"))
    assert (handler.ids, subscription.reconnects) == (["e-2"], 0)
    assert "can't be read" in log.one(event_id="deep", level="WARNING")["message"]


async def test_a_handler_is_within_the_trace_of_its_event(subscribe: Subscribe) -> None:
    seen: list[str] = []

    async def handle(_data: bytes, _context: EventContext) -> None:
        seen.append(trace_ids()[0])

    _, stream = await subscribe(handle)
    await stream.send(event_frame("e-1", extensions={"traceparent": TRACE}))

    await stream.told(("e-1", "SUCCESS"))
    assert seen == [TRACE[3:35]]


async def test_a_handler_that_takes_too_long_is_cancelled_and_its_event_comes_again(
    subscribe: Subscribe, log: Log
) -> None:
    left: list[float | None] = []

    async def handle(_data: bytes, _context: EventContext) -> None:
        left.append(deadline.bound(None))
        await asyncio.Event().wait()

    _, stream = await subscribe(handle, handler_timeout=0.05)
    await stream.send(event_frame("e-1"))

    await stream.told(("e-1", "RETRY"))
    assert left[0] == pytest.approx(0.05, abs=0.05)
    assert "took longer than 0.05 s" in log.text


async def test_a_fault_of_the_chassis_is_logged_and_the_event_comes_again(
    subscribe: Subscribe, monkeypatch: pytest.MonkeyPatch, log: Log
) -> None:
    handler = Recorder()
    subscription, stream = await subscribe(handler)
    monkeypatch.setattr(subscription._dispatch, "dispatch", None)
    await stream.send(event_frame("e-1"))
    await stream.told(("e-1", "RETRY"))
    monkeypatch.undo()

    await stream.send(event_frame("e-2"))

    await stream.told(("e-1", "RETRY"), ("e-2", "SUCCESS"))
    assert "failed at event e-1 with an unexpected TypeError" in log.one(level="ERROR")["message"]


# -- How many at once --------------------------------------------------------------------------------------------------


async def test_at_most_as_many_handlers_run_as_were_asked_for_and_the_rest_waits(subscribe: Subscribe) -> None:
    handler = Recorder()
    handler.go.clear()
    subscription, stream = await subscribe(handler, concurrency=3)

    await stream.send(*(event_frame(f"e-{number}") for number in range(10)))
    await eventually(lambda: handler.at_work == 3)
    for _ in range(20):
        await asyncio.sleep(0)
    assert (handler.at_work, subscription.in_flight, stream.verdicts) == (3, 3, [])
    handler.go.set()

    await stream.told(*((f"e-{number}", "SUCCESS") for number in range(10)))
    assert (handler.most, subscription.in_flight, subscription.verdicts["SUCCESS"]) == (3, 0, 10)


async def test_unread_events_of_one_subscription_hold_up_neither_another_nor_calls(
    app: App, dapr: StreamingDapr, subscribe: Subscribe
) -> None:
    stuck, handler = Recorder(), Recorder()
    stuck.go.clear()
    _, full = await subscribe(stuck, concurrency=1)
    # As much as the connection buffers, and then more.
    filling = asyncio.ensure_future(full.send(*(event_frame(f"e-{number}", b"x" * 500_000) for number in range(40))))
    opening = asyncio.ensure_future(app.subscribe_stream("events", "other", handler))
    other = await dapr.next_stream()
    await opening
    await eventually(lambda: stuck.at_work == 1)

    await other.send(event_frame("e-1"))

    await other.told(("e-1", "SUCCESS"))
    assert await app.state("statestore").get("nothing", api_v1.GetStateRequest) is None
    assert not filling.done()
    filling.cancel()
    stuck.go.set()


# -- What is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"pubsub_name": ""}, ValueError, "topic 'desk' of '' has no pub/sub"),
        ({"topic": ""}, ValueError, "topic '' of 'events' has no topic"),
        ({"concurrency": 0}, ValueError, "concurrency 0"),
        ({"handler_timeout": 0.0}, ValueError, "handler timeout 0 s"),
        ({"handler_timeout": float("nan")}, ValueError, "handler timeout nan s"),
        ({"message": int}, TypeError, "int is no protobuf message"),
    ],
)
async def test_what_makes_no_sense_is_refused_at_once(
    app: App, change: dict[str, Any], error: type[Exception], text: str
) -> None:
    arguments = {"pubsub_name": "events", "topic": "desk", "handler": Recorder(), **change}

    with pytest.raises(error, match=text):
        await app.subscribe_stream(**arguments)

    assert app.streaming_subscriptions == []


async def test_a_second_subscription_to_one_topic_is_refused_until_the_first_is_closed(
    app: App, subscribe: Subscribe
) -> None:
    first, _ = await subscribe(Recorder())

    with pytest.raises(ContractError, match="there is a streaming subscription to topic 'desk' of 'events'"):
        await app.subscribe_stream("events", "desk", Recorder())
    assert app.streaming_subscriptions == [first]
    await first.close()

    second, _ = await subscribe(Recorder())
    assert app.streaming_subscriptions == [second]


async def test_a_topic_that_the_contract_listens_to_is_refused(app: App, dapr: StreamingDapr, desk: Desk) -> None:
    app.add_servicer(Listener().implement(desk, "DeskEvents"))

    with pytest.raises(ContractError, match="OnAsked listens to topic 'desk' of 'events' already"):
        await app.subscribe_stream("events", "desk", Recorder())


async def test_a_topic_that_a_subscription_resource_names_is_refused(app: App, dapr: StreamingDapr) -> None:
    declared = api_v1.PubsubSubscription(pubsub_name="events", topic="desk", type="DECLARATIVE")
    dapr.subscriptions = [declared]

    with pytest.raises(ContractError, match="a Subscription resource names topic 'desk' of 'events' already"):
        await app.subscribe_stream("events", "desk", Recorder())

    assert dapr.taken == 0


async def test_two_at_the_same_moment_are_one(app: App, dapr: StreamingDapr) -> None:
    both = [asyncio.ensure_future(app.subscribe_stream("events", "desk", Recorder())) for _ in range(2)]
    await dapr.next_stream()

    done = await asyncio.gather(*both, return_exceptions=True)

    assert sorted(type(each).__name__ for each in done) == ["ContractError", "StreamingSubscription"]


async def test_after_the_app_has_stopped_none_is_made(app: App, dapr: StreamingDapr, subscribe: Subscribe) -> None:
    subscription, _ = await subscribe(Recorder())
    await app.stop()

    assert (subscription.state, app.streaming_subscriptions) == ("closed", [])
    with pytest.raises(RuntimeError, match="the app has stopped"):
        await app.subscribe_stream("events", "desk", Recorder())


# -- What a stream carries ---------------------------------------------------------------------------------------------


async def test_a_stream_carries_the_token_and_nothing_of_the_call_that_it_was_made_in(settings: Settings) -> None:
    app = App(settings.model_copy(update={"dapr_api_token": SecretStr("hunter2")}))
    async with StreamingDapr(settings.sidecar_address, token="hunter2") as dapr:
        deadline.set_remaining(30.0)
        with call_context({"traceparent": TRACE}):
            opening = asyncio.ensure_future(app.subscribe_stream("events", "desk", Recorder()))
        stream = await dapr.next_stream()
        await opening

        assert stream.metadata["dapr-api-token"] == "hunter2"
        assert "traceparent" not in stream.metadata
        assert stream.seconds_left is None
        await app.stop()
