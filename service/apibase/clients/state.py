"""State: contract messages under keys, with etags."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

import grpc
from dapr.clients.grpc._state import Concurrency, Consistency, StateOptions
from google.protobuf import json_format
from google.protobuf.message import Message

from apibase.clients._transport import sidecar_call
from apibase.contract.reasons import chassis_reason
from apibase.errors import Conflict, SidecarError, SidecarUnavailable
from apibase.message_json import from_json
from dapr_contract.v1 import errors_pb2

if TYPE_CHECKING:
    from datetime import timedelta

    from apibase.clients._transport import Sidecar

M = TypeVar("M", bound=Message)


@dataclass(frozen=True, slots=True)
class StateItem(Generic[M]):
    """What a store has under a key: the value, and the etag to give when writing it back."""

    key: str
    value: M
    etag: str


class StateManager:
    """A Dapr state store. Values are protobuf messages, kept as JSON, so that people and queries can read them."""

    def __init__(self, sidecar: Sidecar, store_name: str) -> None:
        self._sidecar = sidecar
        self.store_name = store_name

    async def get(self, key: str, message: type[M]) -> StateItem[M] | None:
        """Return the item under `key`, or None. Raises `SidecarError` also when the value is no such message."""
        _check_key(key)
        response = await sidecar_call(self._sidecar.client.get_state(self.store_name, key), component=self.store_name)
        if not response.data:
            return None
        try:
            value = from_json(response.data, message)
        except ValueError as error:
            text = f"the state under {key!r} is no {message.DESCRIPTOR.full_name}: {error}"
            reason = chassis_reason(errors_pb2.ERROR_REASON_STATE_UNREADABLE)
            raise SidecarError(grpc.StatusCode.DATA_LOSS, reason, text, component=self.store_name) from error
        return StateItem(key, value, response.etag)

    async def save(
        self,
        key: str,
        value: Message,
        *,
        etag: str | None = None,
        first_write: bool = False,
        ttl: timedelta | None = None,
    ) -> None:
        """Save `value` under `key`.

        With `etag`, only over the version that it names. With `first_write` and no etag, only where the key is new.
        Otherwise the last writer wins. `ttl` is rounded up to whole seconds. Raises `Conflict` where somebody else was
        first; after `SidecarUnavailable` or a deadline the write may or may not have happened: read to know.
        """
        _check_key(key)
        metadata = {"ttlInSeconds": str(max(math.ceil(ttl.total_seconds()), 1))} if ttl is not None else {}
        concurrency = Concurrency.first_write if first_write or etag is not None else Concurrency.last_write
        call = self._sidecar.client.save_state(
            self.store_name,
            key,
            json_format.MessageToJson(value, indent=None),
            etag=etag,
            options=StateOptions(consistency=Consistency.strong, concurrency=concurrency),
            state_metadata={"contentType": "application/json", **metadata},
        )
        try:
            await sidecar_call(call, component=self.store_name)
        except SidecarUnavailable:
            raise
        except SidecarError as error:
            if error.code is grpc.StatusCode.ABORTED:
                raise Conflict(key, component=self.store_name) from error
            # PostgreSQL refuses a first write over an existing row with a plain error: settle it by looking.
            if (
                first_write
                and etag is None
                and error.code is not grpc.StatusCode.DEADLINE_EXCEEDED
                and await self._exists(key)
            ):
                raise Conflict(key, component=self.store_name) from error
            raise

    async def delete(self, key: str, *, etag: str | None = None) -> None:
        """Delete what is under `key`, if anything; with `etag`, only the version that it names, or `Conflict`."""
        _check_key(key)
        options = None
        if etag is not None:
            options = StateOptions(consistency=Consistency.strong, concurrency=Concurrency.first_write)
        call = self._sidecar.client.delete_state(self.store_name, key, etag=etag, options=options)
        try:
            await sidecar_call(call, component=self.store_name)
        except SidecarError as error:
            if error.code is grpc.StatusCode.ABORTED:
                raise Conflict(key, component=self.store_name) from error
            raise

    async def _exists(self, key: str) -> bool:
        response = await sidecar_call(self._sidecar.client.get_state(self.store_name, key), component=self.store_name)
        return bool(response.data)


def _check_key(key: str) -> None:
    """Refuse keys that Dapr refuses or reads in another way (`||` separates the app id from the key)."""
    if not key or "||" in key:
        message = f"state key {key!r} must be non-empty and without '||'"
        raise ValueError(message)
