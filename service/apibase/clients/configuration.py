"""Live configuration: typed keys over one or several stores, current without a restart; the last good values where a store is away."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
from typing import TYPE_CHECKING, Any, Self, TypeVar

from loguru import logger

from apibase.clients.configuration_file import ConfigurationFile
from apibase.clients.configuration_key import REQUIRED, ConfigurationKey, Item, Required
from apibase.clients.configuration_store import ConfigurationStore, WatchedStore
from apibase.deadline import deadline
from apibase.errors import SidecarUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from pydantic import TypeAdapter

    from apibase.clients._transport import Sidecar
    from apibase.errors import SidecarError

V = TypeVar("V")


class ConfigurationManager:
    """Keys of Dapr configuration stores, of which the first that has a key decides.

    Declare keys by `key` before it is started (`App.configuration` starts and stops it with the app, `async with` does it elsewhere).
    From then on each has its current value: a change in a store arrives by a stream, which is opened again after whatever ends
    it. Besides, stores are read again every `check_every` seconds. While one can't be read, or has an invalid value, the last good one
    holds and `degraded` is True. With `cache_file`, the last good values are kept in a file too, for a start without the store.

    A change is logged with its key, store and version, never with its value.
    """

    def __init__(
        self,
        sidecar: Sidecar,
        stores: Sequence[str | ConfigurationStore],
        *,
        cache_file: str | Path | None = None,
        check_every: float = 5.0,
        first_read: float = 5.0,
    ) -> None:
        if not stores:
            raise ValueError("configuration has at least one store")
        named = [ConfigurationStore(each) if isinstance(each, str) else each for each in stores]
        if len({each.name for each in named}) < len(named):
            raise ValueError("a configuration store is named twice")
        self._stores = [WatchedStore(sidecar, each, check_every, self._settle) for each in named]
        self._file = ConfigurationFile(cache_file) if cache_file is not None else None
        self._first_read = first_read
        self._keys: dict[str, ConfigurationKey[Any]] = {}
        self._asked: dict[str, dict[str, Item]] = {}  # of the keys that were asked for, what a key has as its `good`
        self._told: dict[str, str] = {}  # what was logged last of a key's value
        self._tasks: list[asyncio.Task[None]] = []
        self._reads: set[asyncio.Task[None]] = set()
        self._changes: asyncio.Queue[tuple[ConfigurationKey[Any], Any, Any]] = asyncio.Queue()
        self._unwritten = asyncio.Event()
        self._writing: asyncio.Future[None] | None = None
        self._started = False
        self._starting = asyncio.Lock()
        self.stores = tuple(each.name for each in named)

    def key(self, name: str, kind: type[V] | TypeAdapter[V], default: V | Required = REQUIRED) -> ConfigurationKey[V]:
        """Declare a key: its type, and what holds where no store has it.

        `kind` is `str`, a contract's message (in JSON), or what pydantic reads: a number, a truth value, a duration, an enum as people
        write them; a model, a list, a mapping in JSON. A `TypeAdapter` adds bounds: `TypeAdapter(Annotated[int, Field(gt=0)])`. An empty
        value in a store is none.

        Raises `RuntimeError` once it has started, and `ValueError` for a key that is declared in another way already.
        """
        declared = self._keys.get(name)
        if declared is not None:
            if (declared.kind, declared.default) != (kind, default):
                raise ValueError(f"the configuration key {name!r} is declared already, in another way")
            return declared
        if not name:
            raise ValueError("a configuration key has a name")
        if self._started:
            raise RuntimeError("configuration has started; declare keys before that, or ask by `get`")
        made = self._keys[name] = ConfigurationKey(name, kind, default)
        return made

    async def get(self, name: str, kind: type[V] | TypeAdapter[V], default: V | Required = REQUIRED) -> V:
        """Read a key from the stores now, and return its value: for what is read seldom. A key that is declared has it at hand.

        Where a store can't be read, or not in the time that the call in hand has left, what it said last holds. Raises
        `ConfigurationMissing`, or `ConfigurationInvalid`, where there is neither a value nor a default.
        """
        await self._read([name])
        declared = self._keys.get(name)
        if declared is not None and declared.kind == kind and default in (REQUIRED, declared.default):
            self._decide(declared)
            value: V = declared.value
            return value
        key = ConfigurationKey(name, kind, default)
        key.good = self._asked.setdefault(name, {})
        self._decide(key)
        return key.value

    async def refresh(self) -> None:
        """Read every declared key from the stores now."""
        await self._read(list(self._keys))

    @property
    def degraded(self) -> bool:
        """Whether some value may not be what the stores would say: see `problems`."""
        return bool(self.problems)

    @property
    def problems(self) -> dict[str, SidecarError]:
        """Why it is degraded: by the name of a store that can't be read, and by that of a key whose value is invalid."""
        if not self._started:
            return {}
        stores = {each.name: each.error for each in self._stores if each.error is not None}
        return stores | {key.name: key.problem for key in self._keys.values() if key.problem is not None}

    async def start(self) -> None:
        """Read every key, from the file where a store does not answer within `first_read` seconds, and begin to watch.

        Once it has started, nothing more happens; after `stop`, it starts again.

        Raises `ConfigurationMissing`, or `ConfigurationInvalid`, for a key that has neither a value nor a default.
        """
        async with self._starting:
            if not self._started:
                await self._start()

    async def _start(self) -> None:
        if self._file is not None:
            kept = await asyncio.to_thread(self._file.read)
            for key in self._keys.values():
                key.good = {
                    store: items[key.name]
                    for store, items in kept.items()
                    if store in self.stores and key.name in items
                }
        for key in self._keys.values():
            key.begin()
        await self._read(list(self._keys))
        self._settle_all()
        for key in self._keys.values():
            _ = key.value  # raises where it has none
        self._started = True
        if self._keys:
            names = list(self._keys)
            self._tasks = [asyncio.create_task(store.watch(names)) for store in self._stores]
            self._tasks.append(asyncio.create_task(self._tell_changes()))
        if self._file is not None:
            self._tasks.append(asyncio.create_task(self._keep_file(self._file)))

    async def stop(self) -> None:
        """End the watches; what was known is in the file, if there is one. It can be started again."""
        self._started = False
        tasks, self._tasks = self._tasks, []
        ending = [*tasks, *self._reads]
        for task in ending:
            task.cancel()
        await asyncio.gather(*ending, return_exceptions=True)
        for key in self._keys.values():
            key.end()
        if self._writing is not None:
            await self._writing
        if tasks and self._file is not None and self._unwritten.is_set():
            await asyncio.to_thread(self._file.write, self._good())

    async def __aenter__(self) -> Self:
        try:
            await self.start()
        except BaseException:
            await self.stop()
            raise
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self.stop()

    async def _read(self, names: Sequence[str]) -> None:
        """Read keys from all stores, or wait as long as the caller has; what is known counts then."""
        # A caller's little time says nothing of a store that all share: the read has its own limit, and goes on.
        context = contextvars.copy_context()
        context.run(deadline.set_remaining, None)
        reads = {asyncio.create_task(self._read_one(store, names), context=context) for store in self._stores}
        for read in reads:
            self._reads.add(read)
            read.add_done_callback(self._reads.discard)
        done, _ = await asyncio.wait(reads, timeout=deadline.bound(None))
        for read in done:
            if not read.cancelled():
                read.result()

    async def _read_one(self, store: WatchedStore, names: Sequence[str]) -> None:
        try:
            async with asyncio.timeout(self._first_read):
                await store.read(names, patient=True)
        except TimeoutError:
            store.failed(SidecarUnavailable(f"no answer within {self._first_read:g} s"))

    def _settle(self) -> None:
        """Decide every key again: something is known of a store that was not."""
        if self._started:
            self._settle_all()

    def _settle_all(self) -> None:
        for key in self._keys.values():
            try:
                self._decide(key)
            except Exception as error:  # noqa: BLE001 - of a value's own code; the other keys are decided nevertheless
                logger.error("the configuration key {} can't be decided: {}", key.name, type(error).__name__)

    def _decide(self, key: ConfigurationKey[Any]) -> None:
        good = dict(key.good)
        changed = key.settle([store.candidate(key.name) for store in self._stores])
        if key.good != good:
            self._unwritten.set()
        problem = key.problem.message if key.problem is not None else ""
        if problem and problem != self._told.get(key.name):
            logger.error("{}; {} holds", problem, "the last good value" if key.origin.store else "the default")
        self._told[key.name] = problem
        if changed is not None:
            origin = key.origin
            logger.bind(key=key.name, store=origin.store, version=origin.version).info(
                "configuration key {} has changed, by {}", key.name, origin.store or "its default"
            )
            self._changes.put_nowait((key, *changed))

    async def _tell_changes(self) -> None:
        """Call what is to be called after a change, in order."""
        while True:
            key, new, old = await self._changes.get()
            for callback in key.callbacks:
                await _told(key, callback, new, old)

    async def _keep_file(self, file: ConfigurationFile) -> None:
        while True:
            await self._unwritten.wait()
            self._unwritten.clear()
            # It goes on in its thread when this is cancelled; `stop` waits for it.
            self._writing = asyncio.ensure_future(asyncio.to_thread(file.write, self._good()))
            await asyncio.shield(self._writing)

    def _good(self) -> dict[str, dict[str, Any]]:
        known: dict[str, dict[str, Any]] = {}
        for key in self._keys.values():
            for store, item in key.good.items():
                known.setdefault(store, {})[key.name] = item
        return known


async def _told(key: ConfigurationKey[Any], callback: Callable[[Any, Any], object], new: object, old: object) -> None:
    try:
        answer = callback(new, old)
        if inspect.isawaitable(answer):
            await answer
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise  # it is us who are to end
        logger.error("what is called when {} changes was cancelled", key.name)
    except Exception as error:  # noqa: BLE001 - the others are told nevertheless
        logger.opt(exception=error).error(
            "what is called when {} changes failed with {}", key.name, type(error).__name__
        )
