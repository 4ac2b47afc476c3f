"""State as it goes over the wire: what a write carries, and what an answer is read as."""

from __future__ import annotations

import json
import math
import re
from datetime import datetime
from typing import TYPE_CHECKING, TypeVar

import grpc
from dapr.proto import common_v1

from apibase.clients._values import JSON, decode, encode, name_of
from apibase.clients.state_items import FOREVER, Delete, StateItem, Upsert
from apibase.contract.reasons import chassis_reason
from apibase.errors import SidecarError
from dapr_contract.v1 import errors_pb2

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import timedelta

    from dapr.proto.runtime.v1.state_pb2 import BulkStateItem, GetStateResponse, QueryStateItem

    from apibase.clients._state_dialect import Dialect
    from apibase.clients.state_items import Operation

V = TypeVar("V")

CONSISTENCY: Mapping[str, common_v1.StateOptions.StateConsistency.ValueType] = {
    "strong": common_v1.StateOptions.CONSISTENCY_STRONG,
    "eventual": common_v1.StateOptions.CONSISTENCY_EVENTUAL,
}
_LONGEST_TTL_SECONDS = 2**31 - 1
_EXACT = 2**53
_MANY_DIGITS = re.compile(rb"\d{16}")
_EXPIRES = "ttlExpireTime"
_NOTHING: Mapping[str, str] = {}  # what a query's items have of metadata


def check_key(key: str) -> None:
    """Refuse keys that Dapr refuses or reads in another way (`||` separates the app id from the key)."""
    if not key or "||" in key:
        raise ValueError(f"state key {key!r} must be non-empty and without '||'")


def check(operation: Operation, dialect: Dialect | None) -> None:
    """Refuse what the store could not keep to. A dialect is given where the operation is conditional or has a time to live."""
    check_key(operation.key)
    if dialect is None:
        return
    if operation.conditional:
        dialect.need("ETAG", "etags")
    if operation.etag == "":
        raise ValueError(
            f"the etag for {operation.key!r} is empty, which is none to Dapr; give one that get() returned"
        )
    if isinstance(operation, Upsert) and operation.ttl is not None:
        dialect.need("TTL", "a time to live")


def needs_dialect(operation: Operation) -> bool:
    """Return whether the store has to be known before this can be sent."""
    return operation.conditional or (isinstance(operation, Upsert) and operation.ttl is not None)


def wire(operation: Operation, dialect: Dialect | None, *, in_transaction: bool = False) -> common_v1.StateItem:
    """Return what is sent of an operation.

    Raises `ValueError` and `TypeError` for what can't be sent, `NotSupported` for what the store can't do.
    """
    check(operation, dialect)
    options = common_v1.StateOptions(consistency=CONSISTENCY[operation.consistency])
    item = common_v1.StateItem(key=operation.key, options=options, metadata=dict(operation.metadata))
    etag = operation.etag
    if isinstance(operation, Upsert):
        item.value, kind = encode(operation.value)
        says_json = not in_transaction or dialect is None or dialect.json_in_transactions
        if kind == JSON and says_json and _is_exact(item.value):
            item.metadata.setdefault("contentType", JSON)
        if operation.ttl is not None:
            item.metadata["ttlInSeconds"] = _seconds(operation.ttl)
        if operation.first_write and etag is None and dialect is not None:
            etag = dialect.etag_of_new
    if not operation.conditional:
        if isinstance(operation, Upsert):
            options.concurrency = common_v1.StateOptions.CONCURRENCY_LAST_WRITE
    elif isinstance(operation, Delete) or dialect is None or dialect.first_write_with_etag:
        options.concurrency = common_v1.StateOptions.CONCURRENCY_FIRST_WRITE
    item.options.CopyFrom(options)
    if etag is not None:
        item.etag.value = etag
    return item


def read_of_many(store: str, answer: BulkStateItem | QueryStateItem, kind: type[V]) -> StateItem[V] | None:
    """Return what an answer of several items has of one. Raises `SidecarError` for an error of this one."""
    if answer.error:
        reason = chassis_reason(errors_pb2.ERROR_REASON_SIDECAR_ERROR)
        raise SidecarError(grpc.StatusCode.INTERNAL, reason, answer.error, component=store)
    return read(store, answer.key, answer, kind)


def read(
    store: str, key: str, answer: GetStateResponse | BulkStateItem | QueryStateItem, kind: type[V]
) -> StateItem[V] | None:
    """Return the item that an answer has, or None. Raises `SidecarError` where its value is none of `kind`."""
    data, etag = answer.data, answer.etag
    if not data and not etag:
        return None
    try:
        value = decode(data, kind)
    except ValueError as error:
        text = f"the state under {key!r} is no {name_of(kind)}: {error}"
        reason = chassis_reason(errors_pb2.ERROR_REASON_STATE_UNREADABLE)
        raise SidecarError(grpc.StatusCode.DATA_LOSS, reason, text, component=store) from error
    expires = getattr(answer, "metadata", _NOTHING).get(_EXPIRES)
    if expires:
        return StateItem(key, value, etag, datetime.fromisoformat(expires))
    return StateItem(key, value, etag)


def same_value(mine: bytes, stored: bytes) -> bool:
    """Return whether a store has what was sent; it may have written JSON anew."""
    if mine == stored:
        return True
    try:
        return bool(json.loads(mine) == json.loads(stored))
    except ValueError:
        return False


def _seconds(ttl: timedelta) -> str:
    if ttl == FOREVER:
        return "-1"
    seconds = max(math.ceil(ttl.total_seconds()), 1)
    if seconds > _LONGEST_TTL_SECONDS:
        raise ValueError(f"a time to live of {seconds} s is more than stores take; give FOREVER")
    return str(seconds)


def _is_exact(data: bytes) -> bool:
    """Return whether daprd can read JSON and write it again without loss: to it all numbers are 64-bit floats."""
    if _MANY_DIGITS.search(data) is None:
        return True
    whole: list[str] = []

    def keep(digits: str) -> int:
        whole.append(digits)
        return 0

    json.loads(data, parse_int=keep)
    return all(abs(int(digits)) <= _EXACT for digits in whole)
