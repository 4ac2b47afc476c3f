"""The mock broker: what is delivered, when it comes again, and what waits for whom."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest

from apibase.contract import ContractError
from apibase.testing.components import MockComponents
from dapr_components.v1 import pubsub_pb2
from shop.orders.v1 import events_pb2, order_pb2
from tests.unit.fake_dapr import eventually

pytestmark = pytest.mark.req("R14.4")


@asynccontextmanager
async def subscription(broker: Any, mocks: MockComponents, topic: str = "orders") -> AsyncIterator[Any]:
    before = len(mocks.pubsub.subscribed)
    call = broker.PullMessages()
    await call.write(pubsub_pb2.PullMessagesRequest(topic=pubsub_pb2.Topic(name=topic)))
    await eventually(lambda: len(mocks.pubsub.subscribed) == before + 1)
    try:
        yield call
    finally:
        call.cancel()
        await eventually(lambda: len(mocks.pubsub.subscribed) == before)


async def take(call: Any, error: str = "") -> pubsub_pb2.PullMessagesResponse:
    """Read a message and acknowledge it, or say why not."""
    message = await asyncio.wait_for(call.read(), 5)
    failure = pubsub_pb2.AckMessageError(message=error) if error else None
    await call.write(pubsub_pb2.PullMessagesRequest(ack_message_id=message.id, ack_error=failure))
    return message


def publication(data: bytes, topic: str = "orders") -> pubsub_pb2.PublishRequest:
    return pubsub_pb2.PublishRequest(topic=topic, data=data, pubsub_name="events", metadata={"key": "7"})


async def test_every_subscription_gets_every_message_of_its_topic_in_order(mocks: MockComponents, broker: Any) -> None:
    async with subscription(broker, mocks) as one, subscription(broker, mocks) as other:
        for data in (b"1", b"2"):
            await broker.Publish(publication(data))
        await broker.Publish(publication(b"x", "elsewhere"))
        for call in (one, other):
            assert [(await take(call)).data for _ in range(2)] == [b"1", b"2"]
        for message in mocks.pubsub.published_on("orders"):
            await message.acknowledged()
            assert message.metadata == {"key": "7"}
    assert [message.is_acknowledged for message in mocks.pubsub.published] == [True, True, False]
    assert mocks.count("pubsub.publish", "orders") == 2
    assert mocks.count("pubsub.subscribe", "orders") == 2


async def test_a_message_that_is_refused_comes_again(mocks: MockComponents, broker: Any) -> None:
    mocks.pubsub.redeliver_after = 0.01
    async with subscription(broker, mocks) as call:
        message = mocks.pubsub.push("orders", b"1")
        await take(call, "not now")
        await take(call)
        await message.acknowledged()
    assert (message.attempts, message.errors) == (2, ["not now"])


async def test_a_broker_that_never_delivers_again_loses_what_is_refused(mocks: MockComponents, broker: Any) -> None:
    mocks.pubsub.redeliver_after = None
    async with subscription(broker, mocks) as call:
        lost = mocks.pubsub.push("orders", b"1")
        await take(call, "not now")
        await eventually(lambda: lost.errors == ["not now"])
        mocks.pubsub.push("orders", b"2")
        assert (await take(call)).data == b"2"
    with pytest.raises(TimeoutError, match=r"delivered 1 times and not taken: \['not now'\]"):
        await lost.acknowledged(0.01)


async def test_what_nobody_took_waits_for_the_next_subscription(mocks: MockComponents, broker: Any) -> None:
    mocks.pubsub.push("orders", b"1")
    mocks.pubsub.push("orders", b"2")
    async with subscription(broker, mocks) as call:
        assert (await take(call)).data == b"1"
        assert (await call.read()).data == b"2"  # read, and not acknowledged
    async with subscription(broker, mocks) as call:
        assert (await take(call)).data == b"2"


async def test_a_subscription_whose_other_side_says_no_more_ends(mocks: MockComponents, broker: Any) -> None:
    async with subscription(broker, mocks) as call:
        await call.done_writing()
        assert await asyncio.wait_for(call.read(), 5) is grpc.aio.EOF
        assert await call.code() is grpc.StatusCode.OK


async def test_an_acknowledgement_of_a_message_that_is_not_known_is_passed_over(
    mocks: MockComponents, broker: Any
) -> None:
    async with subscription(broker, mocks) as call:
        await call.write(pubsub_pb2.PullMessagesRequest(ack_message_id="404"))
        mocks.pubsub.push("orders", b"1")
        assert (await take(call)).data == b"1"


async def test_subscribing_can_be_refused(mocks: MockComponents, broker: Any) -> None:
    mocks.faults.add(operation="pubsub.subscribe", key="orders", status=grpc.StatusCode.PERMISSION_DENIED)
    call = broker.PullMessages()
    await call.write(pubsub_pb2.PullMessagesRequest(topic=pubsub_pb2.Topic(name="orders")))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call.read()
    assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
    assert mocks.pubsub.subscribed == []


async def test_a_delivery_that_fails_ends_the_subscription_and_the_message_waits(
    mocks: MockComponents, broker: Any
) -> None:
    mocks.faults.add(operation="pubsub.deliver", status=grpc.StatusCode.UNAVAILABLE, message="rebalancing", times=1)
    async with subscription(broker, mocks) as call:
        message = mocks.pubsub.push("orders", b"1")
        with pytest.raises(grpc.aio.AioRpcError, match="rebalancing"):
            await call.read()
        await eventually(lambda: not mocks.pubsub.subscribed)
    async with subscription(broker, mocks) as call:
        await take(call)
        await message.acknowledged()
    assert message.attempts == 1


async def test_a_delivery_that_is_dropped_or_late_does_not_hold_up_the_next(mocks: MockComponents, broker: Any) -> None:
    mocks.faults.add(operation="pubsub.deliver", drop=True, times=1)
    async with subscription(broker, mocks) as call:
        dropped = mocks.pubsub.push("orders", b"1")
        late = mocks.pubsub.push("orders", b"2")
        assert (await take(call)).data == b"2"
        await late.acknowledged()
        assert dropped.attempts == 0
    mocks.faults.add(operation="pubsub.deliver", latency=0.05, times=1)
    async with subscription(broker, mocks) as call:  # what was dropped has waited
        await take(call)
        await dropped.acknowledged()


async def test_each_entry_of_a_batch_is_published_or_told(mocks: MockComponents, broker: Any) -> None:
    mocks.faults.add(operation="pubsub.publish", status=grpc.StatusCode.UNAVAILABLE, message="full", times=1)
    request = pubsub_pb2.BulkPublishRequest(topic="orders", metadata={"all": "1"})
    for number in range(3):
        request.entries.add(entry_id=str(number), event=str(number).encode(), metadata={"one": str(number)})
    response = await broker.BulkPublish(request)
    assert [(entry.entry_id, entry.error) for entry in response.failed_entries] == [("0", "UNAVAILABLE: full")]
    assert [message.data for message in mocks.pubsub.published] == [b"1", b"2"]
    assert mocks.pubsub.published[0].metadata == {"all": "1", "one": "1"}
    assert mocks.count("pubsub.bulk_publish", "orders") == 1
    assert mocks.count("pubsub.publish") == 0


async def test_a_contracts_event_is_pushed_to_its_topic_as_a_cloud_event(mocks: MockComponents) -> None:
    event = events_pb2.OrderPlaced(order=order_pb2.Order(order_id="7"))
    message = mocks.pubsub.push_event(event, id="e-1", subject="7")
    found = message.event()
    assert message.topic == "orders"
    assert (found["id"], found["type"], found["subject"]) == ("e-1", "shop.orders.v1.OrderPlaced", "7")
    assert found["data"]["order"]["orderId"] == "7"
    assert mocks.pubsub.published == []
    with pytest.raises(ContractError):
        mocks.pubsub.push_event(order_pb2.Order())


@pytest.mark.parametrize("data", [b"{}", json.dumps([1]).encode(), b"raw"])
async def test_data_that_is_no_cloud_event_is_not_read_as_one(mocks: MockComponents, data: bytes) -> None:
    with pytest.raises(ValueError, match=r"no CloudEvent|Expecting value"):
        mocks.pubsub.push("orders", data).event()
