"""A state store in memory: etags, transactions that roll back, time to live."""

from __future__ import annotations

import asyncio
import itertools
import math
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, TypeVar

import grpc
from google.rpc import error_details_pb2

from apibase.testing.components.component import MockComponent, Refused
from apibase.testing.faults import InjectedStatus
from dapr_components.v1 import common_pb2, state_pb2

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

    from google.protobuf.descriptor import ServiceDescriptor
    from google.protobuf.message import Message

    from apibase.testing.components.component import Call, Unary
    from apibase.testing.faults import Faults

M = TypeVar("M")
_Write = state_pb2.SetRequest | state_pb2.DeleteRequest
_SERVICES = state_pb2.DESCRIPTOR.services_by_name
_FIRST_WRITE = state_pb2.StateOptions.CONCURRENCY_FIRST_WRITE


@dataclass(frozen=True, slots=True)
class _Item:
    value: bytes
    etag: str
    content_type: str = ""
    expires: float = math.inf


class MockStateStore(MockComponent):
    """The component type `state.mock`.

    daprd puts the app id before each key (`orders||key`); where a key is asked for here, either will do.
    """

    kind = "state"
    features: tuple[str, ...] = ("ETAG", "TRANSACTIONAL", "TTL")
    """What daprd is told that the store can do; to be changed before daprd starts."""
    max_operations: int = -1
    """How many operations a transaction may have; -1 for any number."""
    now: Callable[[], float] = staticmethod(time.time)
    """The clock that items expire by, in seconds since 1970."""

    def __init__(self, folder: Path, name: str, faults: Faults, calls: list[Call]) -> None:
        super().__init__(folder, name, faults, calls)
        self._items: dict[str, _Item] = {}
        self._etags = itertools.count(1)

    @property
    def values(self) -> dict[str, bytes]:
        """What is stored, by its whole key."""
        return {key: item.value for key, item in self._live().items()}

    def value(self, key: str) -> bytes | None:
        """Return what is under a key, or None. Raises `KeyError` where several apps have the key."""
        live = self._live()
        found = [key] if key in live else [whole for whole in live if _own(whole) == key]
        if len(found) > 1:
            raise KeyError(f"{key!r} is one of {', '.join(found)}; give the whole key")
        return live[found[0]].value if found else None

    def put(self, key: str, value: bytes) -> None:
        """Write under a whole key past daprd, as somebody else would: the etag changes."""
        self._items[key] = _Item(value, str(next(self._etags)))

    def clear(self) -> None:
        """Lose everything."""
        self._items.clear()

    def keys_of(self, request: Message) -> tuple[str, ...]:
        """Return each key with and without the app id before it."""
        match request:
            case state_pb2.GetRequest() | state_pb2.SetRequest() | state_pb2.DeleteRequest():
                whole = [request.key]
            case state_pb2.BulkGetRequest() | state_pb2.BulkSetRequest() | state_pb2.BulkDeleteRequest():
                whole = [item.key for item in request.items]
            case state_pb2.TransactionalStateRequest():
                whole = [_of(operation).key for operation in request.operations]
            case _:
                whole = []
        return tuple(dict.fromkeys(name for key in whole for name in (key, _own(key))))

    def services(self) -> Mapping[ServiceDescriptor, Mapping[str, Unary]]:
        """Return how the protocol is answered; there is no query."""
        return {
            _SERVICES["StateStore"]: {
                "Init": lambda _: state_pb2.InitResponse(),
                "Features": lambda _: common_pb2.FeaturesResponse(features=self.features),
                "Get": self._get,
                "Set": lambda request: self._write([request], state_pb2.SetResponse()),
                "Delete": lambda request: self._write([request], state_pb2.DeleteResponse()),
                "BulkGet": self._bulk_get,
                "BulkSet": lambda request: self._write(request.items, state_pb2.BulkSetResponse()),
                "BulkDelete": lambda request: self._write(request.items, state_pb2.BulkDeleteResponse()),
            },
            _SERVICES["TransactionalStateStore"]: {
                "Transact": self._transact,
            },
            _SERVICES["TransactionalStoreMultiMaxSize"]: {
                "MultiMaxSize": lambda _: state_pb2.MultiMaxSizeResponse(max_size=self.max_operations),
            },
        }

    def _live(self) -> dict[str, _Item]:
        """Return what has not expired."""
        now = self.now()
        self._items = {key: item for key, item in self._items.items() if item.expires > now}
        return self._items

    def _get(self, request: state_pb2.GetRequest) -> state_pb2.GetResponse:
        item = self._live().get(request.key)
        if item is None:
            return state_pb2.GetResponse()
        return state_pb2.GetResponse(
            data=item.value,
            etag=state_pb2.Etag(value=item.etag),
            content_type=item.content_type,
            metadata=_expiry(item),
        )

    async def _bulk_get(self, request: state_pb2.BulkGetRequest) -> state_pb2.BulkGetResponse:
        return state_pb2.BulkGetResponse(items=await asyncio.gather(*map(self._bulk_item, request.items)))

    async def _bulk_item(self, request: state_pb2.GetRequest) -> state_pb2.BulkStateItem:
        """Return one item of many, to which happens what was asked for of `state.get`."""
        try:
            await self.fault("get", *self.keys_of(request))
        except InjectedStatus as error:
            return state_pb2.BulkStateItem(key=request.key, error=str(error))
        found = self._get(request)
        etag = found.etag if found.HasField("etag") else None
        return state_pb2.BulkStateItem(
            key=request.key, data=found.data, etag=etag, content_type=found.content_type, metadata=found.metadata
        )

    def _transact(self, request: state_pb2.TransactionalStateRequest) -> state_pb2.TransactionalStateResponse:
        try:
            return self._write(map(_of, request.operations), state_pb2.TransactionalStateResponse())
        except Refused as error:
            # daprd reads no detail here, it only passes the text on: as Dapr's own stores have it.
            raise Refused(error.code, f"possible etag mismatch: {error.message}") from error

    def _write(self, requests: Iterable[_Write], response: M) -> M:
        """Write all or, where one of them can't be, nothing; `response` is what is answered then."""
        items = dict(self._live())
        for request in requests:
            _check_version(request, items.get(request.key))
            if isinstance(request, state_pb2.DeleteRequest):
                items.pop(request.key, None)
            else:
                expires = self.now() + _ttl(request)
                items[request.key] = _Item(request.value, str(next(self._etags)), request.content_type, expires)
        self._items = items
        return response


