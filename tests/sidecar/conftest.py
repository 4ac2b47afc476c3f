"""The reference system, for tests that ask for it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest_asyncio

from tests.sidecar.shop import Shop, open_shop


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shop() -> AsyncIterator[Shop]:
    """The reference system as it ships, one for a module."""
    async with open_shop() as opened:
        yield opened
