"""The contract suite: what the clients promise, on the stand-in sidecar and on the real daprd alike.

A test takes `side`, and `store` where it is about state stores: it then runs on each store of each side. Where one of them can't keep
to what the others do, the test is marked `differs(why, side=…, store=…)`, takes `difference`, and asserts what that one does instead.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.contract.beside import Beside, running_beside
from tests.contract.sides import Side, real, stand_in

SIDES = [
    pytest.param("stand-in", id="stand-in"),
    pytest.param("1.18", id="1.18"),
    pytest.param("1.14", id="1.14", marks=pytest.mark.full),
]
# One store in `make test`, all of them in `make test-full`.
STORES = [
    pytest.param("postgres", id="postgres"),
    *(pytest.param(name, id=name, marks=pytest.mark.full) for name in ("postgres1", "redis", "sqlite")),
]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run all tests of this folder in one event loop, in which the sides live."""
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.asyncio(loop_scope="session"), append=False)


@pytest_asyncio.fixture(scope="session", loop_scope="session", params=SIDES)
async def side(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Side]:
    """Return the sidecar under test."""
    folder = tmp_path_factory.mktemp("contract")
    async with stand_in(folder) if request.param == "stand-in" else real(request.param, folder) as opened:
        yield opened


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def beside(side: Side, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Beside]:
    """Return the app beside the sidecar under test."""
    async with running_beside(side, tmp_path_factory.mktemp("beside")) as running:
        yield running


@pytest.fixture(params=STORES)
def store(request: pytest.FixtureRequest) -> str:
    """Return the name of the state store component under test."""
    return request.param


@pytest.fixture
def difference(request: pytest.FixtureRequest) -> str:
    """Return why this side, or this store of it, does something else; empty where it does what all do."""
    values = request.node.callspec.params
    for marker in request.node.iter_markers("differs"):
        if all(
            values.get(name) in ({wanted} if isinstance(wanted, str) else set(wanted))
            for name, wanted in marker.kwargs.items()
        ):
            return marker.args[0]
    return ""
