"""A listener whose component the sidecar lacks stops start-up."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

import grpc
import pytest
from dapr.proto.runtime.v1 import appcallback_pb2, appcallback_pb2_grpc

from apibase import App, ContractError, EventContext, Settings
from tests.unit.fake_dapr import FakeDapr

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

    from tests.unit.conftest import Desk


def listening(app: App, desk: Desk) -> App:
    methods = desk.pb2.DESCRIPTOR.services_by_name["DeskEvents"].methods_by_name
    handlers = {name: lambda _self, request, context: None for name in methods}
    app.add_servicer(type("Events", (desk.grpc.DeskEventsServicer,), handlers)())
    return app


async def test_an_app_whose_components_are_all_loaded_starts(desk: Desk, settings: Settings) -> None:
    async with FakeDapr(settings.sidecar_address):
        app = listening(App(settings), desk)
        await app.start()
        assert app.health.ready
        await app.stop()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            lambda components: components.pop("tick"),
            r"desk.proto:\d+: desk.v1.DeskEvents.\w+ listens to binding 'tick'.*it has mail",
        ),
        (lambda components: components.pop("events"), r"listens to pub/sub component 'events'.*it has none"),
        (lambda components: components.update(events="state.redis"), r"listens to pub/sub component 'events'"),
    ],
    ids=["a binding", "a pub/sub component", "a component of another kind"],
)
async def test_a_listener_without_its_component_stops_start_up_and_is_named(
    desk: Desk, settings: Settings, change: Callable[[dict[str, str]], object], told: str
) -> None:
    async with FakeDapr(settings.sidecar_address) as dapr:
        change(dapr.components)
        app = listening(App(settings), desk)
        with pytest.raises(ContractError, match=told):
            await app.start()
        assert not app.health.ready
        await app.stop()


def deduplicating(settings: Settings, handled: list[str] | None = None) -> App:
    """An app that asks for repetitions to be recognised."""
    contract: ModuleType = importlib.import_module("ledger.v1.ledger_pb2")
    stubs: ModuleType = importlib.import_module("ledger.v1.ledger_pb2_grpc")

    async def handle(_self: object, _request: object, context: EventContext) -> None:
        if handled is not None:
            handled.append(context.id)

    methods = contract.DESCRIPTOR.services_by_name["LedgerEvents"].methods_by_name
    app = App(settings)
    app.add_servicer(type("Ledger", (stubs.LedgerEventsServicer,), dict.fromkeys(methods, handle))())
    return app


async def test_a_contract_that_recognises_repetitions_needs_the_setting_that_says_where(
    desk: Desk, settings: Settings
) -> None:
    app = deduplicating(settings)

    with pytest.raises(
        ContractError,
        match=r"ledger.proto:\d+: ledger.v1.LedgerEvents.OnEntry has deduplicate_for.*by APIBASE_DEDUPLICATION_STORE",
    ):
        await app.start()
    await app.stop()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda dapr: dapr.components.pop("statestore"), r"which the sidecar has not loaded \(it has none\)"),
        (
            lambda dapr: dapr.components.update({"statestore": "bindings.http", "other": "state.redis"}),
            r"which the sidecar has not loaded \(it has other\); check the component's name, scopes and folder",
        ),
        (lambda dapr: dapr.capabilities.clear(), r"which has no etags \(state.postgresql\)"),
    ],
    ids=["not there", "no state store", "no etags"],
)
async def test_a_store_of_repetitions_that_can_not_be_one_stops_start_up(
    desk: Desk, settings: Settings, change: Callable[[FakeDapr], object], told: str
) -> None:
    settings = settings.model_copy(update={"deduplication_store": "statestore"})
    async with FakeDapr(settings.sidecar_address) as dapr:
        change(dapr)
        app = deduplicating(settings)
        with pytest.raises(
            ContractError, match=rf"OnEntry has deduplicate_for and needs state store 'statestore' .*{told}"
        ):
            await app.start()
        assert not app.health.ready
        await app.stop()


@pytest.mark.req("R3.4")
async def test_an_app_handles_an_event_once_and_its_store_forgets_it_in_time(desk: Desk, settings: Settings) -> None:
    settings = settings.model_copy(update={"deduplication_store": "statestore", "app_host": "127.0.0.1"})
    handled: list[str] = []
    event = appcallback_pb2.TopicEventRequest(
        id="e-1",
        source="shop",
        type="ledger.v1.Entry",
        data=b'{"text": "a"}',
        data_content_type="application/json",
        topic="entries",
        pubsub_name="events",
    )
    async with FakeDapr(settings.sidecar_address) as dapr:
        app = deduplicating(settings, handled)
        await app.start()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{app.port}") as channel:
            for _ in range(2):
                assert (await appcallback_pb2_grpc.AppCallbackStub(channel).OnTopicEvent(event)).status == 0
        await app.stop()

    assert handled == ["e-1"]
    ((key, row),) = dapr.rows.items()
    assert key.startswith("handled:desk:ledger.v1.LedgerEvents.OnEntry:")
    assert "e-1" not in key + row.data.decode()
    assert row.metadata["ttlInSeconds"] == "3660"


async def test_an_app_that_recognises_no_repetitions_needs_no_store(desk: Desk, settings: Settings) -> None:
    async with FakeDapr(settings.sidecar_address) as dapr:
        app = listening(App(settings), desk)
        await app.start()
        await app.stop()
    assert [call.method for call in dapr.calls] == ["GetMetadata", "SetMetadata"]
