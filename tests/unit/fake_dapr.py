"""Dapr's gRPC API in this process, as far as the chassis uses it: enough to see what a call carries and what an answer does."""

from __future__ import annotations

import asyncio
import itertools
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

import grpc
from dapr.proto import api_service_v1, api_v1, common_v1
from google.protobuf.empty_pb2 import Empty

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    Context = grpc.aio.ServicerContext[Any, Any]

FIRST_WRITE = common_v1.StateOptions.StateConcurrency.CONCURRENCY_FIRST_WRITE


@dataclass
class Call:
    """One call that the fake took."""

    method: str
    metadata: dict[str, str]
    seconds_left: float | None
    request: Any = None


@dataclass
class Row:
    """What is under a key."""

    data: bytes
    etag: str
    metadata: dict[str, str] = field(default_factory=dict)


class FakeDapr(api_service_v1.DaprServicer):
    """State with etags as PostgreSQL has them, a list of what was published, and every call with its metadata.

    `fail(method, code)` fails the next call of a method; `after(method, hook)` runs a hook once the next one has taken
    effect, which can fail too: an answer that got lost.
    """

    def __init__(
        self,
        address: str,
        handlers: Sequence[grpc.GenericRpcHandler] = (),
        token: str = "",
        credentials: grpc.ServerCredentials | None = None,
    ) -> None:
        self.address = address
        self.port = 0
        self._credentials = credentials
        self.components = {"events": "pubsub.redis", "mail": "bindings.smtp", "tick": "bindings.cron"}
        self.components |= {"order-sweep": "bindings.cron", "statestore": "state.postgresql"}
        self.components |= {"secrets": "secretstores.local.file"}
        self.capabilities = {"statestore": ["ETAG", "TRANSACTIONAL", "TTL"]}
        self.rows: dict[str, Row] = {}
        self.secrets: dict[str, dict[str, str]] = {"payment-provider-key": {"payment-provider-key": "key-of-the-fake"}}
        self.published: list[api_v1.PublishEventRequest] = []
        self.attributes: dict[str, str] = {}
        self.calls: list[Call] = []
        self._token = token
        self._handlers = handlers
        self._failures: dict[str, list[tuple[grpc.StatusCode, str]]] = defaultdict(list)
        self._after: dict[str, list[Callable[[], Awaitable[None]]]] = defaultdict(list)
        self._etags = itertools.count(1)
        self._server: grpc.aio.Server | None = None

    async def start(self) -> None:
        self._server = grpc.aio.server()
        api_service_v1.add_DaprServicer_to_server(self, self._server)
        if self._handlers:
            self._server.add_generic_rpc_handlers(tuple(self._handlers))
        if self._credentials is not None:
            self.port = self._server.add_secure_port(self.address, self._credentials)
        else:
            self.port = self._server.add_insecure_port(self.address.replace("unix://", "unix:"))
        await self._server.start()

    async def stop(self) -> None:
        if self._server is not None:
            await self._server.stop(None)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self.stop()

    def fail(self, method: str, code: grpc.StatusCode, details: str = "") -> None:
        """Fail the next call of a method; UNAVAILABLE in the words of gRPC, as if the connection were gone."""
        away = code is grpc.StatusCode.UNAVAILABLE
        details = details or ("Socket closed" if away else "the fake was told to fail")
        self._failures[method].append((code, details))

    def after(self, method: str, hook: Callable[[], Awaitable[None]]) -> None:
        self._after[method].append(hook)

    def last(self, method: str) -> Call:
        return [call for call in self.calls if call.method == method][-1]

    async def _take(self, method: str, request: Any, context: Context) -> None:
        metadata = {key: value for key, value in context.invocation_metadata() or () if isinstance(value, str)}
        self.calls.append(Call(method, metadata, context.time_remaining(), request))
        if self._token and metadata.get("dapr-api-token") != self._token:
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, "authentication error: api token mismatch")
        if self._failures[method]:
            await context.abort(*self._failures[method].pop(0))

    async def _done(self, method: str, context: Context) -> None:
        if self._after[method]:
            try:
                await self._after[method].pop(0)()
            except LostAnswer as lost:
                await context.abort(lost.code, "Socket closed: the answer got lost")

    async def GetMetadata(self, request: Any, context: Context) -> Any:
        await self._take("GetMetadata", request, context)
        return api_v1.GetMetadataResponse(
            id="desk",
            runtime_version="1.18.2",
            registered_components=[
                {"name": name, "type": kind, "capabilities": self.capabilities.get(name, ())}
                for name, kind in self.components.items()
            ],
        )

    async def SetMetadata(self, request: Any, context: Context) -> Any:
        await self._take("SetMetadata", request, context)
        self.attributes[request.key] = request.value
        return Empty()

    async def GetState(self, request: Any, context: Context) -> Any:
        await self._take("GetState", request, context)
        row = self.rows.get(request.key)
        await self._done("GetState", context)
        return api_v1.GetStateResponse(data=row.data, etag=row.etag) if row else api_v1.GetStateResponse()

    async def SaveState(self, request: Any, context: Context) -> Any:
        await self._take("SaveState", request, context)
        for state in request.states:
            row = self.rows.get(state.key)
            if state.HasField("etag"):
                if row is None or row.etag != state.etag.value:
                    await context.abort(grpc.StatusCode.ABORTED, "possible etag mismatch")
            elif state.options.concurrency == FIRST_WRITE and row is not None:
                await context.abort(grpc.StatusCode.INTERNAL, "no item was updated")
            self.rows[state.key] = Row(state.value, str(next(self._etags)), dict(state.metadata))
        await self._done("SaveState", context)
        return Empty()

    async def DeleteState(self, request: Any, context: Context) -> Any:
        await self._take("DeleteState", request, context)
        row = self.rows.get(request.key)
        if request.HasField("etag") and (row is None or row.etag != request.etag.value):
            await context.abort(grpc.StatusCode.ABORTED, "possible etag mismatch")
        self.rows.pop(request.key, None)
        return Empty()

    async def GetSecret(self, request: Any, context: Context) -> Any:
        await self._take("GetSecret", request, context)
        if request.key not in self.secrets:
            asked = f"failed getting secret with key {request.key} from secret store {request.store_name}"
            await context.abort(grpc.StatusCode.INTERNAL, f"{asked}: secret {request.key} not found")
        return api_v1.GetSecretResponse(data=self.secrets[request.key])

    async def PublishEvent(self, request: Any, context: Context) -> Any:
        await self._take("PublishEvent", request, context)
        self.published.append(request)
        await self._done("PublishEvent", context)
        return Empty()


class LostAnswer(Exception):
    """Raised by an `after` hook: the call took effect, and its caller gets an error."""

    def __init__(self, code: grpc.StatusCode = grpc.StatusCode.UNAVAILABLE) -> None:
        self.code = code


async def eventually(condition: Callable[[], object], seconds: float = 5.0) -> None:
    """Return as soon as the condition holds; fail after that many seconds."""
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    while not condition():
        assert loop.time() < end, f"not within {seconds:g} s"
        await asyncio.sleep(0.005)
