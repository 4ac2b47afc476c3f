"""Streaming subscriptions on the real daprd and Redis. The subscribing app is this process, beside the sidecar `consumer`."""

from __future__ import annotations

import asyncio
import collections
import json
import shutil
import signal
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio
from dapr.clients.exceptions import DaprGrpcError

from apibase import App, ContractError, Drop, EventContext, Retry, Settings, Sidecar, SidecarError
from apibase.local.options import StackOptions
from apibase.local.stack import Stack
from apibase.local.topology import read_topology
from shop.payments.v1.events_pb2 import PaymentSettled
from tests.plugins.stack_logs import running
from tests.sidecar.redis_streams import RedisStreams
from tests.sidecar.shop import eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")

PAYMENT = "0b8f7c5e-0d0c-4a53-9a4f-6a2f6e1f0a11"
HERE = Path(__file__).parent / "streaming"


@dataclass
class Broker:
    """Both sidecars, and Redis behind them."""

    stack: Stack
    producer: Sidecar
    redis: RedisStreams
    dapr: str

    def app(self, **settings: Any) -> App:
        """A new app beside the sidecar `consumer`; it is not started, which subscriptions don't need."""
        endpoint = self.stack.sidecar("consumer").grpc_address
        return App(Settings(app_id="consumer", dapr_grpc_endpoint=endpoint, drain_timeout=5.0, **settings))

    async def publish(self, topic: str, *ids: str, pubsub: str = "events", data: Any = None, type_: str = "t") -> None:
        """Publish an event for each id, whose data is that id unless it is given; again while the sidecar is away."""
        for id_ in ids:

            async def published(id_: str = id_) -> bool:
                try:
                    await self.producer.client.publish_event(
                        pubsub,
                        topic,
                        json.dumps(data or {"id": id_}),
                        publish_metadata={"cloudevent.id": id_, "cloudevent.type": type_},
                        data_content_type="application/json",
                    )
                except DaprGrpcError as error:
                    if error.code() is not grpc.StatusCode.UNAVAILABLE:
                        raise
                    return False
                return True

            await eventually(published, within=20, what=f"{id_} is published")

    async def all_acknowledged(self, topic: str) -> None:
        async def probe() -> bool:
            return await self.redis.pending(topic, "consumer") == 0

        await eventually(probe, within=20, what=f"nothing of {topic} is pending")


@dataclass
class Taker:
    """A handler that counts, and does what it is told at an event's first turns."""

    first: list[BaseException] = field(default_factory=list)
    pause: float = 0.0
    turns: collections.Counter[str] = field(default_factory=collections.Counter)
    at_work: int = 0
    most: int = 0

    async def __call__(self, _data: Any, context: EventContext) -> None:
        self.turns[context.id] += 1
        self.at_work += 1
        self.most = max(self.most, self.at_work)
        try:
            await asyncio.sleep(self.pause)
        finally:
            self.at_work -= 1
        if self.first:
            raise self.first.pop(0)

    async def took(self, *ids: str, within: float = 20.0) -> None:
        async def probe() -> bool:
            return set(ids) <= set(self.turns)

        await eventually(probe, within=within, what=f"{len(ids)} events are taken")


def fresh(name: str) -> str:
    """A topic that nobody has used."""
    return f"{name}-{uuid.uuid4().hex[:8]}"


