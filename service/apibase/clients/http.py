"""Other apps over HTTP: GET, POST, PUT, DELETE and PATCH through the sidecar, by app id."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Self, TypeVar
from urllib.parse import quote, urlencode

import grpc
from google.protobuf.message import Message
from loguru import logger
from pydantic import BaseModel
from pydantic_core import to_json

from apibase.clients._values import JSON, decode, encode, name_of
from apibase.clients.http_status import code_of, sidecar_said
from apibase.errors import CalleeError

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, AsyncIterator

    import aiohttp
    from multidict import CIMultiDictProxy

    from apibase.clients._transport import Sidecar

V = TypeVar("V")
Scalar = str | int | float | bool
Query = Mapping[str, Scalar | Iterable[Scalar]]
"""A query: a name may have several values."""
Json = Message | BaseModel | dict[str, Any] | list[Any] | str | int | float | bool

METHODS = ("GET", "POST", "PUT", "DELETE", "PATCH")
_READ_BYTES = 64 * 1024
_TOLD_BYTES = 64 * 1024
"""More than daprd says when a call does not get through."""
_LOGGED_CHARACTERS = 200
_UNSAYABLE = re.compile(r"[%?#\x00-\x1f\x7f]")


class _Answer:
    """What is known of an answer before its body."""

    def __init__(self, app_id: str, method: str, path: str, response: aiohttp.ClientResponse) -> None:
        self.app_id = app_id
        self.method = method
        self.path = path
        self.status: int = response.status
        self.headers: CIMultiDictProxy[str] = response.headers

    def _error(self, start: bytes) -> CalleeError:
        """Return the error that the status means. Of the body only the log at DEBUG has something: it may hold what is not to be shown."""
        what = f"{self.app_id!r} answered {self.status} to {self.method} {self.path}"
        logger.debug("{}: {}", what, start[: 4 * _LOGGED_CHARACTERS].decode(errors="replace")[:_LOGGED_CHARACTERS])
        code = code_of(self.status)
        return CalleeError(
            self.app_id,
            code if code is not grpc.StatusCode.OK else grpc.StatusCode.UNKNOWN,
            what,
            http_status=self.status,
            retry_after=_seconds(self.headers.get("Retry-After")),
        )

    @property
    def ok(self) -> bool:
        """Whether the status is below 300."""
        return self.status < 300  # noqa: PLR2004 - what HTTP calls successful


class HttpResponse(_Answer):
    """An answer, whole. `headers` are read by name whatever the case; those of the hop between the sidecars are not among them."""

    def __init__(self, app_id: str, method: str, path: str, response: aiohttp.ClientResponse, body: bytes) -> None:
        super().__init__(app_id, method, path, response)
        self._body = body

    def body(self) -> bytes:
        """Return the body as it came, unpacked where it was compressed."""
        return self._body

    def text(self) -> str:
        """Return the body as text. Raises `UnicodeDecodeError` where it is no UTF-8."""
        return self._body.decode()

    def json(self, kind: type[V]) -> V:
        """Return the body as a message of a contract, a pydantic model, or what else of JSON `kind` is.

        Raises `CalleeError` (DATA_LOSS) where it is none. The status is not looked at.
        """
        try:
            return decode(self._body, kind)
        except ValueError as error:
            text = f"the answer of {self.app_id!r} to {self.method} {self.path} is no {name_of(kind)}: {error}"
            raise CalleeError(self.app_id, grpc.StatusCode.DATA_LOSS, text, http_status=self.status) from error

    def raise_for_status(self) -> Self:
        """Return the response, or raise `CalleeError` where the status is not below 300. `retryable` is as the status means it."""
        if not self.ok:
            raise self._error(self._body)
        return self


class StreamedResponse(_Answer):
    """An answer whose body is read as it comes, once."""

    def __init__(self, sidecar: Sidecar, app_id: str, method: str, path: str, response: aiohttp.ClientResponse) -> None:
        super().__init__(app_id, method, path, response)
        self._sidecar = sidecar
        self._response = response
        self._start = b""

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yield the body in pieces as they come; their borders mean nothing. Raises `SidecarError` where it breaks off."""
        if self._start:
            start, self._start = self._start, b""
            yield start
        while chunk := await self._read():
            yield chunk

    async def body(self) -> bytes:
        """Return all that is left of it. Raises `CalleeError` (RESOURCE_EXHAUSTED) beyond the setting `max_message_bytes`."""
        limit = self._sidecar.settings.max_message_bytes
        parts, size = [], 0
        async for chunk in self.chunks():
            parts.append(chunk)
            size += len(chunk)
            if size > limit:
                text = f"the answer of {self.app_id!r} to {self.method} {self.path} has more than {limit} bytes (APIBASE_MAX_MESSAGE_BYTES)"
                error = CalleeError(self.app_id, grpc.StatusCode.RESOURCE_EXHAUSTED, text, http_status=self.status)
                error.retryable = False
                self._response.close()
                raise error
        return b"".join(parts)

    async def raise_for_status(self) -> Self:
        """Return the response, or raise `CalleeError` where the status is not below 300."""
        if not self.ok:
            raise self._error(self._start or await self._read())
        return self

    async def peek(self) -> None:
        """Raise `SidecarError` where this is daprd's own word and not the app's."""
        if self.status >= 400:  # noqa: PLR2004 - where daprd's own begin
            while len(self._start) < _TOLD_BYTES and (chunk := await self._read()):
                self._start += chunk
            error = sidecar_said(self.app_id, self.status, self.headers.get("Content-Type", ""), self._start)
            if error is not None:
                raise error

    async def _read(self) -> bytes:
        with self._sidecar.http.reading(self.app_id):
            return await self._response.content.read(_READ_BYTES)


