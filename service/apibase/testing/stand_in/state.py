"""Dapr's operations on state."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import grpc
from dapr.proto import api_v1, common_v1
from google.protobuf.empty_pb2 import Empty

from apibase.testing.stand_in.api_errors import ApiError
from apibase.testing.stand_in.go_errors import json_problem
from apibase.testing.stand_in.state_query import query_rows
from apibase.testing.stand_in.state_rows import EtagProblem, StoreError, Write

if TYPE_CHECKING:
    from apibase.testing.stand_in.api import ApiCall, Operations
    from apibase.testing.stand_in.registry import Registry
    from apibase.testing.stand_in.state_rows import Row, Store

_Code = grpc.StatusCode
_Concurrency = common_v1.StateOptions.StateConcurrency
_JSON = "application/json"
_NO_QUERY = {"state.redis": "redis-json server support is required for query capability"}


class StateApi:
    """State: one key, several, transactions, queries."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    @property
    def operations(self) -> Operations:
        """By the names of their rpcs."""
        return {
            "GetState": self._get,
            "GetBulkState": self._get_bulk,
            "SaveState": self._save,
            "DeleteState": self._delete,
            "DeleteBulkState": self._delete_bulk,
            "ExecuteStateTransaction": self._transact,
            "QueryStateAlpha1": self._query,
        }

    async def _get(self, request: Any, _call: ApiCall) -> Any:  # noqa: ANN401 - the API's messages, here and below
        store = self._store(request.store_name)
        _check_key(request.key)
        row = store.get(request.key)
        if row is None:
            return api_v1.GetStateResponse()
        return api_v1.GetStateResponse(data=row.data, etag=row.etag, metadata=_expiry(store, row))

    async def _get_bulk(self, request: Any, _call: ApiCall) -> Any:  # noqa: ANN401
        store = self._store(request.store_name)
        items = []
        # Redis answers as often as it is asked, the others once for a key.
        for key in dict.fromkeys(request.keys) if store.rolls_back else request.keys:
            _check_key(key)
            row = store.get(key)
            items.append(
                api_v1.BulkStateItem(key=key, data=row.data, etag=row.etag, metadata=_expiry(store, row))
                if row
                else api_v1.BulkStateItem(key=key)
            )
        return api_v1.GetBulkStateResponse(items=items)

    async def _save(self, request: Any, _call: ApiCall) -> Any:  # noqa: ANN401
        store = self._store(request.store_name)
        writes = []
        for state in request.states:
            if not state.key:
                raise ApiError(_Code.INVALID_ARGUMENT, "state key cannot be empty", "ERR_STATE_SAVE")
            _check_key(state.key)
            is_json = state.metadata.get("contentType") == _JSON
            if is_json and not _is_json(state.value):
                raise ApiError(_Code.UNKNOWN, json_problem(state.value))
            writes.append(_write(state, state.value, is_json=is_json))
        _store_all(store, writes, f"failed saving state in state store {request.store_name}", "ERR_STATE_SAVE")
        return Empty()

    async def _delete(self, request: Any, _call: ApiCall) -> Any:  # noqa: ANN401
        store = self._store(request.store_name)
        _check_key(request.key)
        what = f"failed deleting state with key {request.key}"
        _store_all(store, [_write(request, None)], what, "ERR_STATE_DELETE")
        return Empty()

    async def _delete_bulk(self, request: Any, _call: ApiCall) -> Any:  # noqa: ANN401
        store = self._store(request.store_name)
        for state in request.states:
            _check_key(state.key)
        what = f"failed deleting state in state store {request.store_name}"
        _store_all(store, [_write(state, None) for state in request.states], what, "ERR_STATE_BULK_DELETE")
        return Empty()

    async def _transact(self, request: Any, _call: ApiCall) -> Any:  # noqa: ANN401
        store = self._store(request.storeName)
        writes = []
        for operation in request.operations:
            _check_key(operation.request.key)
            if operation.operationType not in {"upsert", "delete"}:
                message = f"operation type {operation.operationType} not supported"
                raise ApiError(_Code.UNIMPLEMENTED, message, "ERR_NOT_SUPPORTED_STATE_OPERATION")
            value = operation.request.value if operation.operationType == "upsert" else None
            writes.append(_write(operation.request, value))
        try:
            store.transact(writes)
        except StoreError as error:
            message = f"error while executing state transaction: {error}"
            raise ApiError(_Code.INTERNAL, message, "ERR_STATE_TRANSACTION") from None
        return Empty()

    async def _query(self, request: Any, _call: ApiCall) -> Any:  # noqa: ANN401
        store = self._store(request.store_name)
        component = self._registry.component(request.store_name)
        kind = component.type if component else ""
        if kind not in _NO_QUERY and (component is None or "QUERY_API" not in component.capabilities):
            reason = "DAPR_STATE_QUERYING_NOT_SUPPORTED"
            raise ApiError(_Code.INTERNAL, "state store does not support querying", reason)
        if kind in _NO_QUERY:
            message = f"state store {request.store_name} query failed: {_NO_QUERY[kind]}"
            raise ApiError(_Code.INTERNAL, message, "DAPR_STATE_QUERY_FAILED")
        try:
            found, token = query_rows(store.rows, request.query)
        except StoreError as error:
            message = f"state store {request.store_name} query failed: {error}"
            raise ApiError(_Code.INTERNAL, message, "DAPR_STATE_QUERY_FAILED") from None
        if not found:
            return api_v1.QueryStateResponse()
        results = [api_v1.QueryStateItem(key=key, data=row.data, etag=row.etag) for key, row in found]
        return api_v1.QueryStateResponse(results=results, token=token)

    def _store(self, name: str) -> Store:
        if (store := self._registry.state_store(name)) is not None:
            return store
        if not self._registry.of_block("state"):
            message = f"state store {name} is not configured"
            raise ApiError(_Code.FAILED_PRECONDITION, message, "DAPR_STATE_NOT_CONFIGURED")
        raise ApiError(_Code.INVALID_ARGUMENT, f"state store {name} is not found", "DAPR_STATE_NOT_FOUND")


