"""The real daprd with components that fail on request: every kind works, and what goes wrong is a typed error at the client."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import grpc
import pytest
import pytest_asyncio

from apibase import (
    App,
    Conflict,
    PubSubPublisher,
    Settings,
    Sidecar,
    SidecarError,
    StateManager,
    SubscriptionMessage,
)
from apibase.clients.bindings import BindingsClient
from apibase.clients.publication import Publication
from apibase.clients.secrets import SecretsManager
from apibase.clients.state_items import Delete, Upsert
from apibase.errors import NotSupported, SecretNotFoundError, SecretStoreUnavailable
from apibase.local.options import StackOptions
from apibase.local.stack import Stack
from apibase.local.topology import read_topology
from apibase.testing.components import MockComponents
from tests.plugins.stack_logs import running
from tests.sidecar.shop import eventually

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.req("R14.4")]

TOPOLOGY = Path(__file__).parent / "mock_components" / "compose" / "dapr.yaml"
CALL_SECONDS = 1.5
UNAVAILABLE = grpc.StatusCode.UNAVAILABLE
EXHAUSTED = grpc.StatusCode.RESOURCE_EXHAUSTED
INTERNAL = grpc.StatusCode.INTERNAL
DEADLINE_EXCEEDED = grpc.StatusCode.DEADLINE_EXCEEDED


@dataclass
class Shelf:
    """A sidecar all of whose components are mocks, and the app beside it."""

    stack: Stack
    mocks: MockComponents
    sidecar: Sidecar
    orders: list[dict] = field(default_factory=list)
    """What the app's handler of the topic got."""
    records: list[bytes] = field(default_factory=list)
    """What the app's handler of the input binding got."""
    refusals: int = 0
    """How often the handlers are still to fail."""

    @property
    def state(self) -> StateManager:
        return StateManager(self.sidecar, "stock")

    @property
    def publisher(self) -> PubSubPublisher:
        return PubSubPublisher(self.sidecar)

    @property
    def gate(self) -> BindingsClient:
        return BindingsClient(self.sidecar, "gate")

    @property
    def vault(self) -> SecretsManager:
        return SecretsManager(self.sidecar, "vault")

    async def operation(self, name: str) -> object:
        """Do something that daprd does as the mock's operation of this name."""
        operations: dict[str, Callable[[], Awaitable[object]]] = {
            "state.get": lambda: self.state.get("mug", dict),
            "state.set": lambda: self.state.save("mug", {"left": 3}),
            "state.delete": lambda: self.state.delete("mug"),
            "state.bulk_get": lambda: self.state.get_bulk(["mug", "cup"], dict),
            "state.transact": lambda: self.state.transact([Upsert("mug", {"left": 2})]),
            "pubsub.publish": lambda: self.publisher.publish(order(1)),
            "pubsub.bulk_publish": lambda: self.publisher.publish_bulk([order(1), order(2)]),
            "output.invoke": lambda: self.gate.invoke("create", b"parcel"),
            "secrets.get": lambda: self.vault.get("api-key"),
            "secrets.bulk_get": self.vault.bulk,
        }
        return await operations[name]()

    def refuse(self) -> None:
        if self.refusals:
            self.refusals -= 1
            raise RuntimeError("not now")

    def app(self, settings: Settings) -> App:
        app = App(settings)

        @app.subscribe(pubsub_name="events", topic="orders")
        async def on_order(message: SubscriptionMessage) -> None:
            self.orders.append(message.data())
            self.refuse()

        @app.binding("gate")
        async def on_record(request) -> None:
            self.records.append(request.data)
            self.refuse()

        return app


OPERATIONS = {
    "state.get": "stock",
    "state.set": "stock",
    "state.delete": "stock",
    "state.bulk_get": "stock",
    "state.transact": "stock",
    "pubsub.publish": "events",
    "pubsub.bulk_publish": "events",
    "output.invoke": "gate",
    "secrets.get": "vault",
    "secrets.bulk_get": "vault",
}


def order(number: int) -> Publication:
    return Publication({"number": number}, pubsub_name="events", topic="orders")


@asynccontextmanager
async def opened(series: str) -> AsyncIterator[Shelf]:
    async with MockComponents() as mocks:
        options = StackOptions(env={"mocked": mocks.environment}, dapr=series)
        async with Stack(read_topology(TOPOLOGY), options) as stack:
            running.append(stack)
            environment = stack.environment("mocked")
            settings = Settings(
                app_id="mocked",
                app_port=int(environment["APP_PORT"]),
                dapr_grpc_endpoint=stack.sidecar("mocked").grpc_address,
                dapr_http_port=int(environment["DAPR_HTTP_PORT"]),
                call_timeout=CALL_SECONDS,
            )
            shelf = Shelf(stack, mocks, Sidecar(settings))
            app = shelf.app(settings)
            await app.start()
            await shelf.sidecar.wait_ready(20)
            try:
                yield shelf
            finally:
                await shelf.sidecar.close()
                await app.stop()
                running.remove(stack)