class HttpApp:
    """Another app, called over HTTP through the sidecars: by app id, with their name resolution, mTLS and resiliency policies.

    The answer is the app's whatever its status; `raise_for_status` makes an error of it. Where the call does not get to the app,
    `SidecarError` is raised, `SidecarUnavailable` where it does not even get to this app's own sidecar. A GET is made again while that is
    so; nothing else is: tries beyond that are for Dapr's policies, which can't repeat a body that is streamed. `timeout` is in seconds, for
    the whole call with its body, and for all tries; the setting `call_timeout` where none is given, and never more than the inbound call
    has left.
    """

    def __init__(self, sidecar: Sidecar, app_id: str) -> None:
        if not app_id:
            raise ValueError("app_id is empty")
        self._sidecar = sidecar
        self.app_id = app_id

    async def get(
        self,
        path: str,
        *,
        headers: Mapping[str, str] | None = None,
        query: Query | None = None,
        timeout: float | None = None,  # noqa: ASYNC109 - the call's, as gRPC has it
    ) -> HttpResponse:
        """GET `path`, which is plain text: what has to be is escaped. daprd takes a slash at its end away, and doubled ones for one."""
        return await self._request("GET", path, headers, query, None, None, timeout)

    async def delete(
        self,
        path: str,
        *,
        headers: Mapping[str, str] | None = None,
        query: Query | None = None,
        json: Json | None = None,
        data: bytes | AsyncIterable[bytes] | None = None,
        timeout: float | None = None,  # noqa: ASYNC109
    ) -> HttpResponse:
        """DELETE `path`."""
        return await self._request("DELETE", path, headers, query, json, data, timeout)

    async def post(
        self,
        path: str,
        *,
        headers: Mapping[str, str] | None = None,
        query: Query | None = None,
        json: Json | None = None,
        data: bytes | AsyncIterable[bytes] | None = None,
        timeout: float | None = None,  # noqa: ASYNC109
    ) -> HttpResponse:
        """POST to `path`: `json`, or `data` as it is, in one or, from an async iterator, as it comes."""
        return await self._request("POST", path, headers, query, json, data, timeout)

    async def put(
        self,
        path: str,
        *,
        headers: Mapping[str, str] | None = None,
        query: Query | None = None,
        json: Json | None = None,
        data: bytes | AsyncIterable[bytes] | None = None,
        timeout: float | None = None,  # noqa: ASYNC109
    ) -> HttpResponse:
        """PUT to `path`, as `post` does."""
        return await self._request("PUT", path, headers, query, json, data, timeout)

    async def patch(
        self,
        path: str,
        *,
        headers: Mapping[str, str] | None = None,
        query: Query | None = None,
        json: Json | None = None,
        data: bytes | AsyncIterable[bytes] | None = None,
        timeout: float | None = None,  # noqa: ASYNC109
    ) -> HttpResponse:
        """PATCH `path`, as `post` does."""
        return await self._request("PATCH", path, headers, query, json, data, timeout)

    @asynccontextmanager
    async def stream(
        self,
        method: str,
        path: str,
        *,
        headers: Mapping[str, str] | None = None,
        query: Query | None = None,
        json: Json | None = None,
        data: bytes | AsyncIterable[bytes] | None = None,
        timeout: float | None = None,  # noqa: ASYNC109
    ) -> AsyncIterator[StreamedResponse]:
        """Make a call whose answer is read as it comes, within the block. Without `timeout` it has the inbound call's time, or any."""
        if method not in METHODS:
            raise ValueError(f"{method!r} is none of {', '.join(METHODS)}")
        body, all_headers = _body(json, data, headers)
        target = f"/v1.0/invoke/{quote(self.app_id, safe='')}/method/{_path(path)}{_query(query)}"
        async with self._sidecar.http.exchange(
            self.app_id, method, target, headers=all_headers, data=body, timeout=timeout
        ) as response:
            streamed = StreamedResponse(self._sidecar, self.app_id, method, path, response)
            await streamed.peek()
            yield streamed

    async def _request(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str] | None,
        query: Query | None,
        json: Json | None,
        data: bytes | AsyncIterable[bytes] | None,
        timeout: float | None,  # noqa: ASYNC109
    ) -> HttpResponse:
        limit = timeout if timeout is not None else self._sidecar.settings.call_timeout

        async def call() -> HttpResponse:
            async with self.stream(
                method, path, headers=headers, query=query, json=json, data=data, timeout=limit
            ) as streamed:
                return HttpResponse(self.app_id, method, path, streamed._response, await streamed.body())  # noqa: SLF001

        return await self._sidecar.call(call, component=self.app_id, safe=method == "GET", within=limit)


