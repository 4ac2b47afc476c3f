"""Every component of the suite is there."""

from __future__ import annotations

import pytest

from tests.contract.sides import Side


@pytest.mark.parametrize(
    "name", ["postgres", "postgres1", "redis", "sqlite", "events", "vault", "settings", "locks", "files"]
)
async def test_a_component_is_loaded(side: Side, name: str) -> None:
    assert (await side.sidecar.component(name)).name == name
