"""A Redis that a test ends and starts again, on one port and with its data."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from apibase.local.backends.redis import plan_redis
from apibase.local.binaries import redis_binaries
from apibase.local.ports import LOOPBACK, PortPool
from apibase.local.process import ManagedProcess


class RedisServer:
    """Up by `async with`, and by `start` after a `stop`."""

    def __init__(self, folder: Path) -> None:
        self._ports = PortPool()
        port = self._ports.take()
        self.address = f"{LOOPBACK}:{port}"
        self._service = plan_redis(redis_binaries(), port, folder / "data", folder, {})
        self._process: ManagedProcess | None = None

    async def start(self) -> None:
        self._ports.release(*self._service.ports)
        self._process = ManagedProcess(self._service.spec)
        self._process.start()
        await self._process.until(self._service.ready, self._service.within, self._service.waits_for)

    async def stop(self) -> None:
        if self._process is not None:
            await self._process.stop()

    async def __aenter__(self) -> Self:
        try:
            await self.start()
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self.stop()
        self._ports.close()