def _body(
    json: Json | None, data: bytes | AsyncIterable[bytes] | None, headers: Mapping[str, str] | None
) -> tuple[bytes | AsyncIterable[bytes] | None, Mapping[str, str]]:
    given = headers or {}
    named = {name.lower() for name in given}
    if "dapr-app-id" in named:
        raise ValueError("dapr-app-id is not for the caller to set: it would change which app is called")
    if json is None:
        return data, given
    if data is not None:
        raise ValueError("a call has json or data, not both")
    body = to_json(json) if isinstance(json, str) else encode(json)[0]
    return body, given if "content-type" in named else {**given, "Content-Type": JSON}


def _path(path: str) -> str:
    """Return a path as it stands in the sidecar's. Raises `ValueError` for one that daprd would read as another, or refuses."""
    if found := _UNSAYABLE.search(path):
        raise ValueError(f"the path {path!r} has {found[0]!r}, which daprd takes in none; a query is given by itself")
    if not {".", ".."}.isdisjoint(path.split("/")):
        raise ValueError(f"the path {path!r} leads elsewhere")
    return quote(path.removeprefix("/"), safe="/:@!$&'()*+,;=~-._")


def _query(query: Query | None) -> str:
    if not query:
        return ""
    pairs = [
        (name, _scalar(each))
        for name, value in query.items()
        for each in ([value] if isinstance(value, Scalar) else value)
    ]
    return f"?{urlencode(pairs, quote_via=quote)}" if pairs else ""


def _scalar(value: Scalar) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _seconds(header: str | None) -> float | None:
    """Return what `Retry-After` says, where it says it in seconds."""
    return float(header) if header is not None and header.isascii() and header.isdigit() else None
