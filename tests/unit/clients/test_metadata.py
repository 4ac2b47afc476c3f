"""Metadata of sidecars as they seldom are; what the real ones say is in the contract suite."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest
from dapr.proto import api_v1
from google.protobuf.empty_pb2 import Empty

from apibase import MetadataClient, Settings, Sidecar, SidecarError
from tests.unit.fake_dapr import FakeDapr


class Told(FakeDapr):
    """Says what it is told to, and shuts down when it is asked to."""

    answer = api_v1.GetMetadataResponse()

    async def GetMetadata(self, request: Any, context: Any) -> Any:
        await self._take("GetMetadata", request, context)
        return self.answer

    async def Shutdown(self, request: Any, context: Any) -> Any:
        await self._take("Shutdown", request, context)
        return Empty()


class Hanging(FakeDapr):
    """Takes calls, and answers none."""

    async def GetMetadata(self, request: Any, context: Any) -> Any:
        await self._take("GetMetadata", request, context)
        await asyncio.Event().wait()


async def test_a_sidecar_without_an_app_says_so(settings: Settings) -> None:
    async with Told(settings.sidecar_address) as told:
        told.answer = api_v1.GetMetadataResponse(id="tool", runtime_version="1.18.2", app_connection_properties={})
        sidecar = Sidecar(settings)
        found = await MetadataClient(sidecar).get()
        await sidecar.close()

    assert (found.app_id, found.app, found.components, found.subscriptions) == ("tool", None, {}, ())


async def test_actors_features_endpoints_and_rules_are_told(settings: Settings) -> None:
    async with Told(settings.sidecar_address) as told:
        told.answer = api_v1.GetMetadataResponse(
            actor_runtime={"active_actors": [{"type": "Stock", "count": 3}]},
            enabled_features=["HotReload"],
            http_endpoints=[{"name": "provider"}],
            subscriptions=[
                {
                    "pubsub_name": "events",
                    "topic": "orders",
                    "type": "DECLARATIVE",
                    "dead_letter_topic": "orders.dead",
                    "rules": {"rules": [{"match": "event.type == 'x'", "path": "/x"}, {"path": "/"}]},
                }
            ],
            app_connection_properties={"port": 50051, "max_concurrency": -1},
        )
        sidecar = Sidecar(settings)
        found = await MetadataClient(sidecar).get()
        await sidecar.close()

    assert (found.active_actors, found.features, found.http_endpoints) == (
        {"Stock": 3},
        ("HotReload",),
        ("provider",),
    )
    (subscription,) = found.subscriptions
    assert (subscription.kind, subscription.dead_letter_topic) == ("DECLARATIVE", "orders.dead")
    assert subscription.rules == (("event.type == 'x'", "/x"), ("", "/"))
    assert found.app is not None
    assert (found.app.max_concurrency, found.app.probe_interval) == (0, "")


async def test_a_sidecar_that_is_away_is_not_healthy(settings: Settings) -> None:
    sidecar = Sidecar(settings)
    assert not await MetadataClient(sidecar).healthy()
    await sidecar.close()


async def test_a_sidecar_that_hangs_is_not_healthy(settings: Settings) -> None:
    async with Hanging(settings.sidecar_address):
        sidecar = Sidecar(settings.model_copy(update={"call_timeout": 0.2}))
        assert not await MetadataClient(sidecar).healthy()
        await sidecar.close()


async def test_a_sidecar_that_refuses_the_token_is_an_error(settings: Settings) -> None:
    async with FakeDapr(settings.sidecar_address, token="other"):
        sidecar = Sidecar(settings)
        with pytest.raises(SidecarError) as caught:
            await MetadataClient(sidecar).healthy()
        await sidecar.close()
    assert caught.value.code is grpc.StatusCode.UNAUTHENTICATED


async def test_a_sidecar_is_asked_to_shut_down(settings: Settings) -> None:
    async with Told(settings.sidecar_address) as told:
        sidecar = Sidecar(settings)
        await MetadataClient(sidecar).shutdown()
        await sidecar.close()
        assert [call.method for call in told.calls] == ["Shutdown"]
