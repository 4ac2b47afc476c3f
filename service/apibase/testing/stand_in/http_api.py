"""Dapr's HTTP API, as far as the stand-in has it: health, metadata, and calls of other apps."""

from __future__ import annotations

from typing import TYPE_CHECKING

import aiohttp
import grpc
from aiohttp import web
from dapr.proto import common_v1
from google.protobuf import json_format

from apibase.testing.faults import InjectedDisconnect, InjectedStatus
from apibase.testing.stand_in.api import TOKEN
from apibase.testing.stand_in.api_errors import ApiError
from apibase.testing.stand_in.invocation import APP_ID, CALLEE, CALLER

if TYPE_CHECKING:
    from collections.abc import Callable

    from apibase.testing.faults import Faults
    from apibase.testing.stand_in.api import Api
    from apibase.testing.stand_in.invocation import InvocationApi, Router
    from apibase.testing.stand_in.metadata import MetadataApi

_HOP = frozenset(
    {"host", "connection", "content-length", "transfer-encoding", "keep-alive", "te", "upgrade", APP_ID, TOKEN}
)
_METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS")
_STATUS = {
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.FAILED_PRECONDITION: 400,
    grpc.StatusCode.OUT_OF_RANGE: 400,
    grpc.StatusCode.UNAUTHENTICATED: 401,
    grpc.StatusCode.PERMISSION_DENIED: 403,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.ALREADY_EXISTS: 409,
    grpc.StatusCode.ABORTED: 409,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 429,
    grpc.StatusCode.CANCELLED: 499,
    grpc.StatusCode.UNIMPLEMENTED: 501,
    grpc.StatusCode.UNAVAILABLE: 503,
    grpc.StatusCode.DEADLINE_EXCEEDED: 504,
}
_ERROR = 500


