"""A listener whose component the sidecar lacks stops start-up."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from apibase import App, ContractError
from tests.unit.fake_dapr import FakeDapr

if TYPE_CHECKING:
    from collections.abc import Callable

    from apibase import Settings
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