@pytest_asyncio.fixture(
    scope="module",
    loop_scope="module",
    params=[pytest.param("1.18", id="1.18"), pytest.param("1.14", id="1.14", marks=pytest.mark.full)],
)
async def running_shelf(request: pytest.FixtureRequest) -> AsyncIterator[Shelf]:
    async with opened(request.param) as shelf:
        yield shelf


@pytest_asyncio.fixture(loop_scope="module")
async def shelf(running_shelf: Shelf) -> Shelf:
    """Return the shelf without faults, empty, and with nothing on its way to the app."""
    mocks = running_shelf.mocks
    mocks.faults.clear()
    running_shelf.refusals = 0
    for message in mocks.pubsub.published:
        await message.acknowledged()
    mocks.calls.clear()
    mocks.state.clear()
    mocks.pubsub.published.clear()
    mocks.output.sent.clear()
    mocks.output.answers.clear()
    mocks.secrets.secrets = {"api-key": "k-1", "database": {"user": "ann", "password": "hunter2"}}
    running_shelf.orders.clear()
    running_shelf.records.clear()
    return running_shelf


async def test_what_is_saved_is_in_the_store_and_read_again_until_it_expires(shelf: Shelf) -> None:
    await shelf.state.save("mug", {"left": 3}, ttl=timedelta(seconds=30))
    assert json.loads(shelf.mocks.state.value("mug") or b"") == {"left": 3}
    assert list(shelf.mocks.state.values) == ["mocked||mug"]
    item = await shelf.state.get("mug", dict)
    assert item is not None
    assert item.value == {"left": 3}
    assert item.expires is not None
    later = time.time() + 31
    shelf.mocks.state.now = lambda: later
    try:
        assert await shelf.state.get("mug", dict) is None
    finally:
        shelf.mocks.state.now = time.time
    assert shelf.mocks.count("state.get", "mug") == 2


async def test_who_writes_over_what_somebody_else_has_changed_gets_a_conflict(shelf: Shelf) -> None:
    await shelf.state.save("mug", {"left": 3}, first_write=True)
    item = await shelf.state.get("mug", dict)
    assert item is not None
    shelf.mocks.state.put("mocked||mug", b'{"left": 1}')
    for stale in (
        shelf.state.save("mug", {"left": 2}, etag=item.etag),
        shelf.state.save("mug", {"left": 2}, first_write=True),
        shelf.state.delete("mug", etag=item.etag),
        shelf.state.transact([Upsert("cup", {"left": 9}), Upsert("mug", {"left": 2}, etag=item.etag)]),
    ):
        with pytest.raises(Conflict) as caught:
            await stale
        assert caught.value.component == "stock"
    # And the transaction left nothing behind.
    assert shelf.mocks.state.values == {"mocked||mug": b'{"left": 1}'}


async def test_a_transaction_writes_and_deletes_together(shelf: Shelf) -> None:
    await shelf.state.save("mug", {"left": 3})
    await shelf.state.transact([Upsert("cup", {"left": 1}), Delete("mug")])
    assert list(shelf.mocks.state.values) == ["mocked||cup"]
    assert shelf.mocks.count("state.transact") == 1


async def test_of_many_keys_one_that_fails_hides_no_other(shelf: Shelf) -> None:
    await shelf.state.save_bulk([Upsert("mug", {"left": 3}), Upsert("cup", {"left": 4})])
    shelf.mocks.faults.add(operation="state.get", key="cup", status=UNAVAILABLE, message="a bad sector")
    found = await shelf.state.get_bulk(["mug", "cup", "jug"], dict)
    assert {key: item.value if item else None for key, item in found.items.items()} == {"mug": {"left": 3}, "jug": None}
    assert list(found.errors) == ["cup"]
    assert "a bad sector" in found.errors["cup"].message
    assert found.errors["cup"].component == "stock"


async def test_what_is_published_reaches_the_app_and_again_while_its_handler_fails(shelf: Shelf) -> None:
    shelf.refusals = 2
    await shelf.publisher.publish(order(1))
    [message] = shelf.mocks.pubsub.published_on("orders")
    await message.acknowledged()
    assert (message.attempts, len(message.errors)) == (3, 2)
    assert message.event()["data"] == {"number": 1}
    assert shelf.orders == [{"number": 1}] * 3


