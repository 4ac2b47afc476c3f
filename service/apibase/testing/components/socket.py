"""A gRPC server on a Unix socket whose every connection can be broken, and which daprd finds by reflection."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Any

import grpc
from grpc_reflection.v1alpha import reflection

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_LONGEST = 103
"""Bytes of a Unix socket's path, the least of what systems take (macOS), without the closing zero."""


class ComponentSocket:
    """One socket file, and the server behind it: open, closed, and open again."""

    def __init__(self, path: Path, services: Mapping[str, Mapping[str, grpc.RpcMethodHandler[Any, Any]]]) -> None:
        self.path = path
        self._services = services
        self._server: grpc.aio.Server | None = None
        self._opened = 0
        self._lock = asyncio.Lock()
        self._breaking: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        """Serve; a file that an earlier process left is replaced. Raises `ValueError` where the path is too long for a socket."""
        async with self._lock:
            if self._server is None:
                self._server = await self._serve()

    async def close(self) -> None:
        """End the server and every connection, and remove the file: as if the process were gone."""
        async with self._lock:
            server, self._server = self._server, None
            if server is not None:
                self.path.unlink(missing_ok=True)
                await server.stop(0)
        await asyncio.gather(*self._breaking)

    def break_connections(self) -> None:
        """Break every connection, soon; whoever connects again is served."""
        task = asyncio.create_task(self._replace())
        self._breaking.add(task)
        task.add_done_callback(self._breaking.discard)

    async def _replace(self) -> None:
        async with self._lock:
            if self._server is not None:
                old, self._server = self._server, await self._serve()
                await old.stop(0)

    async def _serve(self) -> grpc.aio.Server:
        # gRPC unlinks the path that it has bound when it is done with it, which may be late: each server binds one of its
        # own, in a folder that daprd passes over, and is moved to where it is looked for.
        self._opened += 1
        folder = self.path.parent / f".{self.path.name}.{os.getpid()}"
        bound = folder / str(self._opened)
        if len(os.fsencode(bound)) > _LONGEST:
            raise ValueError(f"{bound} is too long for a Unix socket; give MockComponents a folder with a shorter path")
        server = grpc.aio.server()
        for name, methods in self._services.items():
            server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(name, dict(methods)),))
        reflection.enable_server_reflection([*self._services, reflection.SERVICE_NAME], server)
        folder.mkdir(parents=True)
        server.add_insecure_port(f"unix:{bound}")
        await server.start()
        bound.rename(self.path)
        folder.rmdir()
        return server