def _own(key: str) -> str:
    """Return a key as the app knows it."""
    return key.rpartition("||")[2]


def _of(operation: state_pb2.TransactionalStateOperation) -> _Write:
    return operation.delete if operation.HasField("delete") else operation.set


def _check_version(request: _Write, item: _Item | None) -> None:
    """Refuse a write over another version than the one that it names, or, as the first one, over any."""
    if request.HasField("etag"):
        if item is not None and item.etag == request.etag.value:
            return
        found = "nothing" if item is None else f"version {item.etag}"
        message = f"{request.key!r} is not at version {request.etag.value}: there is {found}"
    elif isinstance(request, state_pb2.SetRequest) and request.options.concurrency == _FIRST_WRITE and item is not None:
        message = f"{request.key!r} exists, and this was to be its first write"
    else:
        return
    # As daprd reads a mismatch; any other failure of a write is just one.
    violation = error_details_pb2.BadRequest.FieldViolation(field="etag", description=message)
    detail = error_details_pb2.BadRequest(field_violations=[violation])
    raise Refused(grpc.StatusCode.FAILED_PRECONDITION, message, detail)


def _ttl(request: state_pb2.SetRequest) -> float:
    text = request.metadata.get("ttlInSeconds", "")
    try:
        seconds = int(text or -1)
    except ValueError:
        raise Refused(grpc.StatusCode.INVALID_ARGUMENT, f"ttlInSeconds is no whole number: {text!r}") from None
    return seconds if seconds > 0 else math.inf


def _expiry(item: _Item) -> dict[str, str]:
    if math.isinf(item.expires):
        return {}
    return {
        "ttlExpireTime": datetime.fromtimestamp(item.expires, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    }