async def test_an_event_that_somebody_else_publishes_reaches_the_app(shelf: Shelf) -> None:
    envelope = {
        "specversion": "1.0",
        "id": "7",
        "source": "till",
        "type": "order",
        "datacontenttype": "application/json",
        "data": {"number": 7},
    }
    message = shelf.mocks.pubsub.push("orders", json.dumps(envelope).encode())
    await message.acknowledged()
    assert shelf.orders == [{"number": 7}]
    assert shelf.mocks.pubsub.published == []


async def test_of_a_batch_the_event_that_the_broker_refuses_is_told(shelf: Shelf) -> None:
    shelf.mocks.faults.add(operation="pubsub.publish", status=UNAVAILABLE, message="partition 0 is away", times=1)
    done = await shelf.publisher.publish_bulk([order(1), order(2), order(3)])
    assert [(failed.index, failed.error.component) for failed in done.failed] == [(0, "events")]
    assert "partition 0 is away" in done.failed[0].error.message
    assert [each.event()["data"] for each in shelf.mocks.pubsub.published_on("orders")] == [
        {"number": 2},
        {"number": 3},
    ]


async def test_a_record_of_an_input_binding_reaches_the_app_and_its_failure_comes_back(shelf: Shelf) -> None:
    good = shelf.mocks.input.push(b"pallet 1", metadata={"dock": "4"})
    await good.answered()
    assert (shelf.records, good.error) == ([b"pallet 1"], "")
    shelf.refusals = 1
    bad = shelf.mocks.input.push(b"pallet 2")
    await bad.answered()
    assert "error invoking app" in bad.error
    assert shelf.records == [b"pallet 1", b"pallet 2"]


async def test_what_goes_out_by_a_binding_is_told_and_answered(shelf: Shelf) -> None:
    shelf.mocks.output.answers = {"get": b"parcel 1", "create": lambda sent: sent.data.upper()}
    assert (await shelf.gate.invoke("get", metadata={"row": "2"})).data == b"parcel 1"
    assert (await shelf.gate.invoke("create", b"parcel 2")).data == b"PARCEL 2"
    assert [(sent.operation, sent.data) for sent in shelf.mocks.output.sent] == [("get", b""), ("create", b"parcel 2")]
    assert shelf.mocks.output.sent[0].metadata["row"] == "2"
    with pytest.raises(NotSupported):
        await shelf.gate.invoke("shred")


async def test_secrets_are_read_and_one_that_is_not_there_is_told_from_a_store_that_fails(shelf: Shelf) -> None:
    assert (await shelf.vault.get("api-key")).reveal() == "k-1"
    assert set(await shelf.vault.get_all("database")) == {"user", "password"}
    assert set(await shelf.vault.bulk()) == {"api-key", "database"}
    with pytest.raises(SecretNotFoundError):
        await shelf.vault.get("nothing")
    shelf.mocks.faults.add(operation="secrets.*", key="api-key", status=UNAVAILABLE, message="sealed")
    with pytest.raises(SecretStoreUnavailable, match="sealed") as caught:
        await shelf.vault.get("api-key")
    assert caught.value.component == "vault"
    await shelf.vault.get_all("database")


@pytest.mark.parametrize("name", OPERATIONS)
async def test_a_status_of_the_component_is_an_error_that_names_it(shelf: Shelf, name: str) -> None:
    with shelf.mocks.faults.add(operation=name, status=EXHAUSTED, message="no room") as fault:
        with pytest.raises(SidecarError, match="no room") as caught:
            await shelf.operation(name)
        assert fault.hits == 1
    assert caught.value.component == OPERATIONS[name]
    if name.startswith("secrets"):
        assert isinstance(caught.value, SecretStoreUnavailable)
    else:
        # Whatever a component fails with is INTERNAL to daprd, but for one operation, whose error it passes on.
        assert caught.value.code is (EXHAUSTED if name == "state.bulk_get" else INTERNAL)
    await shelf.operation(name)


@pytest.mark.parametrize("name", ["state.get", "state.set", "pubsub.publish", "output.invoke"])
async def test_a_component_that_does_not_answer_ends_at_the_callers_deadline(shelf: Shelf, name: str) -> None:
    with shelf.mocks.faults.add(operation=name, drop=True):
        began = time.monotonic()
        with pytest.raises(SidecarError) as caught:
            await shelf.operation(name)
    assert caught.value.component == OPERATIONS[name]
    # The deadline is daprd's too: now and then it is the first to see it, and says so in its own way.
    if caught.value.code is not DEADLINE_EXCEEDED:
        assert caught.value.code is INTERNAL
        assert "context deadline exceeded" in caught.value.message
    assert CALL_SECONDS - 0.1 <= time.monotonic() - began < CALL_SECONDS + 1
    await shelf.operation(name)


