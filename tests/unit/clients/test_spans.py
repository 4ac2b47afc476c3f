"""Spans of outbound calls: when there is one, what it says, and whose child the other side becomes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

import grpc
import pytest
from dapr.proto import api_service_v1, api_v1
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanKind, StatusCode, format_span_id, format_trace_id

from apibase import PubSubPublisher, ServiceInvocationClient, Settings, Sidecar
from apibase.observability import call_context
from apibase.observability.context import enter, extract, leave
from tests.unit.clients.remote import KINDS, Remote, call
from tests.unit.conftest import Desk
from tests.unit.fake_dapr import FakeDapr, eventually
from tests.unit.traced import Recorded

TRACE, CALLER = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
HEADERS = {"traceparent": f"00-{TRACE}-{CALLER}-01", "tracestate": "shelf=7", "baggage": "tenant=acme"}


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> Recorded:
    return Recorded(monkeypatch)


@pytest.fixture
async def remote(desk: Desk, settings: Settings) -> AsyncIterator[Remote]:
    remote = Remote(desk)
    async with FakeDapr(settings.sidecar_address, [remote.handler()]):
        yield remote


@pytest.fixture
async def sidecar(settings: Settings) -> AsyncIterator[Sidecar]:
    sidecar = Sidecar(settings)
    yield sidecar
    await sidecar.close()


@pytest.fixture
def stub(desk: Desk, remote: Remote, sidecar: Sidecar) -> Any:
    return ServiceInvocationClient(sidecar).client(desk.grpc.DeskStub, app_id="other")


@contextmanager
def within(recorded: Recorded, flags: str = "01") -> Iterator[trace.Span]:
    """Be within the span of an inbound call."""
    parent, context = extract(HEADERS | {"traceparent": f"00-{TRACE}-{CALLER}-{flags}"})
    span = recorded.tracer.begin("inbound", SpanKind.SERVER, parent, context, {})
    scope = enter(span, context, "")
    try:
        yield span
    finally:
        leave(scope)


def traceparent(span: ReadableSpan) -> str:
    ids = span.get_span_context()
    assert ids is not None
    return f"00-{format_trace_id(ids.trace_id)}-{format_span_id(ids.span_id)}-01"


async def ended(recorded: Recorded) -> ReadableSpan:
    """Wait for the one span: a call may end after its caller has stopped to wait for it."""
    await eventually(lambda: recorded.spans)
    return recorded.one()


@pytest.mark.req("R2.5", "R10.1")
@pytest.mark.parametrize("kind", KINDS)
async def test_a_call_within_a_recorded_span_has_one_of_its_own_of_which_the_other_side_is_the_child(
    desk: Desk, remote: Remote, stub: Any, recorded: Recorded, kind: str
) -> None:
    with within(recorded) as inbound:
        await call(desk, stub, kind)

    span = await ended(recorded)
    assert (span.name, span.kind, span.status.status_code) == (
        f"desk.v1.Desk/{kind}",
        SpanKind.CLIENT,
        StatusCode.UNSET,
    )
    assert dict(span.attributes or {}) == {
        "rpc.system.name": "grpc",
        "rpc.method": f"desk.v1.Desk/{kind}",
        "rpc.response.status_code": "OK",
        "server.address": "other",
    }
    assert span.parent == inbound.get_span_context()
    sent = remote.metadata[kind]
    assert sent["traceparent"] == traceparent(span)
    assert (sent["tracestate"], sent["baggage"]) == ("shelf=7", "tenant=acme")


@pytest.mark.parametrize("kind", KINDS)
async def test_a_call_within_a_span_that_is_not_recorded_has_none(
    desk: Desk, remote: Remote, stub: Any, recorded: Recorded, kind: str
) -> None:
    with within(recorded, flags="00"):
        await call(desk, stub, kind)
    assert remote.metadata[kind]["traceparent"] == f"00-{TRACE}-{CALLER}-00"

    with call_context(HEADERS):  # sampled by the caller, and nobody here records
        await call(desk, stub, kind)
    assert remote.metadata[kind]["traceparent"] == HEADERS["traceparent"]

    await call(desk, stub, kind)
    assert "traceparent" not in remote.metadata[kind]
    assert recorded.spans == ()


async def test_a_call_that_outlives_the_span_that_it_was_made_in_is_its_child_and_later_ones_have_no_span(
    desk: Desk, remote: Remote, stub: Any, recorded: Recorded
) -> None:
    remote.hold.clear()
    with within(recorded) as inbound:
        first = asyncio.create_task(call(desk, stub, "Ask"))
        await eventually(lambda: remote.metadata)
        inbound.end()
        second = asyncio.create_task(call(desk, stub, "Ask"))
    remote.hold.set()
    await asyncio.gather(first, second)

    assert [span.name for span in recorded.spans] == ["inbound", "desk.v1.Desk/Ask"]


@pytest.mark.req("R10.5")
@pytest.mark.parametrize("code", [code for code in grpc.StatusCode if code is not grpc.StatusCode.OK])
async def test_every_status_but_ok_is_an_error_of_a_call(
    dapr: FakeDapr, sidecar: Sidecar, recorded: Recorded, code: grpc.StatusCode
) -> None:
    dapr.fail("GetState", code, "as told")
    with within(recorded), pytest.raises(grpc.aio.AioRpcError):
        await api_service_v1.DaprStub(sidecar.channel()).GetState(api_v1.GetStateRequest(store_name="s", key="k"))

    span = await ended(recorded)
    attributes = dict(span.attributes or {})
    assert (attributes["rpc.response.status_code"], attributes["error.type"]) == (code.name, code.name)
    assert (span.status.status_code, span.status.description) == (StatusCode.ERROR, "as told")


@pytest.mark.parametrize("kind", KINDS)
async def test_a_call_that_is_given_up_ends_its_span(
    desk: Desk, remote: Remote, stub: Any, recorded: Recorded, kind: str
) -> None:
    remote.hold.clear()
    with within(recorded):
        pending = asyncio.create_task(call(desk, stub, kind))
        await eventually(lambda: remote.metadata)
        pending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await pending

    assert dict((await ended(recorded)).attributes or {})["rpc.response.status_code"] == "CANCELLED"


async def test_a_call_that_can_not_even_be_made_ends_its_span(desk: Desk, stub: Any, recorded: Recorded) -> None:
    with within(recorded), pytest.raises(TypeError):
        stub.Ask(desk.pb2.Question(), no_such_option=True)

    span = recorded.one()
    assert dict(span.attributes or {})["error.type"] == "TypeError"
    assert [event.name for event in span.events] == ["exception"]


async def test_a_call_of_the_sidecar_itself_says_where_that_is(settings: Settings, recorded: Recorded) -> None:
    sidecar = Sidecar(settings.model_copy(update={"dapr_grpc_endpoint": "127.0.0.1:1"}))
    with within(recorded), pytest.raises(grpc.aio.AioRpcError):
        await api_service_v1.DaprStub(sidecar.channel()).GetMetadata(api_v1.GetMetadataRequest())
    await sidecar.close()

    attributes = dict((await ended(recorded)).attributes or {})
    assert (attributes["server.address"], attributes["server.port"]) == ("127.0.0.1", 1)
    assert attributes["rpc.response.status_code"] == "UNAVAILABLE"


@pytest.mark.req("R2.5", "R10.1")
async def test_publishing_is_a_producer_span_that_the_event_carries_on(
    desk: Desk, dapr: FakeDapr, sidecar: Sidecar, recorded: Recorded
) -> None:
    with within(recorded) as inbound:
        await PubSubPublisher(sidecar).publish(desk.pb2.Asked(), id="e7")

    span = await ended(recorded)
    event = dapr.published[0]
    assert (span.name, span.kind) == (f"publish {event.topic}", SpanKind.PRODUCER)
    assert span.parent == inbound.get_span_context()
    attributes = dict(span.attributes or {})
    assert attributes["messaging.system"] == "dapr"
    assert (attributes["messaging.operation.type"], attributes["messaging.operation.name"]) == ("send", "publish")
    assert attributes["messaging.destination.name"] == event.topic
    assert (attributes["dapr.pubsub.name"], attributes["messaging.message.id"]) == (event.pubsub_name, "e7")
    assert event.metadata["cloudevent.traceparent"] == traceparent(span)
    assert event.metadata["cloudevent.tracestate"] == "shelf=7"
    assert dapr.last("PublishEvent").metadata["traceparent"] == traceparent(span)


async def test_a_request_that_is_published_twice_carries_each_calls_own_span_and_stays_as_it_was(
    dapr: FakeDapr, sidecar: Sidecar, recorded: Recorded
) -> None:
    request = api_v1.PublishEventRequest(pubsub_name="events", topic="desk", data=b"{}")
    stub = api_service_v1.DaprStub(sidecar.channel())
    with within(recorded):
        await stub.PublishEvent(request)
        await stub.PublishEvent(request)

    await eventually(lambda: len(recorded.spans) == 2)
    carried = [event.metadata["cloudevent.traceparent"] for event in dapr.published]
    assert carried == [traceparent(span) for span in recorded.spans]
    assert dict(request.metadata) == {}


async def test_a_trace_that_the_publisher_has_put_on_an_event_stays_on_it(
    dapr: FakeDapr, sidecar: Sidecar, recorded: Recorded
) -> None:
    request = api_v1.PublishEventRequest(pubsub_name="events", topic="desk", data=b"{}")
    request.metadata["cloudevent.traceparent"] = f"00-{'a' * 32}-{'1' * 16}-01"
    with within(recorded):
        await api_service_v1.DaprStub(sidecar.channel()).PublishEvent(request)

    assert dapr.published[0].metadata["cloudevent.traceparent"] == request.metadata["cloudevent.traceparent"]


async def test_a_batch_is_one_producer_span_that_says_how_many_there_are(
    dapr: FakeDapr, sidecar: Sidecar, recorded: Recorded
) -> None:
    entries = [api_v1.BulkPublishRequestEntry(entry_id=str(number)) for number in range(3)]
    request = api_v1.BulkPublishRequest(pubsub_name="events", topic="desk", entries=entries)
    with within(recorded), pytest.raises(grpc.aio.AioRpcError):  # the fake has no such method
        await api_service_v1.DaprStub(sidecar.channel()).BulkPublishEventAlpha1(request)

    span = await ended(recorded)
    assert (span.name, span.kind) == ("publish desk", SpanKind.PRODUCER)
    assert dict(span.attributes or {})["messaging.batch.message_count"] == 3
