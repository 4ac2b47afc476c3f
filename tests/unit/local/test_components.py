"""Which components apps load, and which backends that asks for."""

from __future__ import annotations

from pathlib import Path

import pytest

from apibase.local.backends import Backend, address_variables, to_embed
from apibase.local.components import components_of, read_components
from apibase.local.errors import TopologyError
from apibase.local.topology import AppSpec

STORE = """
apiVersion: dapr.io/v1alpha1
kind: Component
metadata: {name: store}
spec:
  type: state.postgresql
  version: v2
  metadata:
    - {name: connectionString, envRef: POSTGRES}
    - {name: tablePrefix, value: x}
scopes: [orders]
---
apiVersion: dapr.io/v1alpha1
kind: Subscription
metadata: {name: not-a-component}
---
apiVersion: dapr.io/v1alpha1
kind: Component
metadata: {name: events}
spec:
  type: pubsub.redis
  metadata:
    - {name: redisHost, envRef: REDIS}
    - {name: redisPassword, envRef: REDIS_PASSWORD}
"""


@pytest.fixture
def resources(tmp_path: Path) -> Path:
    (tmp_path / "all.yaml").write_text(STORE)
    (tmp_path / "notes.txt").write_text("kind: Component")
    (tmp_path / "deeper").mkdir()
    (tmp_path / "deeper/other.yaml").write_text(STORE)
    return tmp_path


def test_components_are_read_from_every_document_of_the_folder_itself(resources: Path) -> None:
    assert [(component.name, component.type) for component in read_components(resources)] == [
        ("store", "state.postgresql"),
        ("events", "pubsub.redis"),
    ]


def test_a_scoped_component_counts_for_its_apps_alone(resources: Path) -> None:
    names = {}
    for app_id in ("orders", "payments"):
        app = AppSpec(app_id=app_id, folder=resources, resources=(resources,))
        names[app_id] = [component.name for component in components_of([app])]
    assert names == {"orders": ["store", "events"], "payments": ["events"]}


def test_only_addresses_ask_for_a_backend_and_only_where_they_are_not_given(resources: Path) -> None:
    variables = address_variables(read_components(resources))
    assert variables == {"POSTGRES": Backend.POSTGRES, "REDIS": Backend.REDIS}
    assert to_embed(variables, {"REDIS": "elsewhere:6379", "POSTGRES": ""}) == {"POSTGRES": Backend.POSTGRES}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{kind: Component, metadata: {}, spec: {type: state.redis}}", "metadata.name"),
        ("{kind: Component, metadata: {name: x}, spec: {}}", "spec.type"),
        ("{kind: Component, metadata: {name: x}, spec: {type: a.b, metadata: {}}, scopes: a}", "must be lists"),
        ("{kind: Component", "expected"),
    ],
)
def test_a_component_that_cannot_be_read_is_named_by_its_file(tmp_path: Path, text: str, problem: str) -> None:
    (tmp_path / "bad.yaml").write_text(text)
    with pytest.raises(TopologyError, match=problem) as caught:
        read_components(tmp_path)
    assert "bad.yaml" in str(caught.value)
