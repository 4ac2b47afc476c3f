"""Publishing in bulk: batches, what fails in them, and what a sidecar that is too old makes of it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from typing import Any

import grpc
import pytest
from dapr.proto import api_v1
from opentelemetry.trace import SpanKind

from apibase import (
    ContractError,
    NotSupported,
    Publication,
    PubSubPublisher,
    Settings,
    Sidecar,
    SidecarError,
    SidecarUnavailable,
)
from tests.unit.clients.test_spans import traceparent, within
from tests.unit.conftest import Desk
from tests.unit.fake_dapr import FakeDapr, eventually
from tests.unit.traced import Recorded

TOPIC: dict[str, Any] = {"pubsub_name": "events", "topic": "parcels"}


class Broker(FakeDapr):
    """Takes batches under the names that it `knows`; entries whose data is among `refused` fail."""

    knows = frozenset({"BulkPublishEvent"})
    refused: frozenset[bytes] = frozenset()

    async def BulkPublishEvent(self, request: Any, context: Any) -> Any:
        return await self._bulk("BulkPublishEvent", request, context)

    async def BulkPublishEventAlpha1(self, request: Any, context: Any) -> Any:
        return await self._bulk("BulkPublishEventAlpha1", request, context)

    async def _bulk(self, method: str, request: Any, context: Any) -> Any:
        if method not in self.knows:
            await context.abort(grpc.StatusCode.UNKNOWN, "required metadata dapr-app-id not found")
        await self._take(method, request, context)
        failed = [entry.entry_id for entry in request.entries if entry.event in self.refused]
        return api_v1.BulkPublishResponse(failedEntries=[{"entry_id": id_, "error": "no room"} for id_ in failed])

    @property
    def batches(self) -> list[Any]:
        return [call.request for call in self.calls if call.method.startswith("BulkPublish")]


@pytest.fixture
async def broker(settings: Settings) -> AsyncIterator[Broker]:
    async with Broker(settings.sidecar_address) as broker:
        yield broker


@pytest.fixture
async def publisher(broker: Broker, settings: Settings) -> AsyncIterator[PubSubPublisher]:
    sidecar = Sidecar(settings)
    yield PubSubPublisher(sidecar)
    await sidecar.close()


@pytest.mark.req("R3.5")
async def test_events_of_one_topic_go_in_one_call_with_what_is_said_of_each(
    desk: Desk, broker: Broker, publisher: PubSubPublisher
) -> None:
    result = await publisher.publish_bulk(
        [
            Publication(desk.pb2.Asked(text="a"), id="1", key="ann", ttl=timedelta(seconds=1.2)),
            Publication(desk.pb2.Asked(text="b"), id="2", subject="s", metadata={"own": "x"}),
        ]
    )

    (batch,) = broker.batches
    assert (batch.pubsub_name, batch.topic, dict(batch.metadata)) == ("events", "desk", {})
    first, second = batch.entries
    assert dict(first.metadata) == {
        "cloudevent.id": "1",
        "cloudevent.type": "desk.v1.Asked",
        "partitionKey": "ann",
        "ttlInSeconds": "2",
    }
    assert (dict(second.metadata)["own"], dict(second.metadata)["cloudevent.subject"]) == ("x", "s")
    assert result.ids == ("1", "2")


@pytest.mark.req("R3.5")
async def test_entries_that_the_component_refuses_are_told(broker: Broker, publisher: PubSubPublisher) -> None:
    broker.refused = frozenset({b"b", b"c"})
    given = [Publication(text, id=text, **TOPIC) for text in "abcd"]

    result = await publisher.publish_bulk(given)

    assert [(each.index, each.id, each.event) for each in result.failed] == [(1, "b", given[1]), (2, "c", given[2])]
    error = result.failed[0].error
    assert (error.code, error.message, error.component) == (grpc.StatusCode.INTERNAL, "no room", "events")
    with pytest.raises(SidecarError, match="no room"):
        result.raise_for_failed()


async def test_a_batch_that_fails_whole_is_an_error(broker: Broker, publisher: PubSubPublisher) -> None:
    broker.refused = frozenset({b"a", b"b"})
    with pytest.raises(SidecarError, match="no room"):
        await publisher.publish_bulk([Publication(text, **TOPIC) for text in "ab"])

    broker.fail("BulkPublishEvent", grpc.StatusCode.INTERNAL, "the broker is away")
    with pytest.raises(SidecarError, match="the broker is away"):
        await publisher.publish_bulk([Publication(text, **TOPIC) for text in "xy"])


async def test_of_a_call_that_fails_all_events_are_told_and_the_next_is_made(
    broker: Broker, settings: Settings
) -> None:
    sidecar = Sidecar(settings.model_copy(update={"max_message_bytes": 1_000}))
    broker.fail("BulkPublishEvent", grpc.StatusCode.INTERNAL, "the broker is away")

    result = await PubSubPublisher(sidecar).publish_bulk([Publication("x" * 300, id=str(n), **TOPIC) for n in range(4)])
    await sidecar.close()

    assert [(each.id, each.error.message) for each in result.failed] == [
        ("0", "the broker is away"),
        ("1", "the broker is away"),
    ]
    assert [[entry.metadata["cloudevent.id"] for entry in batch.entries] for batch in broker.batches] == [
        ["0", "1"],
        ["2", "3"],
    ]


async def test_where_time_is_over_the_rest_is_not_tried(broker: Broker, settings: Settings) -> None:
    sidecar = Sidecar(settings.model_copy(update={"max_message_bytes": 1_000}))
    broker.fail("BulkPublishEvent", grpc.StatusCode.DEADLINE_EXCEEDED)

    with pytest.raises(SidecarError) as caught:
        await PubSubPublisher(sidecar).publish_bulk([Publication("x" * 300, **TOPIC) for _ in range(8)])
    await sidecar.close()

    assert caught.value.code is grpc.StatusCode.DEADLINE_EXCEEDED
    assert len(broker.batches) == 1


async def test_a_sidecar_that_is_away_takes_none(settings: Settings) -> None:
    sidecar = Sidecar(settings)
    with pytest.raises(SidecarUnavailable):
        await PubSubPublisher(sidecar).publish_bulk([Publication("a", **TOPIC), Publication("b", **TOPIC)])
    await sidecar.close()


async def test_a_sidecar_that_knows_the_older_name_only_is_asked_by_it(
    broker: Broker, publisher: PubSubPublisher
) -> None:
    broker.knows = frozenset({"BulkPublishEventAlpha1"})
    for _ in range(2):
        assert (await publisher.publish_bulk([Publication("a", **TOPIC)])).failed == ()

    assert [call.method for call in broker.calls] == ["BulkPublishEventAlpha1"] * 2


async def test_a_sidecar_that_knows_no_name_does_not_support_it(broker: Broker, publisher: PubSubPublisher) -> None:
    broker.knows = frozenset()
    with pytest.raises(NotSupported, match="'events' does not support publishing in bulk"):
        await publisher.publish_bulk([Publication("a", **TOPIC)])


async def test_an_event_that_is_none_is_refused_before_any_is_published(
    desk: Desk, broker: Broker, publisher: PubSubPublisher
) -> None:
    for wrong, error in [
        (desk.pb2.Question(), ContractError),
        ("text", ValueError),
        (Publication(object(), **TOPIC), TypeError),  # type: ignore[arg-type]
    ]:
        with pytest.raises(error):
            await publisher.publish_bulk([desk.pb2.Asked(text="a"), wrong])
    assert broker.calls == []


@pytest.mark.parametrize(
    "contradiction",
    [
        {"raw": True, "id": "1"},
        {"raw": True, "extensions": {"tenant": "acme"}},
        {"extensions": {"Tenant": "acme"}},
        {"extensions": {"traceid": "1"}},
        {"time": datetime(2030, 1, 1)},  # noqa: DTZ001 - the case
        {"ttl": timedelta(0)},
        {"metadata": {"rawPayload": "true"}},
    ],
)
def test_a_publication_that_contradicts_itself_is_refused(contradiction: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"raw|extension|time zone|ttl"):
        Publication("text", **TOPIC, **contradiction)


@pytest.mark.req("R2.5", "R10.1")
async def test_each_event_of_a_batch_carries_its_one_span_on_but_for_those_of_another_trace_and_raw_ones(
    broker: Broker, publisher: PubSubPublisher, recorded: Recorded
) -> None:
    other = f"00-{'a' * 32}-{'1' * 16}-01"
    given = [
        Publication("a", **TOPIC),
        Publication("b", extensions={"tenant": "acme"}, **TOPIC),
        Publication("c", metadata={"cloudevent.traceparent": other}, **TOPIC),
    ]
    with within(recorded):
        await publisher.publish_bulk(given)
        await publisher.publish_bulk([Publication("d", raw=True, **TOPIC)])

    await eventually(lambda: len(recorded.spans) == 2)
    batch, raw = recorded.spans
    assert (batch.name, batch.kind) == ("publish parcels", SpanKind.PRODUCER)
    plain, whole, foreign = broker.batches[0].entries
    assert foreign.metadata["cloudevent.traceparent"] == other
    assert plain.metadata["cloudevent.traceparent"] == traceparent(batch)
    assert traceparent(batch).encode() in whole.event
    assert dict(raw.attributes or {})["messaging.batch.message_count"] == 1
    assert dict(broker.batches[1].entries[0].metadata) == {"rawPayload": "true"}


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> Recorded:
    return Recorded(monkeypatch)
