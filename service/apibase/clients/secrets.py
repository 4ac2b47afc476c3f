"""Secrets: one, all keys of one, or all of a store, each in a value that does not show itself."""

from __future__ import annotations

import asyncio
import contextvars
import time
from typing import TYPE_CHECKING, TypeAlias, TypeVar

import grpc
from dapr.proto import api_v1

from apibase.clients._secret_errors import is_empty, secret_error
from apibase.clients.secret_value import SecretValue
from apibase.deadline import deadline
from apibase.errors import SecretNotFoundError, SecretStoreUnavailable, SidecarError, SidecarUnavailable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from datetime import timedelta

    from apibase.clients._transport import Sidecar

Secret: TypeAlias = dict[str, SecretValue]
"""The values of one secret by their keys. Where a store has one value to a secret, its key is the secret's name."""

_ENVIRONMENT = "secretstores.local.env"
_Answer = TypeVar("_Answer")
_Question: TypeAlias = tuple[str, frozenset[tuple[str, str]]]
_Asked: TypeAlias = tuple[_Question, asyncio.AbstractEventLoop, int]


class SecretsManager:
    """A Dapr secret store.

    With `cache_for`, what was read is kept so long in memory, and of many who ask for the same secret at once one asks the sidecar. Keep
    the manager then, for the cache is its own.

    Every method raises `SecretStoreUnavailable` (retryable) where the store does not answer the sidecar, `SidecarUnavailable` where
    the sidecar does not, and another `SidecarError` for what waiting does not mend: a store that is not loaded (INVALID_ARGUMENT, or
    FAILED_PRECONDITION where there is none at all), a secret that the app may not see (PERMISSION_DENIED). The sidecar asks the store
    again by its resiliency policies; here only a sidecar that can't be reached is asked again.
    """

    def __init__(self, sidecar: Sidecar, store_name: str, *, cache_for: timedelta | None = None) -> None:
        self._sidecar = sidecar
        self._seconds = cache_for.total_seconds() if cache_for is not None else 0.0
        self._kept: dict[_Question, tuple[float, Secret]] = {}
        self._asked: dict[_Asked, asyncio.Task[Secret]] = {}
        self._forgotten = 0  # how often; what was asked before is nothing for who asks after it
        self.store_name = store_name

    async def get(self, name: str, *, key: str | None = None, metadata: Mapping[str, str] | None = None) -> SecretValue:
        """Return the value of a secret: of its only key, or of the one called as the secret is, or of `key`.

        `metadata` is for the store: `{"version_id": "3"}`. Raises `SecretNotFoundError` where the secret, or its key, is not there,
        and `ValueError` where it has several keys and none is named.
        """
        secret = await self.get_all(name, metadata=metadata)
        if key is not None:
            if key not in secret:
                raise SecretNotFoundError(name, component=self.store_name, key=key)
            return secret[key]
        if name in secret:
            return secret[name]
        if len(secret) > 1:
            raise ValueError(f"the secret {name!r} has several keys ({', '.join(sorted(secret))}); say which by `key`")
        return next(iter(secret.values()))

    async def get_all(self, name: str, *, metadata: Mapping[str, str] | None = None) -> Secret:
        """Return every value of a secret by its key. Raises `SecretNotFoundError` where the secret is not there."""
        if not name:
            raise ValueError("a secret has a name")
        if not self._seconds:
            return await self._read(name, metadata or {})
        question = name, frozenset((metadata or {}).items())
        self._expire()
        kept = self._kept.get(question)
        if kept is not None:
            return dict(kept[1])
        return dict(await self._read_once(question))

    async def bulk(self, *, metadata: Mapping[str, str] | None = None) -> dict[str, Secret]:
        """Return all secrets of the store that the app may see, by name. They are not taken from the cache, nor put there."""
        request = api_v1.GetBulkSecretRequest(store_name=self.store_name, metadata=dict(metadata or {}))
        try:
            answer = await self._call(lambda: self._sidecar.stub.GetBulkSecret(request), "")
        except SecretStoreUnavailable as error:
            if isinstance(error.__cause__, SidecarError) and is_empty(error.__cause__):
                return {}
            raise
        return {name: _values(each.secrets) for name, each in answer.data.items()}

    def forget(self) -> None:
        """Empty the cache: the next to ask gets what the store has then, also while an earlier read is under way."""
        self._forgotten += 1
        self._kept.clear()

    async def _read(self, name: str, metadata: Mapping[str, str]) -> Secret:
        request = api_v1.GetSecretRequest(store_name=self.store_name, key=name, metadata=dict(metadata))
        answer = await self._call(lambda: self._sidecar.stub.GetSecret(request), name)
        found = dict(answer.data)
        # The environment has no answer for what it lacks but an empty one.
        lacking = not found or (
            found == {name: ""} and (await self._sidecar.component(self.store_name)).type == _ENVIRONMENT
        )
        if lacking:
            raise SecretNotFoundError(name, component=self.store_name)
        return _values(found)

    async def _call(self, make: Callable[[], Awaitable[_Answer]], name: str) -> _Answer:
        try:
            return await self._sidecar.call(make, component=self.store_name, safe=True)
        except SidecarUnavailable:
            raise
        except SidecarError as error:
            if error.code is grpc.StatusCode.DEADLINE_EXCEEDED:
                raise SecretStoreUnavailable(self.store_name, "no answer in time") from error
            raise secret_error(error, self.store_name, name) from error

    async def _read_once(self, question: _Question) -> Secret:
        """Read a secret, or wait for who is reading it."""
        asked = question, asyncio.get_running_loop(), self._forgotten
        reading = self._asked.get(asked)
        if reading is None:
            # The time of the first who asks is not that of the others: the call has the setting `call_timeout` instead.
            context = contextvars.copy_context()
            context.run(deadline.set_remaining, None)
            reading = self._asked[asked] = asyncio.create_task(self._keep(question, self._forgotten), context=context)
            reading.add_done_callback(lambda _done: self._asked.pop(asked, None))
        try:
            async with asyncio.timeout(deadline.bound(None)):
                return await asyncio.shield(reading)
        except TimeoutError as error:
            raise SecretStoreUnavailable(self.store_name, "no answer in time") from error

    async def _keep(self, question: _Question, forgotten: int) -> Secret:
        name, metadata = question
        secret = await self._read(name, dict(metadata))
        if forgotten == self._forgotten:
            self._kept[question] = time.monotonic() + self._seconds, secret
        return secret

    def _expire(self) -> None:
        """Drop what has been kept long enough."""
        now = time.monotonic()
        for question, (kept_until, _) in list(self._kept.items()):
            if now >= kept_until:
                self._kept.pop(question, None)


def _values(found: Mapping[str, str]) -> Secret:
    return {key: SecretValue(text) for key, text in found.items()}