@pytest.mark.parametrize("name", ["state.get", "state.set", "output.invoke", "secrets.get"])
async def test_a_connection_that_breaks_is_an_error_and_the_next_call_works(shelf: Shelf, name: str) -> None:
    with shelf.mocks.faults.add(operation=name, disconnect=True, times=1):
        with pytest.raises(SidecarError) as caught:
            await shelf.operation(name)
        assert caught.value.component == OPERATIONS[name]

        async def works() -> bool:
            try:
                await shelf.operation(name)
            except SidecarError:
                return False
            return True

        await eventually(works, within=10, what=f"{name} works again")


async def test_a_slow_component_is_slow_and_no_more(shelf: Shelf) -> None:
    with shelf.mocks.faults.add(operation="state.set", key="mug", latency=0.3):
        began = time.monotonic()
        await shelf.state.save("mug", {"left": 3})
        assert 0.3 <= time.monotonic() - began < CALL_SECONDS


async def test_a_timeout_policy_ends_the_call_before_the_caller_would(shelf: Shelf) -> None:
    store = StateManager(shelf.sidecar, "stock-timed")
    with shelf.mocks.faults.add(operation="state.get", drop=True):
        began = time.monotonic()
        with pytest.raises(SidecarError, match="deadline exceeded") as caught:
            await store.get("mug", dict)
    assert time.monotonic() - began < 1
    assert (caught.value.code, caught.value.component) == (grpc.StatusCode.DEADLINE_EXCEEDED, "stock-timed")


@pytest.mark.req("R2.1", "R14.4")
async def test_a_retry_policy_hides_two_failures_from_the_one_call_of_the_client(shelf: Shelf) -> None:
    store = StateManager(shelf.sidecar, "stock-retried")
    fault = shelf.mocks.faults.add(operation="state.set", key="mug", status=UNAVAILABLE, times=2)
    await store.save("mug", {"left": 3})
    assert fault.hits == 2
    assert shelf.mocks.count("state.set", "mug") == 3
    assert shelf.mocks.state.value("mug") is not None


async def test_a_retry_policy_that_gives_up_is_an_error_after_all_of_its_tries(shelf: Shelf) -> None:
    store = StateManager(shelf.sidecar, "stock-retried")
    shelf.mocks.faults.add(operation="state.set", status=UNAVAILABLE, message="no quorum")
    with pytest.raises(SidecarError, match="no quorum") as caught:
        await store.save("mug", {"left": 3})
    assert caught.value.component == "stock-retried"
    assert shelf.mocks.count("state.set", "mug") == 4
    assert {call.component for call in shelf.mocks.calls} == {"stock-retried"}


async def test_a_store_that_dies_and_returns_has_what_it_had(shelf: Shelf) -> None:
    await shelf.state.save("mug", {"left": 3})
    await shelf.mocks.state.stop()
    with pytest.raises(SidecarError) as caught:
        await shelf.state.get("mug", dict)
    assert (caught.value.code, caught.value.component) == (INTERNAL, "stock")
    await shelf.mocks.state.start()

    async def read() -> object:
        try:
            return await shelf.state.get("mug", dict)
        except SidecarError:
            return None

    item = await eventually(read, within=10, what="the store is read again")
    assert item.value == {"left": 3}


async def test_a_broker_that_dies_and_returns_takes_events_and_delivers_once_the_sidecar_subscribes_again(
    shelf: Shelf,
) -> None:
    await shelf.mocks.pubsub.stop()
    await shelf.mocks.input.stop()
    with pytest.raises(SidecarError) as caught:
        await shelf.publisher.publish(order(1))
    assert caught.value.component == "events"
    await shelf.mocks.pubsub.start()
    await shelf.mocks.input.start()

    async def publish() -> bool:
        try:
            await shelf.publisher.publish(order(2))
        except SidecarError:
            return False
        return True

    await eventually(publish, within=10, what="the broker takes events again")
    record = shelf.mocks.input.push(b"pallet")
    # daprd does not open these streams a second time by itself.
    assert (shelf.mocks.pubsub.subscribed, shelf.mocks.input.reading) == ([], 0)
    await shelf.stack.restart_sidecar("mocked")
    [message] = shelf.mocks.pubsub.published_on("orders")
    await message.acknowledged(15)
    await record.answered(15)
    assert (shelf.orders, shelf.records) == ([{"number": 2}], [b"pallet"])