def _check_key(key: str) -> None:
    if "||" in key:
        message = f"input key/keyPrefix '{key}' can't contain '||'"
        raise ApiError(_Code.INVALID_ARGUMENT, message, "DAPR_STATE_ILLEGAL_KEY")


def _write(item: Any, value: bytes | None, *, is_json: bool = False) -> Write:  # noqa: ANN401 - of two kinds of message
    concurrency = item.options.concurrency
    return Write(
        item.key,
        value,
        dict(item.metadata),
        item.etag.value if item.HasField("etag") else "",
        first_write=concurrency == _Concurrency.CONCURRENCY_FIRST_WRITE,
        last_write=concurrency == _Concurrency.CONCURRENCY_LAST_WRITE,
        is_json=is_json,
    )


def _store_all(store: Store, writes: list[Write], what: str, reason: str) -> None:
    """Make writes, each for itself. Raises `ApiError` where some were refused; the others are made."""
    errors = []
    for write in writes:
        try:
            store.write(write)
        except StoreError as error:
            errors.append(error)
    if not errors:
        return
    problems = {error.problem for error in errors}
    text = "\n".join(map(str, errors))
    code = _Code.INTERNAL
    if None not in problems:
        problem = EtagProblem.INVALID if EtagProblem.INVALID in problems else EtagProblem.MISMATCH
        code = _Code.INVALID_ARGUMENT if problem is EtagProblem.INVALID else _Code.ABORTED
        if len(writes) > 1:
            text = f"{problem.value}: {text}"
    raise ApiError(code, f"{what}: {text}", reason)


def _is_json(data: bytes) -> bool:
    try:
        json.loads(data)
    except ValueError:
        return False
    return True


def _expiry(store: Store, row: Row) -> dict[str, str]:
    if row.expires is None or not store.tells_expiry:
        return {}
    return {"ttlExpireTime": f"{datetime.fromtimestamp(row.expires, UTC):%Y-%m-%dT%H:%M:%SZ}"}
