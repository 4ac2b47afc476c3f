"""The mock components, up."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest_asyncio

from apibase.testing.components import MockComponents
from tests.unit.testing.components.wire import connected


@pytest_asyncio.fixture
async def mocks() -> AsyncIterator[MockComponents]:
    async with MockComponents() as opened:
        yield opened


@pytest_asyncio.fixture
async def store(mocks: MockComponents) -> AsyncIterator[Any]:
    async with connected(mocks.folder / "mock.state", "StateStore") as stub:
        yield stub


@pytest_asyncio.fixture
async def broker(mocks: MockComponents) -> AsyncIterator[Any]:
    async with connected(mocks.folder / "mock.pubsub", "PubSub", "events") as stub:
        yield stub
