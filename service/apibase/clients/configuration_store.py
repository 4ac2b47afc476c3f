"""One configuration store, watched: what it has under the keys, kept current by a stream, and looked at again now and then."""

from __future__ import annotations

import asyncio
import contextlib
import random
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import grpc
from dapr.proto import api_v1
from loguru import logger

from apibase.clients._transport import sidecar_call
from apibase.clients.configuration_key import Candidate, Item
from apibase.contract.reasons import chassis_reason
from apibase.errors import SidecarError, SidecarUnavailable
from dapr_contract.v1 import errors_pb2

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from dapr.proto import common_v1

    from apibase.clients._transport import Sidecar

_READ_SECONDS = 5.0
_SETTLE_SECONDS = 0.5  # daprd says that it has subscribed a little before the store has
_AWAY_SECONDS = 1.0  # how often a store is looked at that could not be read
_FIRST_PAUSE = 0.1
_LONGEST_PAUSE = 1.0
_INTERNAL = chassis_reason(errors_pb2.ERROR_REASON_INTERNAL)


@dataclass(frozen=True, slots=True)
class ConfigurationStore:
    """A configuration store, by its component's name. `metadata` is for it: PostgreSQL's `pgNotifyChannel`, Azure's `label`."""

    name: str
    metadata: Mapping[str, str] = field(default_factory=dict)


class WatchedStore:
    """What is known of one store. `error` says why it could not be read when it was last looked at; None where it could."""

    def __init__(
        self, sidecar: Sidecar, store: ConfigurationStore, check_every: float, changed: Callable[[], None]
    ) -> None:
        self.name = store.name
        self.error: SidecarError | None = SidecarUnavailable("it has not been read yet")
        self._sidecar = sidecar
        self._metadata = dict(store.metadata)
        self._check_every = check_every
        self._changed = changed
        self._items: dict[str, Item] = {}
        self._updates: dict[str, int] = {}  # how often the stream has brought a key
        self._told = False
        self._told_watch = False
        self._lost = asyncio.Event()  # it could not be read since the stream began
        self._streams = False

    def candidate(self, key: str) -> Candidate:
        """Return what is known of a key here."""
        return Candidate(self.name, self._items.get(key), self.error is None)

    async def read(self, keys: Sequence[str], *, patient: bool = False) -> None:
        """Look at what the store has now under these keys. `patient`: a sidecar that can't be reached is tried again."""
        if not keys:
            return
        request = api_v1.GetConfigurationRequest(store_name=self.name, keys=keys, metadata=self._metadata)
        before = {key: self._updates.get(key, 0) for key in keys}
        try:
            answer = await self._sidecar.call(
                lambda: self._sidecar.stub.GetConfiguration(request, timeout=_READ_SECONDS),
                component=self.name,
                safe=patient,
            )
        except SidecarError as error:
            self.failed(error)
            return
        if self._told:
            logger.info("configuration store {} can be read again", self.name)
        self.error, self._told = None, False
        for key in keys:
            # What the stream brought meanwhile is newer.
            if self._updates.get(key, 0) == before[key]:
                self._take(key, answer.items.get(key))
        self._changed()

    def failed(self, error: SidecarError) -> None:
        """Note that the store can't be read."""
        self.error = error
        self._lost.set()
        if not self._told:
            self._told = True
            logger.warning("configuration store {} can't be read; its last known values hold: {}", self.name, error)
        self._changed()

    async def watch(self, keys: Sequence[str]) -> None:
        """Keep what is known current until cancelled, through restarts of sidecar and store."""
        pause = _FIRST_PAUSE
        while True:
            try:
                ended = await self._ended(keys)
                if ended is None:
                    continue  # the store came back: a new stream, at once
                opened, self._streams = self._streams, False
                await self.read(keys)
                if self.error is None and not isinstance(ended, SidecarUnavailable):
                    self._cannot_watch(ended)
                    await asyncio.sleep(self._check_every)
                    continue
                pause = _FIRST_PAUSE if opened else min(pause * 2, _LONGEST_PAUSE)
            except Exception as error:  # noqa: BLE001 - whatever it is, the watch goes on
                logger.exception("the watch of configuration store {} failed", self.name)
                self.failed(SidecarError(grpc.StatusCode.INTERNAL, _INTERNAL, f"unexpected {type(error).__name__}"))
                pause = _LONGEST_PAUSE
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 - so that not all apps come back at one instant

    def _cannot_watch(self, error: SidecarError) -> None:
        if not self._told_watch:
            self._told_watch = True
            text = "configuration store {} can't be watched, so it is read every {:g} s: {}"
            logger.warning(text, self.name, self._check_every, error)

    async def _ended(self, keys: Sequence[str]) -> SidecarError | None:
        """Return how a stream ended; None where a new one is needed."""
        try:
            await self._one_stream(keys)
        except SidecarError as error:
            return error
        return None

    async def _one_stream(self, keys: Sequence[str]) -> None:
        """Take changes from a stream. Raises how it ended; returns where a new one is needed."""
        request = api_v1.SubscribeConfigurationRequest(store_name=self.name, keys=keys, metadata=self._metadata)
        call = self._sidecar.stub.SubscribeConfiguration(request)
        subscribed = asyncio.Event()
        receiving = asyncio.create_task(self._receive(call, frozenset(keys), subscribed))
        checking = asyncio.create_task(self._check(keys, subscribed))
        try:
            await asyncio.wait({receiving, checking}, return_when=asyncio.FIRST_COMPLETED)
            for task in (receiving, checking):
                if task.cancelled():
                    raise SidecarUnavailable("the connection to the sidecar was closed")
                if task.done():
                    task.result()
        finally:
            call.cancel()
            for task in (receiving, checking):
                task.cancel()
            await asyncio.gather(receiving, checking, return_exceptions=True)

    async def _receive(
        self,
        call: grpc.aio.UnaryStreamCall[Any, Any],
        keys: frozenset[str],
        subscribed: asyncio.Event,
    ) -> None:
        while True:
            message: Any = await sidecar_call(call.read(), component=self.name)
            if message is grpc.aio.EOF:
                raise SidecarUnavailable("the sidecar ended the stream")
            self._streams = True
            subscribed.set()  # the first has the subscription's id alone
            items = {key: item for key, item in message.items.items() if key in keys}
            for key, item in items.items():
                self._updates[key] = self._updates.get(key, 0) + 1
                self._take(key, item)
            if items:
                self._changed()

    async def _check(self, keys: Sequence[str], subscribed: asyncio.Event) -> None:
        """Look at the store when the stream has begun or is late, and again: it says neither what it missed nor that the store is away.

        Returns when a store that was away can be read again: Redis forgets on a restart that it is to tell of changes, and is told
        by a new subscription.
        """
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(subscribed.wait(), self._check_every)
        self._lost.clear()
        pause = _SETTLE_SECONDS
        while True:
            await self.read(keys)
            if self.error is not None:
                await asyncio.sleep(min(_AWAY_SECONDS, self._check_every))
            elif self._lost.is_set():
                return
            else:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._lost.wait(), pause)
                pause = self._check_every

    def _take(self, key: str, item: common_v1.ConfigurationItem | None) -> None:
        """Note what a store has under a key. An empty value is none: the stores can't tell the two apart."""
        if item is None or not item.value:
            self._items.pop(key, None)
            return
        known = self._items.get(key)
        if known is None or (known.text, known.version) != (item.value, item.version):
            self._items[key] = Item(item.value, item.version, datetime.now(UTC))
