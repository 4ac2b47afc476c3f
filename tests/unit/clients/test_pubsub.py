"""Publishing: the CloudEvent that a contract's message becomes."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

import grpc
import pytest

from apibase import ContractError, PubSubPublisher, SidecarError, SidecarUnavailable
from apibase.clients import Sidecar
from apibase.observability import call_context
from tests.unit.fake_dapr import FakeDapr

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from apibase import Settings
    from tests.unit.conftest import Desk

TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@pytest.fixture
async def publisher(dapr: FakeDapr, settings: Settings) -> AsyncIterator[PubSubPublisher]:
    sidecar = Sidecar(settings)
    yield PubSubPublisher(sidecar)
    await sidecar.close()


@pytest.mark.req("R1.3", "R3.1")
async def test_an_event_goes_to_the_topic_of_its_contract_with_its_full_name_as_type(
    desk: Desk, publisher: PubSubPublisher, dapr: FakeDapr
) -> None:
    event_id = await publisher.publish(desk.pb2.Asked(text="why", number=7), id="asked:7", subject="desk-7")

    (request,) = dapr.published
    assert event_id == "asked:7"
    assert (request.pubsub_name, request.topic) == ("events", "desk")
    assert (request.data, request.data_content_type) == (b'{"text": "why", "number": 7}', "application/json")
    assert dict(request.metadata) == {
        "cloudevent.id": "asked:7",
        "cloudevent.type": "desk.v1.Asked",
        "cloudevent.subject": "desk-7",
    }


async def test_an_event_without_an_id_gets_one_of_its_own(
    desk: Desk, publisher: PubSubPublisher, dapr: FakeDapr
) -> None:
    first, second = [await publisher.publish(desk.pb2.Asked()) for _ in range(2)]

    assert uuid.UUID(first) != uuid.UUID(second)
    assert [request.metadata["cloudevent.id"] for request in dapr.published] == [first, second]


@pytest.mark.req("R2.5")
async def test_an_event_carries_the_trace_of_the_call_that_published_it(
    desk: Desk, publisher: PubSubPublisher, dapr: FakeDapr
) -> None:
    with call_context({"traceparent": TRACEPARENT, "tracestate": "vendor=1", "x-correlation-id": "c7"}):
        await publisher.publish(desk.pb2.Asked())

    metadata = dapr.published[0].metadata
    assert (metadata["cloudevent.traceparent"], metadata["cloudevent.tracestate"]) == (TRACEPARENT, "vendor=1")
    assert dapr.last("PublishEvent").metadata["x-correlation-id"] == "c7"


async def test_a_message_that_is_no_event_is_not_published(
    desk: Desk, publisher: PubSubPublisher, dapr: FakeDapr
) -> None:
    with pytest.raises(ContractError, match=r"desk.v1.Question is not an event"):
        await publisher.publish(desk.pb2.Question())

    assert dapr.calls == []


async def test_an_event_that_the_broker_does_not_take_is_an_error(
    desk: Desk, publisher: PubSubPublisher, dapr: FakeDapr
) -> None:
    dapr.fail("PublishEvent", grpc.StatusCode.INTERNAL, "the broker is away")
    with pytest.raises(SidecarError, match="the broker is away") as caught:
        await publisher.publish(desk.pb2.Asked())
    assert caught.value.component == "events"

    dapr.fail("PublishEvent", grpc.StatusCode.UNAVAILABLE)
    with pytest.raises(SidecarUnavailable):
        await publisher.publish(desk.pb2.Asked())
    assert dapr.published == []
