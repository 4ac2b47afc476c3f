"""One sidecar creates a database's tables before the others come to it.

Dapr's PostgreSQL components create their tables when they load, and two that do so at the same moment collide: the loser's
daprd exits with "type dapr_metadata already exists" (1.18.2). Kubernetes would restart it; a local stack lets them
come one after the other instead.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from apibase.local.components import components_of
from apibase.local.probes import http_ok

if TYPE_CHECKING:
    from collections.abc import Sequence

    from apibase.local.instance import Instance

_POLL_SECONDS = 0.02


class TableGate:
    """Holds back every sidecar that loads a PostgreSQL component but the first, until that one has loaded its own."""

    def __init__(self, instances: Sequence[Instance]) -> None:
        self._held = [instance for instance in instances if _loads_postgres(instance)]
        self._open = asyncio.Event()

    async def enter(self, instance: Instance) -> None:
        """Return when the sidecar of `instance` may start."""
        if instance in self._held[1:]:
            await self._open.wait()

    async def watch(self) -> None:
        """Open the gate as soon as the first sidecar's API answers, which it does once its components are loaded."""
        while self._held[1:] and not await http_ok(self._held[0].ports.http, "/v1.0/healthz/outbound"):  # noqa: ASYNC110 - the sidecar tells nobody
            await asyncio.sleep(_POLL_SECONDS)
        self._open.set()


def _loads_postgres(instance: Instance) -> bool:
    return any(component.type.endswith(".postgresql") for component in components_of([instance.spec]))