class HttpApi:
    """The HTTP server."""

    def __init__(
        self,
        api: Api,
        faults: Faults,
        router: Router,
        invocation: InvocationApi,
        metadata: MetadataApi,
        is_ready: Callable[[], bool],
    ) -> None:
        self._api = api
        self._faults = faults
        self._router = router
        self._invocation = invocation
        self._metadata = metadata
        self._is_ready = is_ready
        self._runner: web.AppRunner | None = None
        self._session: aiohttp.ClientSession | None = None
        self.port = 0

    async def start(self, host: str, port: int, socket: str = "") -> None:
        """Listen. Raises `OSError` where the port is taken."""
        app = web.Application(client_max_size=64 * 1024 * 1024)
        app.router.add_get("/v1.0/healthz", self._health)
        app.router.add_get("/v1.0/healthz/outbound", self._outbound_health)
        app.router.add_get("/v1.0/metadata", self._tell_metadata)
        app.router.add_put("/v1.0/metadata/{key}", self._set_metadata)
        for method in _METHODS[:5]:
            app.router.add_route(method, "/v1.0/invoke/{app_id}/method/{path:.*}", self._invoke)
        app.router.add_route("*", "/{path:.*}", self._other)
        self._runner = web.AppRunner(app, access_log=None, handle_signals=False)
        await self._runner.setup()
        site = web.UnixSite(self._runner, socket) if socket else web.TCPSite(self._runner, host, port)
        await site.start()
        if not socket:
            self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        """End it."""
        if self._session is not None:
            await self._session.close()
        if self._runner is not None:
            await self._runner.cleanup()

    async def _health(self, request: web.Request) -> web.Response:
        wanted = request.query.get("appid", "")
        if wanted and wanted != self._router.app_id:
            return _error(500, "ERR_HEALTH_APPID_NOT_MATCH", "dapr app-id does not match")
        if not self._is_ready():
            return _error(500, "ERR_HEALTH_NOT_READY", "dapr is not ready: [app]")
        return web.Response(status=204)

    async def _outbound_health(self, _request: web.Request) -> web.Response:
        return web.Response(status=204)

    async def _tell_metadata(self, request: web.Request) -> web.Response:
        if (refusal := self._refusal(request)) is not None:
            return refusal
        return web.json_response(json_format.MessageToDict(self._metadata.response()))

    async def _set_metadata(self, request: web.Request) -> web.Response:
        if (refusal := self._refusal(request)) is not None:
            return refusal
        self._metadata.attributes[request.match_info["key"]] = await request.text()
        return web.Response(status=204)

    async def _other(self, request: web.Request) -> web.StreamResponse:
        if request.headers.get(APP_ID):
            return await self._invoke(request)
        message = (
            f"the stand-in sidecar has no {request.method} {request.path}: over HTTP it has health, metadata and invocation; "
            "use gRPC, or run this with a real sidecar"
        )
        return _error(501, "ERR_API_UNIMPLEMENTED", message)

    async def _invoke(self, request: web.Request) -> web.StreamResponse:
        if (refusal := self._refusal(request)) is not None:
            return refusal
        app_id = request.match_info.get("app_id") or request.headers[APP_ID]
        path = request.match_info["path"].lstrip("/")
        try:
            await self._faults.apply("InvokeHttp", app_id, path)
            peer = self._router.peers.get(app_id)
            if peer is not None and peer.http_url:
                return await self._forward(request, peer.http_url, app_id)
            return await self._by_name(request, app_id, path)
        except InjectedStatus as error:
            return _error(_STATUS.get(error.code, _ERROR), "ERR_DIRECT_INVOKE", error.message)
        except InjectedDisconnect:
            assert request.transport is not None  # noqa: S101 - it has one while it is served
            request.transport.abort()
            raise
        except ApiError as error:
            return _error(500, "ERR_DIRECT_INVOKE", error.message)

    async def _forward(self, request: web.Request, url: str, app_id: str) -> web.StreamResponse:
        """Pass a request on to an HTTP app, and its answer back, as they come."""
        if self._session is None:
            self._session = aiohttp.ClientSession(auto_decompress=False)
        raw = request.raw_path.partition(f"/v1.0/invoke/{app_id}/method/")[2] or request.raw_path.lstrip("/")
        headers = [(key, value) for key, value in request.headers.items() if key.lower() not in _HOP]
        headers += [(CALLER, self._router.app_id), (CALLEE, app_id)]
        body = request.content if request.body_exists else None
        try:
            answering = self._session.request(
                request.method, f"{url.rstrip('/')}/{raw}", headers=headers, data=body, allow_redirects=False
            )
            async with answering as answer:
                passed = web.StreamResponse(status=answer.status, reason=answer.reason)
                for key, value in answer.headers.items():
                    if key.lower() not in _HOP:
                        passed.headers.add(key, value)
                await passed.prepare(request)
                async for chunk in answer.content.iter_any():
                    await passed.write(chunk)
                await passed.write_eof()
                return passed
        except aiohttp.ClientConnectorError as error:
            raise ApiError(grpc.StatusCode.INTERNAL, f"failed to invoke, id: {app_id}, err: {error}") from None

    async def _by_name(self, request: web.Request, app_id: str, path: str) -> web.Response:
        """Have a gRPC app's `OnInvoke` answer."""
        message = common_v1.InvokeRequest(
            method=path,
            content_type=request.headers.get("content-type", "application/json"),
            http_extension=common_v1.HTTPExtension(
                verb=common_v1.HTTPExtension.Verb.Value(request.method), querystring=request.query_string
            ),
        )
        message.data.value = await request.read()
        given = tuple(
            (key.lower(), value)
            for key, value in request.headers.items()
            if key.lower() not in _HOP and not key.lower().startswith(("content-", "accept", "user-agent"))
        )
        try:
            answer = await self._invocation.on_invoke(app_id)(message, metadata=self._router.headers(given, app_id))
        except grpc.aio.AioRpcError as error:
            return _error(_STATUS.get(error.code(), _ERROR), "ERR_DIRECT_INVOKE", error.details() or "")
        return web.Response(body=answer.data.value, headers={"content-type": answer.content_type or "application/json"})

    def _refusal(self, request: web.Request) -> web.Response | None:
        """Return the answer to a caller without the API's token."""
        given = request.headers.get(TOKEN)
        try:
            self._api.check_token(((TOKEN, given),) if given is not None else ())
        except ApiError:
            return web.Response(status=401, text="invalid api token")
        return None


def _error(status: int, code: str, message: str) -> web.Response:
    return web.json_response({"errorCode": code, "message": message}, status=status)
