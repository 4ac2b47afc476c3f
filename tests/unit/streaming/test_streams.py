"""Streaming subscriptions and their streams: refused, lost, opened again, closed; frame by frame against a played sidecar."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
import pytest
from grpc.aio import _call as grpc_call

from apibase import App, EventContext, Settings, SidecarError, SidecarUnavailable, StreamingSubscription
from apibase.streaming import subscription as streaming_module
from apibase.streaming.stream import TopicStream
from tests.unit.conftest import Log
from tests.unit.fake_dapr import eventually
from tests.unit.streaming.streaming_dapr import INITIAL, PlayedStream, StreamingDapr, event_frame

Code = grpc.StatusCode
Subscribe = Callable[..., Awaitable[tuple[StreamingSubscription, PlayedStream]]]

FINAL = [
    (Code.INVALID_ARGUMENT, "pubsub events is not found"),
    (Code.FAILED_PRECONDITION, "pubsub events is not configured"),
    (Code.PERMISSION_DENIED, "no"),
    (Code.UNAUTHENTICATED, "authentication error: api token mismatch"),
    (Code.UNIMPLEMENTED, "unknown method SubscribeTopicEventsAlpha1"),
    (Code.UNKNOWN, "subscription to topic 'desk' on pubsub 'events' is not allowed"),
]
PASSING = [
    (Code.UNAVAILABLE, "away"),
    (Code.UNKNOWN, "failed to create subscription for events: dial tcp: connection refused"),
    (Code.UNKNOWN, 'streamer already subscribed to pubsub "events" topic "desk"'),
    (Code.INTERNAL, "whatever"),
    (Code.INVALID_ARGUMENT, "failed deserializing metadata: subscriber is closed"),
    (Code.OK, ""),
]


@pytest.fixture
async def dapr(settings: Settings) -> AsyncIterator[StreamingDapr]:
    async with StreamingDapr(settings.sidecar_address) as fake:
        yield fake


@pytest.fixture
async def app(settings: Settings) -> AsyncIterator[App]:
    made = App(settings)
    yield made
    await made.stop()


@pytest.fixture
def subscribe(app: App, dapr: StreamingDapr) -> Subscribe:
    async def open_one(handler: Any = None, **options: Any) -> tuple[StreamingSubscription, PlayedStream]:
        opening = asyncio.ensure_future(app.subscribe_stream("events", "desk", handler or ignore, **options))
        stream = await dapr.next_stream()
        return await opening, stream

    return open_one


async def ignore(_data: bytes, _context: EventContext) -> None:
    """Handle an event by doing nothing."""


class Gate:
    """A handler that waits until it may go on."""

    def __init__(self) -> None:
        self.entered: list[str] = []
        self.left: list[str] = []
        self.cancelled: list[str] = []
        self.open = asyncio.Event()

    async def __call__(self, _data: bytes, context: EventContext) -> None:
        self.entered.append(context.id)
        try:
            await self.open.wait()
        except asyncio.CancelledError:
            self.cancelled.append(context.id)
            raise
        self.left.append(context.id)


# -- Opening -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("open_within", [None, 5.0])
@pytest.mark.parametrize(("code", "details"), FINAL)
async def test_a_refusal_that_no_waiting_mends_is_raised_and_leaves_nothing(
    app: App, dapr: StreamingDapr, code: Code, details: str, open_within: float | None
) -> None:
    opening = asyncio.ensure_future(app.subscribe_stream("events", "desk", ignore, open_within=open_within))
    stream = await dapr.next_stream(accept=False)
    stream.end(code, details)

    with pytest.raises(SidecarError, match="topic 'desk' of 'events' is refused") as caught:
        await opening

    assert caught.value.code is code
    assert details in caught.value.message
    assert ("came with Dapr 1.14" in caught.value.message) is (code is Code.UNIMPLEMENTED)
    assert app.streaming_subscriptions == []
    assert dapr.taken == 1


@pytest.mark.parametrize(("code", "details"), PASSING)
async def test_what_time_may_mend_is_tried_again_until_it_is_open(
    app: App, dapr: StreamingDapr, code: Code, details: str, log: Log
) -> None:
    opening = asyncio.ensure_future(app.subscribe_stream("events", "desk", ignore))
    (await dapr.next_stream(accept=False)).end(code, details)
    subscription = await opening
    assert subscription.state == "connecting"
    assert subscription.last_error is not None
    assert (details or "the sidecar ended the stream") in subscription.last_error.message
    (await dapr.next_stream(accept=False)).end(code, details)

    stream = await dapr.next_stream()

    await eventually(lambda: subscription.state == "receiving")
    assert subscription.reconnects == 0
    assert "can't be opened, and is tried again until it is open" in log.one(level="WARNING")["message"]
    assert "is open after" in log.one(level="INFO")["message"]
    await stream.send(event_frame("e-1"))
    await stream.told(("e-1", "SUCCESS"))


async def test_a_refusal_whose_status_is_lost_by_grpc_is_asked_for_again(
    app: App, dapr: StreamingDapr, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost = [grpc.aio.AioRpcError(Code.INTERNAL, grpc.aio.Metadata(), grpc.aio.Metadata(), "Internal error from Core")]
    write = grpc_call.StreamStreamCall.write

    async def fail_once(call: Any, request: object) -> None:
        if lost:
            raise lost.pop()
        await write(call, request)

    monkeypatch.setattr(grpc_call.StreamStreamCall, "write", fail_once)
    opening = asyncio.ensure_future(app.subscribe_stream("events", "desk", ignore))
    await eventually(lambda: dapr.taken == 2)
    (await dapr.opened.get()).end()  # of which the status is lost
    (await dapr.next_stream(accept=False)).end(Code.UNAUTHENTICATED, "api token mismatch")

    with pytest.raises(SidecarError, match="api token mismatch"):
        await opening


@pytest.mark.req("R1.5")
async def test_a_sidecar_that_is_away_is_waited_for(app: App, settings: Settings) -> None:
    subscription = await app.subscribe_stream("events", "desk", ignore)
    assert (subscription.state, app.streaming_subscriptions) == ("connecting", [subscription])
    assert isinstance(subscription.last_error, SidecarUnavailable)

    async with StreamingDapr(settings.sidecar_address) as dapr:
        await dapr.next_stream()
        await eventually(lambda: subscription.state == "receiving")
        await subscription.close()


@pytest.mark.req("R1.5")
async def test_a_sidecar_that_is_away_is_an_error_where_that_was_asked_for(app: App) -> None:
    with pytest.raises(SidecarUnavailable, match=r"topic 'desk' of 'events' is not open after 0\.3 s") as caught:
        await app.subscribe_stream("events", "desk", ignore, open_within=0.3)

    assert caught.value.retryable
    assert app.streaming_subscriptions == []


async def test_open_within_waits_through_failures(app: App, dapr: StreamingDapr) -> None:
    opening = asyncio.ensure_future(app.subscribe_stream("events", "desk", ignore, open_within=5))
    for _ in range(3):
        (await dapr.next_stream(accept=False)).end(Code.UNAVAILABLE, "away")
    assert not opening.done()

    await dapr.next_stream()

    assert (await opening).state == "receiving"


async def test_a_sidecar_that_does_not_answer_holds_its_caller_up_for_the_call_timeout_only(
    settings: Settings, dapr: StreamingDapr
) -> None:
    app = App(settings.model_copy(update={"call_timeout": 0.1}))
    subscription = await app.subscribe_stream("events", "desk", ignore)

    assert (subscription.state, subscription.last_error, dapr.taken) == ("connecting", None, 1)
    await dapr.next_stream()
    await eventually(lambda: subscription.state == "receiving")
    await app.stop()


async def test_an_opening_that_is_never_answered_is_given_up_and_tried_again(
    app: App, dapr: StreamingDapr, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streaming_module, "_OPENING_SECONDS", 0.1)
    opening = asyncio.ensure_future(app.subscribe_stream("events", "desk", ignore))
    await dapr.next_stream(accept=False)
    subscription = await opening
    assert "did not answer within" in str(subscription.last_error)
    monkeypatch.undo()

    await dapr.next_stream()

    await eventually(lambda: subscription.state == "receiving")


async def test_an_event_before_the_answer_to_the_opening_is_handled(app: App, dapr: StreamingDapr) -> None:
    opening = asyncio.ensure_future(app.subscribe_stream("events", "desk", ignore))
    stream = await dapr.next_stream(accept=False)
    await stream.send(event_frame("early"), INITIAL, event_frame("later"))

    await opening

    await stream.told(("early", "SUCCESS"), ("later", "SUCCESS"))


async def test_frames_of_a_kind_that_is_not_known_are_passed_over(subscribe: Subscribe) -> None:
    subscription, stream = await subscribe()

    await stream.send(b"", INITIAL, b"\xfa\x01\x03abc", event_frame("e-1"))

    await stream.told(("e-1", "SUCCESS"))
    assert subscription.reconnects == 0


@pytest.mark.parametrize("when", ["while it is opened", "while it waits for the next try", "before it is answered"])
async def test_who_is_cancelled_while_subscribing_leaves_nothing(app: App, dapr: StreamingDapr, when: str) -> None:
    opening = asyncio.ensure_future(app.subscribe_stream("events", "desk", ignore, open_within=30))
    if when == "while it is opened":
        await dapr.next_stream(accept=False)
    elif when == "while it waits for the next try":
        (await dapr.next_stream(accept=False)).end(Code.UNAVAILABLE, "away")
        await eventually(lambda: app.streaming_subscriptions and app.streaming_subscriptions[0].last_error)

    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening

    await eventually(lambda: app.streaming_subscriptions == [])


# -- Lost and back -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "details"),
    [
        (Code.UNKNOWN, "api server closed"),
        (Code.UNKNOWN, "stream closed"),
        (Code.UNAVAILABLE, "closing transport"),
        (Code.INTERNAL, "RST_STREAM"),
        (Code.CANCELLED, "cancelled by the sidecar"),
        (Code.INVALID_ARGUMENT, "even so"),
        (Code.OK, ""),
    ],
)
async def test_a_stream_that_ends_is_followed_by_another(
    subscribe: Subscribe, dapr: StreamingDapr, code: Code, details: str
) -> None:
    subscription, first = await subscribe(metadata={"a": "b"}, dead_letter_topic="dead")
    await first.send(event_frame("e-1"))
    await first.told(("e-1", "SUCCESS"))
    first.end(code, details)

    second = await dapr.next_stream()

    assert second.initial == first.initial
    await second.send(event_frame("e-2"))
    await second.told(("e-2", "SUCCESS"))
    assert (subscription.state, subscription.reconnects) == ("receiving", 1)
    assert (details or "ended the stream") in str(subscription.last_error)


async def test_an_outage_is_told_once_when_it_begins_and_once_when_it_ends(
    subscribe: Subscribe, dapr: StreamingDapr, log: Log
) -> None:
    subscription, stream = await subscribe()
    stream.end(Code.UNKNOWN, "stream closed")
    for _ in range(4):
        (await dapr.next_stream(accept=False)).end(Code.UNAVAILABLE, "away")
    assert subscription.state == "connecting"
    await dapr.next_stream()
    await eventually(lambda: subscription.reconnects == 1)

    lost = log.one(level="WARNING")["message"]
    assert lost.endswith("is lost, and is tried again until it is back: stream closed")
    [_opened, back] = [line["message"] for line in log.of(level="INFO")]
    assert re.search(r"is back after \d+\.\d s", back)
    assert not log.of(level="ERROR")


async def test_a_component_that_is_gone_is_told_and_waited_for(
    subscribe: Subscribe, dapr: StreamingDapr, log: Log
) -> None:
    subscription, stream = await subscribe()
    stream.end(Code.UNKNOWN, "stream closed")
    for _ in range(3):
        (await dapr.next_stream(accept=False)).end(Code.INVALID_ARGUMENT, "pubsub events is not found")
    assert [line["message"].split(": ")[-1] for line in log.of(level="WARNING")] == [
        "stream closed",
        "pubsub events is not found",
    ]
    assert subscription.last_error is not None
    assert subscription.last_error.code is Code.INVALID_ARGUMENT

    await dapr.next_stream()

    await eventually(lambda: subscription.state == "receiving")


async def test_tries_come_further_and_further_apart_up_to_a_cap(
    subscribe: Subscribe, dapr: StreamingDapr, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streaming_module, "_LONGEST_PAUSE", 0.4)
    times = []
    _, stream = await subscribe()
    stream.end(Code.UNAVAILABLE, "away")
    for _ in range(7):
        stream = await dapr.next_stream(accept=False)
        times.append(asyncio.get_running_loop().time())
        stream.end(Code.UNAVAILABLE, "away")

    pauses = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert pauses[0] < 0.3
    assert all(0.19 < pause < 0.8 for pause in pauses[2:])


async def test_a_frame_that_is_garbage_ends_the_stream_and_not_the_subscription(
    subscribe: Subscribe, dapr: StreamingDapr
) -> None:
    subscription, first = await subscribe()
    await first.send(b"\xff\xff\xff")

    second = await dapr.next_stream()

    assert "no frame of a subscription" in str(subscription.last_error)
    await second.send(event_frame("e-1"))
    await second.told(("e-1", "SUCCESS"))


async def test_an_event_whose_stream_is_lost_is_handled_to_its_end_and_counted_as_untold(
    subscribe: Subscribe, dapr: StreamingDapr
) -> None:
    gate = Gate()
    subscription, first = await subscribe(gate, concurrency=2)
    await first.send(event_frame("e-1"))
    await eventually(lambda: gate.entered == ["e-1"])
    first.end(Code.UNKNOWN, "api server closed")
    second = await dapr.next_stream()
    await second.send(event_frame("e-2"), event_frame("e-3"))
    await eventually(lambda: gate.entered == ["e-1", "e-2"])
    assert subscription.in_flight == 2  # those of a lost stream count too

    gate.open.set()

    await second.told(("e-2", "SUCCESS"), ("e-3", "SUCCESS"))
    assert sorted(gate.left) == ["e-1", "e-2", "e-3"]
    assert (subscription.untold, subscription.verdicts["SUCCESS"]) == (1, 2)
    assert first.verdicts == []


async def test_a_fault_in_the_subscription_itself_is_logged_and_it_goes_on(
    subscribe: Subscribe, dapr: StreamingDapr, monkeypatch: pytest.MonkeyPatch, log: Log
) -> None:
    broken = [RuntimeError("a fault of ours")]
    read = TopicStream.read

    async def fail_once(stream: TopicStream) -> Any:
        if broken:
            raise broken.pop()
        return await read(stream)

    monkeypatch.setattr(TopicStream, "read", fail_once)
    subscription, _ = await subscribe()

    second = await dapr.next_stream()

    await second.send(event_frame("e-1"))
    await second.told(("e-1", "SUCCESS"))
    line = log.one(level="ERROR")
    assert "failed with an unexpected RuntimeError" in line["message"]
    assert subscription.reconnects == 1


async def test_a_connection_that_is_closed_under_it_is_opened_again(
    app: App, subscribe: Subscribe, dapr: StreamingDapr
) -> None:
    subscription, _ = await subscribe()
    sidecar = app._streaming._sidecar
    await sidecar._channels.pop(asyncio.get_running_loop()).close(0)

    second = await dapr.next_stream()

    await second.send(event_frame("e-1"))
    await second.told(("e-1", "SUCCESS"))
    assert subscription.reconnects == 1


async def test_a_sidecar_that_wants_to_go_is_let_go_after_the_handlers_at_work(
    app: App, settings: Settings, log: Log
) -> None:
    gate = Gate()
    async with StreamingDapr(settings.sidecar_address) as dapr:
        opening = asyncio.ensure_future(app.subscribe_stream("events", "desk", gate))
        stream = await dapr.next_stream()
        subscription = await opening
        await stream.send(event_frame("e-1"))
        await eventually(lambda: gate.entered)
        assert dapr._server is not None
        watched = app._streaming._watch._leave
        going = asyncio.ensure_future(dapr._server.stop(30))  # GOAWAY, and then it waits for the stream
        await eventually(lambda: app._streaming._watch._leave is not watched)
        await asyncio.sleep(0)
        await stream.send(event_frame("late"))
        assert (stream.half_closed, subscription.state) == (False, "receiving")

        gate.open.set()
        await asyncio.wait_for(going, 5)

        await stream.told(("e-1", "SUCCESS"))
        assert stream.half_closed
        assert gate.entered == ["e-1"]
    async with StreamingDapr(settings.sidecar_address) as dapr:
        stream = await dapr.next_stream()
        await stream.send(event_frame("e-2"))
        await stream.told(("e-2", "SUCCESS"))
        assert log.one(level="WARNING")["message"].endswith(": the sidecar goes away")
        await subscription.close()


async def test_a_sidecar_that_wants_to_go_does_not_wait_for_a_handler_without_end(
    app: App, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streaming_module, "_LEAVING_SECONDS", 0.1)
    gate = Gate()
    async with StreamingDapr(settings.sidecar_address) as dapr:
        opening = asyncio.ensure_future(app.subscribe_stream("events", "desk", gate))
        stream = await dapr.next_stream()
        subscription = await opening
        await stream.send(event_frame("e-1"))
        await eventually(lambda: gate.entered)
        assert dapr._server is not None

        await asyncio.wait_for(dapr._server.stop(30), 5)

        assert (stream.half_closed, stream.verdicts, subscription.in_flight) == (True, [], 1)
        gate.open.set()
        await eventually(lambda: subscription.untold == 1)
        assert not gate.cancelled
        await subscription.close()


async def test_closing_while_the_sidecar_wants_to_go_keeps_to_its_grace(app: App, settings: Settings) -> None:
    gate = Gate()
    async with StreamingDapr(settings.sidecar_address) as dapr:
        opening = asyncio.ensure_future(app.subscribe_stream("events", "desk", gate))
        stream = await dapr.next_stream()
        subscription = await opening
        await stream.send(event_frame("e-1"))
        await eventually(lambda: gate.entered)
        assert dapr._server is not None
        watched = app._streaming._watch._leave
        going = asyncio.ensure_future(dapr._server.stop(30))
        await eventually(lambda: app._streaming._watch._leave is not watched)

        await asyncio.wait_for(subscription.close(0.1), 3)

        assert gate.cancelled == ["e-1"]
        await asyncio.wait_for(going, 5)


async def test_a_sidecar_that_restarts_is_found_again(app: App, settings: Settings) -> None:
    async with StreamingDapr(settings.sidecar_address) as dapr:
        opening = asyncio.ensure_future(app.subscribe_stream("events", "desk", ignore))
        await dapr.next_stream()
        subscription = await opening
    await eventually(lambda: subscription.state == "connecting")
    async with StreamingDapr(settings.sidecar_address) as dapr:
        stream = await dapr.next_stream()
        await stream.send(event_frame("e-1"))
        await stream.told(("e-1", "SUCCESS"))
        await subscription.close()


# -- Closing -----------------------------------------------------------------------------------------------------------


@pytest.mark.req("R1.4")
async def test_closing_lets_handlers_finish_and_answers_them_before_the_stream_ends(subscribe: Subscribe) -> None:
    gate = Gate()
    subscription, stream = await subscribe(gate)
    await stream.send(event_frame("e-1"), event_frame("e-2"))
    await eventually(lambda: len(gate.entered) == 2)

    closing = asyncio.ensure_future(subscription.close())
    await eventually(lambda: subscription.state == "closing")
    await stream.send(event_frame("late"))
    assert not stream.half_closed
    gate.open.set()
    await closing

    await stream.told(("e-1", "SUCCESS"), ("e-2", "SUCCESS"))
    assert gate.entered == ["e-1", "e-2"]
    assert (stream.half_closed, subscription.state, subscription.in_flight) == (True, "closed", 0)


@pytest.mark.req("R1.4")
async def test_a_handler_that_outlasts_the_grace_is_cancelled_and_its_event_not_answered(
    subscribe: Subscribe, log: Log
) -> None:
    gate = Gate()
    subscription, stream = await subscribe(gate)
    await stream.send(event_frame("e-1"))
    await eventually(lambda: gate.entered)

    await subscription.close(0.05)

    assert (gate.cancelled, stream.verdicts, stream.half_closed) == (["e-1"], [], True)
    assert any("1 handlers did not finish in time" in line["message"] for line in log.of(level="WARNING"))


async def test_closing_again_is_the_same_closing_and_the_shortest_grace_holds(subscribe: Subscribe) -> None:
    gate = Gate()
    subscription, stream = await subscribe(gate)
    await stream.send(event_frame("e-1"))
    await eventually(lambda: gate.entered)

    patient = asyncio.ensure_future(subscription.close(100))
    await eventually(lambda: subscription._patience is not None)
    await asyncio.wait_for(asyncio.gather(subscription.close(0.05), patient), 3)
    await subscription.close()

    assert gate.cancelled == ["e-1"]


async def test_a_handler_that_finishes_as_the_grace_ends_is_answered(subscribe: Subscribe, log: Log) -> None:
    go, done = asyncio.Event(), asyncio.Event()

    async def handle(_event: bytes, _context: EventContext) -> None:
        await go.wait()
        done.set()

    async def close_when_done() -> None:
        await done.wait()
        await subscription.close(0)

    subscription, stream = await subscribe(handle)
    await stream.send(event_frame("one"))
    await eventually(lambda: subscription.in_flight == 1)
    subscription.begin_close(20)
    closing = asyncio.create_task(close_when_done())
    await eventually(lambda: subscription._patience is not None)
    go.set()
    await closing

    await stream.told(("one", "SUCCESS"))
    assert log.of(level="ERROR") == log.of(level="WARNING") == []


async def test_who_is_cancelled_while_closing_does_not_stop_it(subscribe: Subscribe) -> None:
    gate = Gate()
    subscription, stream = await subscribe(gate)
    await stream.send(event_frame("e-1"))
    await eventually(lambda: gate.entered)
    closing = asyncio.ensure_future(subscription.close())
    await eventually(lambda: subscription.state == "closing")

    closing.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await closing
    gate.open.set()

    await eventually(lambda: subscription.state == "closed")
    await stream.told(("e-1", "SUCCESS"))


async def test_a_handler_can_close_its_own_subscription(subscribe: Subscribe) -> None:
    mine: list[StreamingSubscription] = []

    async def handle(_data: bytes, _context: EventContext) -> None:
        await mine[0].close()

    subscription, stream = await subscribe(handle)
    mine.append(subscription)
    await stream.send(event_frame("e-1"))

    await eventually(lambda: subscription.state == "closed")
    await stream.told(("e-1", "SUCCESS"))


@pytest.mark.parametrize("when", ["opening", "waiting for the next try", "the sidecar is away"])
async def test_closing_while_it_connects_is_quick(app: App, settings: Settings, when: str) -> None:
    if when == "the sidecar is away":
        subscription = await app.subscribe_stream("events", "desk", ignore)
        await asyncio.wait_for(subscription.close(), 2)
        assert subscription.state == "closed"
        return
    async with StreamingDapr(settings.sidecar_address) as dapr:
        opening = asyncio.ensure_future(app.subscribe_stream("events", "desk", ignore))
        stream = await dapr.next_stream(accept=False)
        if when == "waiting for the next try":
            stream.end(Code.UNAVAILABLE, "away")
            await opening
        [subscription] = app.streaming_subscriptions

        await asyncio.wait_for(subscription.close(), 2)

        assert subscription.state == "closed"
        assert (await opening) is subscription
        assert app.streaming_subscriptions == []


async def test_a_sidecar_that_does_not_end_a_half_closed_stream_is_left(
    subscribe: Subscribe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streaming_module, "_LONGEST_PARTING", 0.1)
    monkeypatch.setattr(streaming_module, "_SHORTEST_PARTING", 0.1)
    subscription, stream = await subscribe()
    monkeypatch.setattr(stream, "end", lambda *_: None)

    await asyncio.wait_for(subscription.close(), 2)

    assert stream.half_closed
    await eventually(lambda: stream.over)


async def test_the_end_of_an_async_with_closes(subscribe: Subscribe) -> None:
    subscription, stream = await subscribe()

    async with subscription as same:
        assert same is subscription

    assert (subscription.state, stream.half_closed) == ("closed", True)
    assert repr(subscription) == "<the streaming subscription to topic 'desk' of 'events': closed>"


@pytest.mark.req("R1.4")
async def test_the_apps_stop_closes_all_of_them_with_their_verdicts(app: App, dapr: StreamingDapr) -> None:
    gates = [Gate() for _ in range(3)]
    streams = []
    for number, gate in enumerate(gates):
        opening = asyncio.ensure_future(app.subscribe_stream("events", f"desk-{number}", gate))
        streams.append(await dapr.next_stream())
        await opening
        await streams[-1].send(event_frame("e-1"))
    await eventually(lambda: all(gate.entered for gate in gates))
    stopping = asyncio.ensure_future(app.stop())
    await eventually(lambda: all(each.state == "closing" for each in app.streaming_subscriptions))
    for gate in gates:
        gate.open.set()

    await stopping

    for stream in streams:
        await stream.told(("e-1", "SUCCESS"))
        assert stream.half_closed
    assert app.streaming_subscriptions == []


async def test_many_opened_and_closed_leave_no_task(app: App, dapr: StreamingDapr) -> None:
    async def some() -> None:
        for number in range(20):
            opening = asyncio.ensure_future(app.subscribe_stream("events", f"desk-{number}", ignore))
            stream = await dapr.next_stream()
            await opening
            await stream.send(event_frame("e-1"))
            await stream.told(("e-1", "SUCCESS"))
        await asyncio.gather(*(each.close() for each in app.streaming_subscriptions))

    await some()
    before = len(asyncio.all_tasks())
    await some()

    await eventually(lambda: len(asyncio.all_tasks()) <= before)


async def test_a_loop_that_ends_takes_it_along(subscribe: Subscribe) -> None:
    gate = Gate()
    subscription, stream = await subscribe(gate)
    await stream.send(event_frame("e-1"))
    await eventually(lambda: gate.entered)

    subscription._task.cancel()

    await eventually(lambda: subscription.state == "closed" and not subscription.in_flight)
    await eventually(lambda: stream.over)
    assert gate.cancelled == ["e-1"]