@pytest.fixture(scope="module", params=["1.18", pytest.param("1.14", marks=pytest.mark.full)])
def dapr(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def broker(dapr: str) -> AsyncIterator[Broker]:
    async with Stack(read_topology(HERE / "compose" / "dapr.yaml"), StackOptions(dapr=dapr)) as stack:
        running.append(stack)
        producer = Sidecar(Settings(app_id="producer", dapr_grpc_endpoint=stack.sidecar("producer").grpc_address))
        await producer.wait_ready(20)
        assert stack.platform is not None
        yield Broker(stack, producer, RedisStreams(stack.platform.env["STREAMING_REDIS"]), dapr)
        await producer.close()
        running.remove(stack)


@pytest_asyncio.fixture(loop_scope="module")
async def app(broker: Broker) -> AsyncIterator[App]:
    made = broker.app()
    yield made
    await made.stop()


@pytest.mark.req("R3.2", "R3.3")
async def test_events_of_a_topic_named_at_run_time_are_handled_and_acknowledged(app: App, broker: Broker) -> None:
    topic, got = fresh("tenant"), []

    async def handle(event: PaymentSettled, context: EventContext) -> None:
        got.append((event.payment_id, context.id, context.type, context.topic))

    subscription = await app.subscribe_stream("events", topic, handle, message=PaymentSettled)
    assert (subscription.state, app.streaming_subscriptions) == ("receiving", [subscription])
    type_ = PaymentSettled.DESCRIPTOR.full_name
    data = {"payment_id": PAYMENT, "order_id": PAYMENT}
    await broker.publish(topic, "e-1", data=data, type_=type_)

    async def taken() -> bool:
        return bool(got)

    await eventually(taken, within=20, what="the event is handled")
    assert got == [(PAYMENT, "e-1", type_, topic)]
    await broker.all_acknowledged(topic)


@pytest.mark.req("R3.6")
async def test_what_is_no_valid_message_is_a_dead_letter_with_its_reason(app: App, broker: Broker) -> None:
    topic, taker = fresh("invalid"), Taker()
    await app.subscribe_stream("events", topic, taker, message=PaymentSettled, dead_letter_topic=f"{topic}.dead")
    await broker.publish(topic, "e-1", data={"payment_id": 7}, type_=PaymentSettled.DESCRIPTOR.full_name)

    async def dead() -> list[dict[str, Any]]:
        return await broker.redis.events(f"{topic}.dead")

    [letter] = await eventually(dead, within=20, what="the dead letter")
    assert (letter["id"], letter["dlcode"], letter["dltopic"]) == ("e-1", "UNDECODABLE", topic)
    assert "PaymentSettled" in letter["dlreason"]
    await broker.all_acknowledged(topic)
    assert not taker.turns


@pytest.mark.req("R3.4")
@pytest.mark.parametrize("error", [Retry(), RuntimeError("broken")], ids=["Retry", "a fault"])
async def test_what_is_to_come_again_comes_again_and_the_subscription_goes_on(
    app: App, broker: Broker, error: Exception
) -> None:
    topic, taker = fresh("retry"), Taker([error])
    subscription = await app.subscribe_stream("events", topic, taker)
    await broker.publish(topic, "e-1")

    async def twice() -> bool:
        return taker.turns["e-1"] == 2

    await eventually(twice, within=20, what="the event's second turn")
    await broker.publish(topic, "e-2")
    await taker.took("e-2")
    await broker.all_acknowledged(topic)
    assert (subscription.verdicts["RETRY"], subscription.verdicts["SUCCESS"], subscription.reconnects) == (1, 2, 0)


@pytest.mark.req("R3.4", "R3.6")
async def test_a_drop_goes_to_the_dead_letter_topic(app: App, broker: Broker) -> None:
    topic, taker = fresh("drop"), Taker([Drop("the tenant is gone", code="NO_TENANT")])
    await app.subscribe_stream("events", topic, taker, dead_letter_topic=f"{topic}.dead")
    await broker.publish(topic, "e-1")

    async def dead() -> list[dict[str, Any]]:
        return await broker.redis.events(f"{topic}.dead")

    [letter] = await eventually(dead, within=20, what="the dead letter")
    assert (letter["dlcode"], letter["dlreason"], letter["data"]) == ("NO_TENANT", "the tenant is gone", {"id": "e-1"})


@pytest.mark.req("R3.6")
async def test_an_event_larger_than_the_app_takes_is_left_to_the_sidecars_dead_letters(broker: Broker) -> None:
    topic, taker, app = fresh("large"), Taker(), broker.app(max_message_bytes=100_000)
    subscription = await app.subscribe_stream("events", topic, taker, dead_letter_topic=f"{topic}.dead")
    await broker.publish(topic, "large", data={"id": "x" * 300_000})
    await broker.publish(topic, "small")
    await taker.took("small")

    async def dead() -> list[dict[str, Any]]:
        return await broker.redis.events(f"{topic}.dead")

    [letter] = await eventually(dead, within=20, what="the dead letter")
    assert letter["id"] == "large"
    assert (set(taker.turns), subscription.reconnects) == ({"small"}, 0)
    await app.stop()


async def test_no_more_handlers_run_than_were_asked_for(app: App, broker: Broker) -> None:
    topic, taker = fresh("bound"), Taker(pause=0.02)
    ids = [f"e-{number}" for number in range(60)]
    await broker.publish(topic, *ids)

    await app.subscribe_stream("events", topic, taker, concurrency=3)

    await taker.took(*ids)
    await broker.all_acknowledged(topic)
    assert taker.most == 3


async def test_a_component_that_does_not_exist_is_an_error_that_names_it(app: App, broker: Broker) -> None:
    with pytest.raises(SidecarError, match=r"topic 'orders' of 'nowhere' is refused: pubsub nowhere is not found"):
        await app.subscribe_stream("nowhere", "orders", Taker())

    assert app.streaming_subscriptions == []


async def test_a_topic_that_scopes_forbid_is_an_error(app: App, broker: Broker) -> None:
    with pytest.raises(SidecarError, match="is not allowed"):
        await app.subscribe_stream("scoped", "forbidden", Taker())

    assert (await app.subscribe_stream("scoped", "allowed", Taker())).state == "receiving"


async def test_a_topic_that_a_subscription_resource_names_is_an_error(app: App, broker: Broker) -> None:
    with pytest.raises(ContractError, match="a Subscription resource names topic 'declared' of 'events' already"):
        await app.subscribe_stream("events", "declared", Taker())


@pytest.mark.req("R1.4")
async def test_closing_under_load_loses_nothing_and_the_next_one_takes_the_rest(app: App, broker: Broker) -> None:
    topic, ids = fresh("close"), [f"e-{number}" for number in range(300)]
    await broker.publish(topic, *ids)  # so that the sidecar has as much in flight as it takes
    taken: collections.Counter[str] = collections.Counter()
    for _ in range(4):
        taker = Taker(pause=0.01)
        subscription = await app.subscribe_stream("events", topic, taker, concurrency=4)

        async def some(taker: Taker = taker) -> bool:
            return len(taker.turns) >= 20

        await eventually(some, within=20, what="some events are taken")
        await subscription.close()
        assert (subscription.state, subscription.in_flight, subscription.untold, taker.at_work) == ("closed", 0, 0, 0)
        taken += taker.turns
    rest = Taker()
    await app.subscribe_stream("events", topic, rest)
    await rest.took(*set(ids) - set(taken), within=40)
    await broker.all_acknowledged(topic)
    taken += rest.turns
    assert set(taken) == set(ids)


@pytest.mark.req("R1.5")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
async def test_a_sidecar_that_ends_is_found_again_and_no_event_is_lost(
    app: App, broker: Broker, number: signal.Signals
) -> None:
    topic, taker = fresh("kill"), Taker(pause=0.005)
    ids = [f"e-{number}" for number in range(300)]
    subscription = await app.subscribe_stream("events", topic, taker)
    publishing = asyncio.ensure_future(broker.publish(topic, *ids))

    async def flowing() -> bool:
        return len(taker.turns) >= 30

    await eventually(flowing, within=20, what="events flow")
    await broker.stack.kill_sidecar("consumer", number)

    async def away() -> bool:
        return subscription.state == "connecting"

    await eventually(away, within=10, what="the loss shows")
    await publishing
    await broker.stack.restart_sidecar("consumer")

    await taker.took(*ids, within=40)
    await broker.all_acknowledged(topic)
    assert (subscription.state, subscription.reconnects) == ("receiving", 1)


async def test_a_sidecar_that_is_away_is_waited_for(broker: Broker) -> None:
    topic, taker, app = fresh("away"), Taker(), broker.app()
    await broker.stack.kill_sidecar("consumer")
    subscription = await app.subscribe_stream("events", topic, taker)
    assert subscription.state == "connecting"
    await broker.publish(topic, "e-1")
    await broker.stack.restart_sidecar("consumer")
    await taker.took("e-1")
    assert subscription.reconnects == 0
    await app.stop()


async def test_many_opened_and_closed_leave_no_task(app: App, broker: Broker) -> None:
    async def some() -> None:
        topics = [fresh("many") for _ in range(20)]
        takers = [Taker() for _ in topics]
        await asyncio.gather(
            *(app.subscribe_stream("events", topic, taker) for topic, taker in zip(topics, takers, strict=True))
        )
        for topic, taker in zip(topics, takers, strict=True):
            await broker.publish(topic, "e-1")
            await taker.took("e-1")
        started = time.monotonic()
        await asyncio.gather(*(each.close() for each in app.streaming_subscriptions))
        assert time.monotonic() - started < 5
        assert app.streaming_subscriptions == []

    await some()
    before = len(asyncio.all_tasks())
    await some()

    async def settled() -> bool:
        return len(asyncio.all_tasks()) <= before

    await eventually(settled, within=5, what="no more tasks than before")


@asynccontextmanager
async def editable(folder: Path, dapr: str) -> AsyncIterator[tuple[Broker, Path]]:
    """A stack of its own whose components may be edited, and the folder that they are in."""
    shutil.copytree(HERE / "compose", folder / "compose")
    async with Stack(read_topology(folder / "compose" / "dapr.yaml"), StackOptions(dapr=dapr)) as stack:
        running.append(stack)
        producer = Sidecar(Settings(app_id="producer", dapr_grpc_endpoint=stack.sidecar("producer").grpc_address))
        await producer.wait_ready(20)
        assert stack.platform is not None
        yield (
            Broker(stack, producer, RedisStreams(stack.platform.env["STREAMING_REDIS"]), dapr),
            folder / "compose" / "components",
        )
        await producer.close()
        running.remove(stack)


async def test_a_resiliency_that_changes_under_load_restarts_the_sidecar_and_loses_nothing(
    tmp_path: Path, dapr: str
) -> None:
    if dapr == "1.14":
        pytest.skip("1.14 reloads components only where its Configuration says so")
    async with editable(tmp_path, dapr) as (broker, components):
        app, topic, taker = broker.app(), fresh("resiliency"), Taker(pause=0.005)
        ids = [f"e-{number}" for number in range(400)]
        subscription = await app.subscribe_stream("events", topic, taker)
        publishing = asyncio.ensure_future(broker.publish(topic, *ids, pubsub="bare"))

        async def flowing() -> bool:
            return len(taker.turns) >= 30

        await eventually(flowing, within=20, what="events flow")
        resiliency = components / "resiliency.yaml"
        resiliency.write_text(resiliency.read_text(encoding="utf-8").replace("300ms", "250ms"), encoding="utf-8")

        async def back() -> bool:
            return subscription.reconnects >= 1 and subscription.state == "receiving"

        await eventually(back, within=40, what="the subscription is back")
        await publishing
        await taker.took(*ids, within=40)
        await broker.all_acknowledged(topic)
        await app.stop()


@pytest.mark.timeout(90)
async def test_a_component_that_is_taken_away_and_put_back_while_it_runs(tmp_path: Path, dapr: str) -> None:
    if dapr == "1.14":
        pytest.skip("1.14 reloads components only where its Configuration says so")
    async with editable(tmp_path, dapr) as (broker, components):
        component = components / "components.yaml"
        text = component.read_text(encoding="utf-8")
        app, topic, taker = broker.app(), fresh("reload"), Taker()
        subscription = await app.subscribe_stream("events", topic, taker)
        await broker.publish(topic, "before")
        await taker.took("before")

        component.unlink()

        async def gone() -> bool:
            return "is not found" in str(subscription.last_error)

        await eventually(gone, within=20, what="the component is gone")
        assert subscription.state == "connecting"
        component.write_text(text, encoding="utf-8")

        async def back() -> bool:
            return subscription.state == "receiving"

        await eventually(back, within=30, what="the subscription is back")
        component.write_text(text.replace('value: "500"', 'value: "400"'), encoding="utf-8")

        async def reloaded() -> bool:
            return subscription.reconnects >= 2 and subscription.state == "receiving"

        await eventually(reloaded, within=30, what="the changed component is used")
        await broker.publish(topic, "after", pubsub="bare")
        await taker.took("after")
        await app.stop()
