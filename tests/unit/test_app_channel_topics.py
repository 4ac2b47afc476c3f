"""Topic events: which verdict each outcome gives, and what a handler is told of an event."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from dapr.proto.runtime.v1 import appcallback_pb2, appcallback_pb2_grpc
from google.protobuf.empty_pb2 import Empty

from apibase import Conflict, Drop, EventContext, InvalidRequest, Retry, ServiceError, SidecarError, SidecarUnavailable
from apibase.app_channel import AppChannelAlphaServicer, AppChannelServicer
from apibase.dead_letters import Death
from apibase.deadline import deadline
from apibase.errors import FieldViolation
from apibase.observability import outbound_headers, trace_ids
from apibase.routes import RouteTable
from tests.unit.app_channels import DROP, RETRY, SUCCESS, Graveyard, app_channel
from tests.unit.fake_dapr import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from tests.unit.conftest import Desk, Log

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PUBLISHER = f"00-{TRACE}-00000000000000aa-01"
DELIVERY = f"00-{TRACE}-00000000000000bb-01"
ELSEWHERE = f"00-{'9' * 32}-00000000000000cc-01"


@pytest.fixture
def grpc_add_to_server() -> Any:
    def add(servicer: AppChannelServicer, server: Any) -> None:
        appcallback_pb2_grpc.add_AppCallbackServicer_to_server(servicer, server)
        appcallback_pb2_grpc.add_AppCallbackAlphaServicer_to_server(AppChannelAlphaServicer(servicer), server)

    return add


@pytest.fixture
def grpc_stub_cls() -> Any:
    return lambda channel: channel


class Listener:
    """The handlers of desk.v1.DeskEvents: what they got, and what they do."""

    def __init__(self) -> None:
        self.got: list[tuple[Any, EventContext]] = []
        self.do: Callable[[Any], Any] = lambda request: None

    async def handle(self, request: Any, context: EventContext) -> Empty:
        self.got.append((request, context))
        done = self.do(request)
        if done is not None:
            await done
        return Empty()


@pytest.fixture
def listener() -> Listener:
    return Listener()


@pytest.fixture
def graveyard() -> Graveyard:
    return Graveyard()


@pytest.fixture
async def channel(
    desk: Desk, listener: Listener, graveyard: Graveyard, grpc_aio_stub: Any, log: Log
) -> AsyncIterator[grpc.aio.Channel]:
    """Return a channel to an app with these handlers, as daprd has one."""
    methods = desk.pb2.DESCRIPTOR.services_by_name["DeskEvents"].methods_by_name
    handlers = {name: lambda _self, request, context: listener.handle(request, context) for name in methods}
    routes = RouteTable()
    routes.add(type("Events", (desk.grpc.DeskEventsServicer,), handlers)())
    async with grpc_aio_stub(servicer=app_channel(routes, graveyard)) as opened:
        yield opened


def event(
    data: bytes = b'{"text": "why", "number": 7}', *, extensions: dict[str, Any] | None = None, **fields: Any
) -> appcallback_pb2.TopicEventRequest:
    made = appcallback_pb2.TopicEventRequest(
        **{
            "id": "event-1",
            "source": "shop",
            "type": "desk.v1.Asked",
            "spec_version": "1.0",
            "data_content_type": "application/json",
            "topic": "desk",
            "pubsub_name": "events",
            "data": data,
            **fields,
        }
    )
    made.extensions.update(extensions or {})
    return made


async def deliver(channel: grpc.aio.Channel, request: Any, **options: Any) -> int:
    response = await appcallback_pb2_grpc.AppCallbackStub(channel).OnTopicEvent(request, **options)
    return response.status


@pytest.mark.req("R1.3", "R3.3")
async def test_a_handler_gets_the_message_and_the_events_attributes(
    desk: Desk, channel: grpc.aio.Channel, listener: Listener
) -> None:
    request = event(extensions={"traceparent": PUBLISHER, "shop": "east"})

    assert await deliver(channel, request, metadata=(("x-daprd", "yes"),)) == SUCCESS

    ((message, context),) = listener.got
    assert message == desk.pb2.Asked(text="why", number=7)
    assert (context.kind, context.id, context.source, context.type) == ("topic", "event-1", "shop", "desk.v1.Asked")
    assert (context.pubsub_name, context.topic, context.content_type) == ("events", "desk", "application/json")
    assert context.extensions["shop"] == "east"
    assert context.headers["x-daprd"] == "yes"


async def test_the_apps_own_token_is_not_in_an_events_context(channel: grpc.aio.Channel, listener: Listener) -> None:
    await deliver(channel, event(), metadata=(("dapr-api-token", "hunter2"),))

    assert "hunter2" not in repr(listener.got[0][1])


async def test_events_of_two_types_on_one_topic_reach_their_own_handlers(
    desk: Desk, channel: grpc.aio.Channel, listener: Listener, log: Log
) -> None:
    await deliver(channel, event())
    await deliver(channel, event(b'{"text": "because"}', type="desk.v1.Answered"))

    assert [message for message, _ in listener.got] == [
        desk.pb2.Asked(text="why", number=7),
        desk.pb2.Answered(text="because"),
    ]
    assert [line["method"] for line in log.of(logger="apibase.event")] == [
        "desk.v1.DeskEvents.OnAsked",
        "desk.v1.DeskEvents.OnAnswered",
    ]


def raising(error: BaseException) -> Callable[[Any], Any]:
    async def do() -> None:
        raise error

    return lambda _request: do()


async def stray_cancellation() -> None:
    task = asyncio.ensure_future(asyncio.Event().wait())
    task.cancel()
    await task


@pytest.mark.req("R3.4")
@pytest.mark.parametrize(
    ("do", "verdict", "buried"),
    [
        pytest.param(lambda _request: None, SUCCESS, None, id="returns"),
        pytest.param(raising(Retry("not yet")), RETRY, None, id="Retry"),
        pytest.param(raising(Retry()), RETRY, None, id="Retry without a word"),
        pytest.param(raising(Drop("never")), SUCCESS, Death("DROPPED", "never"), id="Drop"),
        pytest.param(raising(Drop("never", code="STALE")), SUCCESS, Death("STALE", "never"), id="Drop with a code"),
        pytest.param(raising(SidecarUnavailable("gone")), RETRY, None, id="no sidecar"),
        pytest.param(
            raising(SidecarError(grpc.StatusCode.INVALID_ARGUMENT, "ERR_KEY", "bad key")),
            RETRY,
            None,
            id="an error of the sidecar that another try will meet",
        ),
        pytest.param(raising(Conflict("order/7")), RETRY, None, id="a lost race"),
        pytest.param(
            raising(ServiceError(grpc.StatusCode.UNAVAILABLE, "BUSY", "busy")), RETRY, None, id="a retryable error"
        ),
        pytest.param(
            raising(ServiceError(grpc.StatusCode.NOT_FOUND, "NO", "no", retryable=True)),
            RETRY,
            None,
            id="an error that says that it is retryable",
        ),
        pytest.param(
            raising(ServiceError(grpc.StatusCode.NOT_FOUND, "NO_ORDER", "there is no order 7")),
            SUCCESS,
            Death("NO_ORDER", "there is no order 7"),
            id="an error that no retry mends",
        ),
        pytest.param(
            raising(ServiceError(grpc.StatusCode.UNIMPLEMENTED, "NO", "no")),
            SUCCESS,
            Death("NO", "no"),
            id="an error that daprd would lose",
        ),
        pytest.param(
            raising(InvalidRequest([FieldViolation("text", "is rude")])),
            SUCCESS,
            Death("INVALID_REQUEST", "text: is rude"),
            id="a handler's violations",
        ),
        pytest.param(raising(RuntimeError("hunter2")), RETRY, None, id="anything unexpected"),
        pytest.param(raising(NotImplementedError()), RETRY, None, id="not implemented"),
        pytest.param(
            raising(grpc.aio.AioRpcError(grpc.StatusCode.UNIMPLEMENTED, grpc.aio.Metadata(), grpc.aio.Metadata())),
            RETRY,
            None,
            id="a failed rpc to another app",
        ),
        pytest.param(lambda _request: stray_cancellation(), RETRY, None, id="a cancellation of its own making"),
    ],
)
async def test_a_handlers_end_is_the_verdict(
    channel: grpc.aio.Channel,
    listener: Listener,
    graveyard: Graveyard,
    log: Log,
    do: Callable[[Any], Any],
    verdict: int,
    buried: Death | None,
) -> None:
    listener.do = do

    assert await deliver(channel, event(), timeout=5) == verdict

    line = log.one(logger="apibase.event")
    assert line["verdict"] == appcallback_pb2.TopicEventResponse.TopicEventResponseStatus.Name(verdict)
    assert (line["event_id"], line["topic"], line["pubsub_name"]) == ("event-1", "desk", "events")
    handled = verdict == SUCCESS and buried is None
    assert ("reason" in line) == (not handled)
    assert line["level"] == ("INFO" if handled else "WARNING")
    if buried is None:
        assert graveyard.buried == []
    else:
        assert line["reason"] == f"dead letter on desk.dead: {buried.code}: {buried.reason}"
        ((route, incoming, death),) = graveyard.buried
        assert (route.name, incoming.event.id, death) == ("desk.v1.DeskEvents.OnAsked", "event-1", buried)


@pytest.mark.req("R3.4")
async def test_an_event_whose_dead_letter_can_not_be_published_comes_again(
    channel: grpc.aio.Channel, listener: Listener, graveyard: Graveyard, log: Log
) -> None:
    listener.do = raising(Drop("never"))
    graveyard.error = SidecarUnavailable("the broker is away")

    assert await deliver(channel, event()) == RETRY

    reason = log.one(logger="apibase.event")["reason"]
    assert "DROPPED: never" in reason
    assert "the broker is away" in reason


@pytest.mark.req("R3.4")
async def test_an_event_whose_dead_letter_can_not_even_be_written_comes_again(
    channel: grpc.aio.Channel, listener: Listener, graveyard: Graveyard, log: Log
) -> None:
    listener.do = raising(Drop("never"))
    graveyard.error = ValueError("hunter2")

    assert await deliver(channel, event()) == RETRY

    assert log.one(level="ERROR")["error"]["type"] == "ValueError"
    assert "hunter2" not in log.one(logger="apibase.event")["reason"]


@pytest.mark.req("R3.3", "R3.4")
@pytest.mark.parametrize(
    ("data", "content_type", "code"),
    [
        pytest.param(b"", "application/json", "UNDECODABLE", id="no data"),
        pytest.param(b"{", "application/json", "UNDECODABLE", id="no JSON"),
        pytest.param(b"\xff\xfe", "application/json", "UNDECODABLE", id="no text"),
        pytest.param(b"null", "application/json", "UNDECODABLE", id="null"),
        pytest.param(b"[]", "application/json", "UNDECODABLE", id="a list"),
        pytest.param(b'"why"', "application/json", "UNDECODABLE", id="a string"),
        pytest.param(b"7", "application/json", "UNDECODABLE", id="a number"),
        pytest.param(b"[" * 100_000, "application/json", "UNDECODABLE", id="too deep"),
        pytest.param(b'{"text":' * 100_000, "application/json", "UNDECODABLE", id="too deep, from an object on"),
        pytest.param(b'{"text": 7}', "application/json", "UNDECODABLE", id="a field of another type"),
        pytest.param(b'{"text": "why", "number": "many"}', "application/json", "UNDECODABLE", id="a number in words"),
        pytest.param(b'{"text": "why", "number": 1e999}', "application/json", "UNDECODABLE", id="a number without end"),
        pytest.param(b'{"text": "\\ud800"}', "application/json", "UNDECODABLE", id="half a character"),
        pytest.param(b'{"text": "a", "text": "b"}', "application/json", "UNDECODABLE", id="a field given twice"),
        pytest.param(b'{"text": ""}', "application/json", "INVALID_REQUEST", id="invalid by contract"),
        pytest.param(b"\xff\xff", "application/protobuf", "UNDECODABLE", id="no protobuf"),
        pytest.param(b"\x10\x07", "application/protobuf", "INVALID_REQUEST", id="protobuf that is invalid by contract"),
        pytest.param(b"", "application/octet-stream", "INVALID_REQUEST", id="an empty message"),
        pytest.param(b"hello", "text/plain", "UNDECODABLE", id="plain text"),
    ],
)
async def test_data_that_is_no_valid_message_is_buried_before_the_handler(
    channel: grpc.aio.Channel,
    listener: Listener,
    graveyard: Graveyard,
    log: Log,
    data: bytes,
    content_type: str,
    code: str,
) -> None:
    assert await deliver(channel, event(data, data_content_type=content_type)) == SUCCESS

    assert listener.got == []
    ((route, incoming, death),) = graveyard.buried
    assert (route.name, route.dead_letter_topic) == ("desk.v1.DeskEvents.OnAsked", "desk.dead")
    assert (incoming.data, death.code) == (data, code)
    assert death.reason
    assert death.reason in log.one(logger="apibase.event")["reason"]
    assert log.of(level="ERROR") == []


@pytest.mark.parametrize(
    "content_type",
    ["application/json", "application/json; charset=utf-8", "application/vnd.shop+json", "APPLICATION/JSON", ""],
)
async def test_json_is_read_whatever_its_content_type_is_called(
    desk: Desk, channel: grpc.aio.Channel, listener: Listener, content_type: str
) -> None:
    data = b' \n{"text": "why", "number": 7, "a_field_of_next_year": [1]}'

    assert await deliver(channel, event(data, data_content_type=content_type)) == SUCCESS

    assert listener.got[0][0] == desk.pb2.Asked(text="why", number=7)


@pytest.mark.parametrize(
    "content_type", ["application/protobuf", "application/x-protobuf; charset=binary", "application/octet-stream"]
)
async def test_protobuf_is_read_as_such(
    desk: Desk, channel: grpc.aio.Channel, listener: Listener, content_type: str
) -> None:
    asked = desk.pb2.Asked(text="why", number=7)

    assert await deliver(channel, event(asked.SerializeToString(), data_content_type=content_type)) == SUCCESS

    assert listener.got[0][0] == asked


@pytest.mark.parametrize("field", ["type", "topic", "pubsub_name"])
async def test_an_event_that_nobody_listens_to_is_acknowledged(
    channel: grpc.aio.Channel, listener: Listener, log: Log, field: str
) -> None:
    assert await deliver(channel, event(**{field: "unknown"})) == SUCCESS

    assert listener.got == []
    assert log.one(event_id="event-1")["level"] == "DEBUG"


@pytest.mark.req("R10.5")
async def test_an_unexpected_exception_is_logged_with_its_stack(
    channel: grpc.aio.Channel, listener: Listener, log: Log
) -> None:
    listener.do = raising(RuntimeError("the desk is on fire"))

    await deliver(channel, event(extensions={"traceparent": PUBLISHER}))

    line = log.one(level="ERROR")
    assert (line["error"]["type"], line["error"]["message"]) == ("RuntimeError", "the desk is on fire")
    assert "test_app_channel_topics.py" in line["error"]["stack"]
    assert line["trace_id"] == TRACE


async def test_an_event_that_is_taken_back_cancels_its_handler_and_is_no_error(
    channel: grpc.aio.Channel, listener: Listener, log: Log
) -> None:
    at_work = asyncio.Event()

    async def wait() -> None:
        at_work.set()
        await asyncio.Event().wait()

    listener.do = lambda _request: wait()
    call = appcallback_pb2_grpc.AppCallbackStub(channel).OnTopicEvent(event())
    await at_work.wait()
    call.cancel()
    await eventually(lambda: log.of(logger="apibase.event"))

    line = log.one(logger="apibase.event")
    assert (line["verdict"], line["reason"]) == ("RETRY", "cancelled")
    assert log.of(level="ERROR") == []


@pytest.mark.req("R10.4")
@pytest.mark.parametrize(
    ("published", "delivered", "trace", "span"),
    [
        pytest.param(PUBLISHER, DELIVERY, TRACE, "00000000000000bb", id="daprd continues the publisher's trace"),
        pytest.param(PUBLISHER, ELSEWHERE, TRACE, "00000000000000aa", id="daprd has a trace of its own"),
        pytest.param(PUBLISHER, None, TRACE, "00000000000000aa", id="daprd has none"),
        pytest.param(None, DELIVERY, TRACE, "00000000000000bb", id="the event has none"),
        pytest.param(f"00-{'0' * 32}-{'0' * 16}-00", DELIVERY, TRACE, "00000000000000bb", id="the event's is zero"),
        pytest.param(7, DELIVERY, TRACE, "00000000000000bb", id="the event's is no text"),
        pytest.param("", DELIVERY, TRACE, "00000000000000bb", id="the event's is empty"),
    ],
)
async def test_an_event_belongs_to_its_publishers_trace(
    channel: grpc.aio.Channel,
    listener: Listener,
    log: Log,
    published: object,
    delivered: str | None,
    trace: str,
    span: str,
) -> None:
    seen: list[tuple[tuple[str, str], dict[str, str]]] = []
    listener.do = lambda _request: seen.append((trace_ids(), outbound_headers()))
    extensions = {} if published is None else {"traceparent": published, "tracestate": "vendor=1"}
    metadata = [("x-correlation-id", "c7")] + ([] if delivered is None else [("traceparent", delivered)])

    await deliver(channel, event(extensions=extensions), metadata=metadata)

    (((trace_id, span_id), headers),) = seen
    assert (trace_id, span_id) == (trace, span)
    assert headers["x-correlation-id"] == "c7"
    assert log.one(logger="apibase.event")["trace_id"] == trace


async def test_a_handler_knows_how_long_daprd_waits(channel: grpc.aio.Channel, listener: Listener) -> None:
    left: list[float | None] = []
    listener.do = lambda _request: left.append(deadline.bound(None))

    await deliver(channel, event(), timeout=30)

    assert left == [pytest.approx(30, abs=1)]


def entry(number: int, text: str, metadata: dict[str, str] | None = None) -> appcallback_pb2.TopicEventBulkRequestEntry:
    return appcallback_pb2.TopicEventBulkRequestEntry(
        entry_id=f"entry-{number}",
        cloud_event=appcallback_pb2.TopicEventCERequest(
            id=f"event-{number}",
            source="shop",
            type="desk.v1.Asked",
            spec_version="1.0",
            data_content_type="application/json",
            data=json.dumps({"text": text, "number": number}).encode(),
        ),
        metadata=metadata,
    )


@pytest.mark.parametrize("stable", [True, False], ids=["the stable method", "the one that Dapr 1.14 calls"])
async def test_every_entry_of_a_batch_has_its_own_verdict(
    channel: grpc.aio.Channel, listener: Listener, graveyard: Graveyard, stable: bool
) -> None:
    by_text = {
        "drop": Drop("never"),
        "retry": Retry(),
        "break": RuntimeError("hunter2"),
        "gone": SidecarUnavailable(""),
    }
    listener.do = lambda request: raising(by_text[request.text])(request) if request.text in by_text else None
    texts = ["fine", "drop", "retry", "", "break", "gone", "fine"]
    request = appcallback_pb2.TopicEventBulkRequest(
        id="batch",
        topic="desk",
        pubsub_name="events",
        entries=[entry(number, text, {"key": str(number)}) for number, text in enumerate(texts)],
    )
    request.entries.add(entry_id="raw", bytes=b"no CloudEvent")

    if stable:
        response = await appcallback_pb2_grpc.AppCallbackStub(channel).OnBulkTopicEvent(request)
    else:
        response = await appcallback_pb2_grpc.AppCallbackAlphaStub(channel).OnBulkTopicEventAlpha1(request)

    assert [(status.entry_id, status.status) for status in response.statuses] == [
        ("entry-0", SUCCESS),
        ("entry-1", SUCCESS),
        ("entry-2", RETRY),
        ("entry-3", SUCCESS),
        ("entry-4", RETRY),
        ("entry-5", RETRY),
        ("entry-6", SUCCESS),
        ("raw", DROP),
    ]
    assert {(incoming.event.id, death.code) for _, incoming, death in graveyard.buried} == {
        ("event-1", "DROPPED"),
        ("event-3", "INVALID_REQUEST"),
    }
    contexts = {context.id: context for _, context in listener.got}
    assert contexts["event-6"].metadata == {"key": "6"}
    assert (contexts["event-6"].topic, contexts["event-6"].pubsub_name) == ("desk", "events")


async def test_the_entries_of_a_batch_are_handled_at_once_each_in_its_own_context(
    channel: grpc.aio.Channel, listener: Listener
) -> None:
    together = asyncio.Barrier(3)
    traces: list[str] = []

    async def meet() -> None:
        await together.wait()
        traces.append(trace_ids()[0])

    listener.do = lambda _request: meet()
    entries = [entry(number, "fine") for number in range(3)]
    for number, made in enumerate(entries, 1):
        made.cloud_event.extensions.update({"traceparent": f"00-{number:032x}-00000000000000aa-01"})
    request = appcallback_pb2.TopicEventBulkRequest(id="batch", topic="desk", pubsub_name="events", entries=entries)

    await appcallback_pb2_grpc.AppCallbackStub(channel).OnBulkTopicEvent(request, timeout=5)

    assert sorted(traces) == [f"{number:032x}" for number in (1, 2, 3)]


@pytest.mark.req("R3.6")
async def test_daprd_is_told_the_topics_with_their_dead_letter_topics(channel: grpc.aio.Channel) -> None:
    response = await appcallback_pb2_grpc.AppCallbackStub(channel).ListTopicSubscriptions(Empty())

    (subscription,) = response.subscriptions
    assert (subscription.pubsub_name, subscription.topic, subscription.dead_letter_topic) == (
        "events",
        "desk",
        "desk.dead",
    )


@pytest.mark.req("R3.4")
@pytest.mark.parametrize("type_", ["", "com.dapr.event.sent"], ids=["none", "the one that Dapr gives"])
async def test_an_event_of_no_type_of_its_own_is_not_lost_where_several_handlers_could_be_meant(
    channel: grpc.aio.Channel, listener: Listener, log: Log, type_: str
) -> None:
    assert await deliver(channel, event(type=type_)) == DROP

    assert listener.got == []
    assert "has no type, so no handler can be told; dropped" in log.one(level="WARNING")["message"]
