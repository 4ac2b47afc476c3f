"""HashiCorp's Vault in its development mode: unsealed, in memory, on loopback, with a token that is known."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
from functools import partial
from pathlib import Path
from typing import Any, Self

from apibase.local.binaries import vault_binaries
from apibase.local.ports import LOOPBACK, PortPool
from apibase.local.probes import http_ok
from apibase.local.process import ManagedProcess, ProcessSpec

TOKEN = "root-token-of-the-tests"


class VaultServer:
    """Up by `async with`, and, with nothing in it, by `start` after a `stop`."""

    def __init__(self, folder: Path) -> None:
        self._ports = PortPool()
        self._port = self._ports.take()
        self._folder = folder
        self._process: ManagedProcess | None = None
        self.address = f"http://{LOOPBACK}:{self._port}"

    async def start(self) -> None:
        self._ports.release(self._port)
        binary = await asyncio.to_thread(vault_binaries)
        command = (
            *(str(binary.vault), "server", "-dev", "-dev-no-store-token", f"-dev-root-token-id={TOKEN}"),
            f"-dev-listen-address={LOOPBACK}:{self._port}",
        )
        environment = {**os.environ, "HOME": str(self._folder), "VAULT_DISABLE_MLOCK": "true"}
        spec = ProcessSpec("vault", command, environment, self._folder, self._folder / "vault.log")
        self._process = ManagedProcess(spec)
        self._process.start()
        await self._process.until(partial(http_ok, self._port, "/v1/sys/health"), 30, "/v1/sys/health is not 200")

    async def stop(self) -> None:
        if self._process is not None:
            await self._process.stop()

    async def write(self, name: str, **values: str) -> None:
        """Write a version of a secret into the KV store, version 2, below the prefix of the components."""
        await self._ask("POST", f"/v1/secret/data/shop/{name}", {"data": values})

    async def delete(self, name: str) -> None:
        """Delete the newest version of a secret."""
        await self._ask("DELETE", f"/v1/secret/data/shop/{name}")

    async def seal(self) -> None:
        """Have it forget its key: it runs, and tells nothing."""
        await self._ask("PUT", "/v1/sys/seal")

    async def _ask(self, method: str, path: str, body: Any = None) -> None:
        def ask() -> int:
            connection = http.client.HTTPConnection(LOOPBACK, self._port, timeout=10)
            try:
                connection.request(method, path, json.dumps(body), {"X-Vault-Token": TOKEN})
                return connection.getresponse().status
            finally:
                connection.close()

        status = await asyncio.to_thread(ask)
        assert status in {200, 204}, f"{method} {path}: {status}"

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
