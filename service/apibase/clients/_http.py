"""The connection to the sidecar's HTTP API: a session for each loop, and calls of other apps over it.

A call carries what one over gRPC does: token, trace, correlation id, and no more time than the inbound call has left. It gets a span where
the current one is recorded, and counts as the building block `invocation`. Outbound middleware it does not pass: those are of gRPC's calls.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import aiohttp
import grpc
from opentelemetry import trace
from opentelemetry.trace import SpanKind, Status, StatusCode
from yarl import URL

from apibase.clients.http_status import code_of
from apibase.contract.reasons import chassis_reason
from apibase.deadline import deadline
from apibase.errors import SidecarError, SidecarUnavailable
from apibase.observability import outbound_headers
from apibase.observability.tracing import current_tracer
from dapr_contract.v1 import errors_pb2

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, AsyncIterator, Iterator, Mapping

    from opentelemetry.trace import Span

    from apibase.observability.metrics import Metrics
    from apibase.settings import Settings

_SIDECAR_ERROR = chassis_reason(errors_pb2.ERROR_REASON_SIDECAR_ERROR)
_UNIX = "unix://"
_BLOCK = "invocation"


class SidecarHttp:
    """The sidecar's HTTP API. Nothing is opened before the first call; `close` ends it."""

    def __init__(self, settings: Settings, metrics: Metrics | None = None) -> None:
        self._settings = settings
        self._metrics = metrics
        self._sessions: WeakKeyDictionary[asyncio.AbstractEventLoop, aiohttp.ClientSession] = WeakKeyDictionary()
        self._tls: ssl.SSLContext | None = None

    @property
    def address(self) -> str:
        """Where the API is expected, for messages."""
        return self._settings.sidecar_http_address

    @asynccontextmanager
    async def exchange(
        self,
        app_id: str,
        method: str,
        path: str,
        *,
        headers: Mapping[str, str],
        data: bytes | AsyncIterable[bytes] | None,
        timeout: float | None,  # noqa: ASYNC109 - the call's, as gRPC has it
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Make a call for the block, and hand out its response when its headers are there; the body is read by `reading`.

        `path` is that of the sidecar's API, encoded, with the query. `timeout` is for all of it, the body included; None for as long as
        the inbound call has. Raises `SidecarUnavailable` where the sidecar can't be reached, `SidecarError` (DEADLINE_EXCEEDED) where
        time is over.
        """
        began = time.perf_counter()
        code = grpc.StatusCode.UNKNOWN
        body = data if data is None or isinstance(data, bytes) else _Body(data)
        with self._span(app_id, method) as span:
            try:
                left = deadline.bound(timeout)
                with _translated(app_id, self.address, body):
                    if left is not None and left <= 0:
                        raise TimeoutError  # to aiohttp, 0 is no limit
                    response = await self._session().request(
                        method,
                        self._url(path),
                        headers=self._headers(headers, span),
                        data=body,
                        timeout=aiohttp.ClientTimeout(total=left),
                        allow_redirects=False,
                    )
                code = code_of(response.status)
                _tell(span, response.status)
                try:
                    yield response
                finally:
                    response.release()
            except SidecarError as error:
                code = error.code
                raise
            except asyncio.CancelledError:
                code = grpc.StatusCode.CANCELLED
                raise
            finally:
                self._count(method, code, time.perf_counter() - began)

    @contextmanager
    def reading(self, app_id: str) -> Iterator[None]:
        """Have what fails while a body is read be an error of the family."""
        with _translated(app_id, self.address):
            yield

    async def close(self) -> None:
        """Close the sessions, of whichever loop they are."""
        sessions = list(self._sessions.items())
        self._sessions.clear()
        for loop, session in sessions:
            if loop is asyncio.get_running_loop():
                await session.close()
            elif loop.is_running():
                await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(session.close(), loop))

    def _session(self) -> aiohttp.ClientSession:
        loop = asyncio.get_running_loop()
        session = self._sessions.get(loop)
        if session is None:
            session = self._sessions[loop] = aiohttp.ClientSession(
                connector=self._connector(),
                cookie_jar=aiohttp.DummyCookieJar(),  # cookies are the caller's to keep
                max_line_size=_MAX_HEADER_BYTES,
                max_field_size=_MAX_HEADER_BYTES,
            )
        return session

    def _connector(self) -> aiohttp.BaseConnector:
        if self.address.startswith(_UNIX):
            return aiohttp.UnixConnector(self.address.removeprefix(_UNIX), limit=0)
        if not self.address.startswith("https:"):
            return aiohttp.TCPConnector(limit=0)
        if self._tls is None:
            self._tls = ssl.create_default_context(cafile=self._settings.sidecar_ca_file)
        return aiohttp.TCPConnector(limit=0, ssl=self._tls)

    def _url(self, path: str) -> URL:
        base = "http://localhost" if self.address.startswith(_UNIX) else self.address.rstrip("/")
        return URL(f"{base}{path}", encoded=True)

    def _headers(self, given: Mapping[str, str], span: Span | None) -> dict[str, str]:
        """Return the caller's headers and, unless it has them, those that every call carries."""
        headers = dict(given)
        there = {name.lower() for name in headers}
        carried = outbound_headers(span)
        token = self._settings.dapr_api_token
        if token is not None:
            carried["dapr-api-token"] = token.get_secret_value()
        headers.update((name, value) for name, value in carried.items() if name not in there)
        return headers

    @contextmanager
    def _span(self, app_id: str, method: str) -> Iterator[Span | None]:
        if not trace.get_current_span().is_recording():
            yield None
            return
        # Behind the sidecar, it is the app that answers. No path: it may hold what a trace is not to have.
        attributes = {"http.request.method": method, "server.address": app_id}
        span = current_tracer().start_span(f"{method} {app_id}", kind=SpanKind.CLIENT, attributes=attributes)
        try:
            yield span
        except BaseException as error:
            span.set_attribute(
                "error.type", error.code.name if isinstance(error, SidecarError) else type(error).__qualname__
            )
            span.set_status(Status(StatusCode.ERROR))
            raise
        finally:
            span.end()

    def _count(self, method: str, code: grpc.StatusCode, seconds: float) -> None:
        if self._metrics is not None:
            operation = f"HTTP {method}"
            self._metrics.block_calls.labels(_BLOCK, operation, code.name).inc()
            self._metrics.block_seconds.labels(_BLOCK, operation).observe(seconds)


_MAX_HEADER_BYTES = 64 * 1024


def _tell(span: Span | None, status: int) -> None:
    if span is None:
        return
    span.set_attribute("http.response.status_code", status)
    if status >= _FIRST_ERROR:
        span.set_attribute("error.type", str(status))
        span.set_status(Status(StatusCode.ERROR))


_FIRST_ERROR = 400


class _Body:
    """A body that is sent as it comes, and keeps what its source failed with: that is not the connection's failure."""

    def __init__(self, source: AsyncIterable[bytes]) -> None:
        self._source = source
        self.error: Exception | None = None

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async for chunk in self._source:
                yield chunk
        except Exception as error:
            self.error = error
            raise


@contextmanager
def _translated(app_id: str, address: str, body: object = None) -> Iterator[None]:
    try:
        yield
    except TimeoutError as error:
        text = f"{app_id} did not answer in time"
        raise SidecarError(grpc.StatusCode.DEADLINE_EXCEEDED, _SIDECAR_ERROR, text, component=app_id) from error
    except aiohttp.ClientConnectionError as error:
        if isinstance(body, _Body) and body.error is not None:
            raise body.error from None
        raise SidecarUnavailable(f"the sidecar at {address} can't be reached over HTTP: {error}") from error
    except aiohttp.ClientError as error:
        # The answer broke off, or is no HTTP.
        text = f"the answer of {app_id} can't be read: {error}"
        raise SidecarError(grpc.StatusCode.UNAVAILABLE, _SIDECAR_ERROR, text, component=app_id) from error
