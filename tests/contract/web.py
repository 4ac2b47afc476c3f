"""An app that speaks HTTP, behind a sidecar of its own: it tells what came, and answers what it is asked to."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import ClientSession, web

from apibase.testing.stand_in.peers import Peer
from tests.contract.sides import Side
from tests.sidecar.shop import eventually

APP_ID = "web"


@dataclass
class WebApp:
    """What has come, and what is held back."""

    seen: list[str] = field(default_factory=list)
    """The first bytes of each piece of a body that is uploaded."""
    go_on: asyncio.Event = field(default_factory=asyncio.Event)
    """Whether the second half of `/slow` may be sent."""

    def routes(self) -> web.Application:
        app = web.Application(client_max_size=32 * 1024 * 1024)
        app.router.add_post("/upload", self._upload)
        app.router.add_get("/slow", self._slow)
        app.router.add_get("/large", self._large)
        app.router.add_get("/broken", self._broken)
        app.router.add_get("/never", self._never)
        app.router.add_route("*", "/{path:.*}", self._echo)
        return app

    async def _echo(self, request: web.Request) -> web.Response:
        body = await request.read()
        told: dict[str, Any] = {
            "method": request.method,
            "path": request.path,
            "query": [list(pair) for pair in request.query.items()],
            "headers": {name.lower(): value for name, value in request.headers.items()},
            "body": body.decode("latin-1"),
        }
        status = int(request.headers.get("X-Status", "200"))
        headers = {"X-Own": "yes"}
        if after := request.headers.get("X-Retry-After"):
            headers["Retry-After"] = after
        return web.json_response(told, status=status, headers=headers)

    async def _upload(self, request: web.Request) -> web.Response:
        digest, size = hashlib.sha256(), 0
        async for piece in request.content.iter_any():
            self.seen.append(piece[:5].decode("latin-1"))
            digest.update(piece)
            size += len(piece)
        return web.json_response({"size": size, "digest": digest.hexdigest()})

    async def _slow(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"first")
        await self.go_on.wait()
        await response.write(b"second")
        await response.write_eof()
        return response

    async def _large(self, request: web.Request) -> web.Response:
        return web.Response(body=b"x" * int(request.query["size"]))

    async def _broken(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": "1000"})
        await response.prepare(request)
        await response.write(b"x" * 10)
        assert request.transport is not None
        request.transport.close()
        return response

    async def _never(self, _request: web.Request) -> web.Response:
        await asyncio.Event().wait()
        raise AssertionError


@asynccontextmanager
async def running_web(side: Side) -> AsyncIterator[WebApp]:
    """Run the app until the block ends; it can be called through the side's sidecar."""
    app = WebApp()
    runner = web.AppRunner(app.routes(), access_log=None, handle_signals=False, shutdown_timeout=0.1)
    await runner.setup()
    port = 0 if side.stack is None else int(side.stack.environment(APP_ID)["APP_PORT"])
    try:
        site = web.TCPSite(runner, "127.0.0.1", port)
        await site.start()
        if side.server is not None:
            url = f"http://127.0.0.1:{runner.addresses[0][1]}"
            side.server.router.peers[APP_ID] = Peer(APP_ID, http_url=url)
        async with ClientSession() as session:

            async def called() -> bool:
                url = f"http://127.0.0.1:{side.settings.dapr_http_port}/v1.0/invoke/{APP_ID}/method/there"
                async with session.get(url) as response:
                    return response.status == 200

            await eventually(called, within=20, what="the app can be called")
        yield app
    finally:
        app.go_on.set()
        await runner.cleanup()
