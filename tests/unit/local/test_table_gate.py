"""One sidecar creates a database's tables before the others come to it."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from apibase.local.backends import table_gate
from apibase.local.backends.table_gate import TableGate

if TYPE_CHECKING:
    from pathlib import Path

STORE = """
apiVersion: dapr.io/v1alpha1
kind: Component
metadata: {name: store}
spec: {type: state.postgresql, version: v2}
scopes: [one, two]
"""


@pytest.fixture
def instances(tmp_path: Path) -> list[Any]:
    """Three apps, the first two of which load a PostgreSQL store."""
    (tmp_path / "store.yaml").write_text(STORE)
    return [
        SimpleNamespace(spec=SimpleNamespace(app_id=name, resources=(tmp_path,)), ports=SimpleNamespace(http=port))
        for name, port in (("one", 1), ("two", 2), ("three", 3))
    ]


async def test_the_second_sidecar_starts_only_when_the_firsts_components_are_loaded(
    instances: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = asyncio.Event()
    asked: list[int] = []

    async def http_ok(port: int, path: str) -> bool:
        asked.append(port)
        return answers.is_set()

    monkeypatch.setattr(table_gate, "http_ok", http_ok)
    gate = TableGate(instances)
    watching = asyncio.create_task(gate.watch())
    first, second, third = (asyncio.create_task(gate.enter(instance)) for instance in instances)
    async with asyncio.timeout(5):
        await first
        await third
        while len(asked) < 3:
            await asyncio.sleep(0.001)
        assert not second.done()
        answers.set()
        await second
        await watching
    assert set(asked) == {1}


async def test_a_lone_sidecar_is_not_watched(instances: list[Any]) -> None:
    gate = TableGate(instances[1:])
    async with asyncio.timeout(5):
        await gate.watch()
        await gate.enter(instances[1])
