"""What a sidecar says of itself, and what an app leaves with it."""

from __future__ import annotations

import pytest

from apibase import MetadataClient
from tests.contract.beside import TOPICS, Beside
from tests.contract.sides import Side


@pytest.fixture
def metadata(side: Side) -> MetadataClient:
    return MetadataClient(side.sidecar)


async def test_the_sidecar_says_who_it_is_and_what_it_has_loaded(side: Side, metadata: MetadataClient) -> None:
    found = await metadata.get()

    assert found.app_id == "contract"
    assert found.runtime_version.startswith("1.")
    assert found.components["postgres"].type == "state.postgresql"
    assert "TRANSACTIONAL" in found.components["postgres"].capabilities
    assert found.components["files"].type == "bindings.localstorage"
    assert found.http_endpoints == ()


async def test_the_sidecar_says_how_it_reaches_its_app(side: Side, beside: Beside, metadata: MetadataClient) -> None:
    app = (await metadata.get()).app

    assert app is not None
    assert (app.port, app.protocol, app.probe_interval) == (side.settings.app_port, "grpc", "1s")
    assert app.max_concurrency == 0


async def test_the_sidecar_says_what_it_is_subscribed_to(beside: Beside, metadata: MetadataClient) -> None:
    found = {each.topic: each for each in (await metadata.get()).subscriptions}

    assert set(TOPICS) <= set(found)
    raw = found["contract.raw"]
    assert (raw.pubsub_name, raw.kind, raw.dead_letter_topic) == ("events", "PROGRAMMATIC", "")
    assert raw.metadata["rawPayload"] == "true"
    assert len(raw.rules) == 1


async def test_an_attribute_stays_with_the_sidecar(side: Side, metadata: MetadataClient) -> None:
    key = side.key("attribute")
    await metadata.set(key, "first")
    await metadata.set(key, "second")

    assert (await metadata.get()).attributes[key] == "second"


async def test_an_attribute_needs_a_key(metadata: MetadataClient) -> None:
    with pytest.raises(ValueError, match="the key of an attribute is empty"):
        await metadata.set("", "value")


async def test_a_sidecar_that_answers_is_healthy(metadata: MetadataClient) -> None:
    assert await metadata.healthy()
