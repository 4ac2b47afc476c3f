"""A key of live configuration: its type, its default, its value now and where that comes from."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Generic, Literal, NamedTuple, TypeVar, final

from google.protobuf.message import Message
from pydantic import TypeAdapter, ValidationError

from apibase.clients._values import decode
from apibase.errors import ConfigurationInvalid, ConfigurationMissing

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence
    from datetime import datetime

V = TypeVar("V")


@final
class Required:
    """The default of a key that has none."""

    def __repr__(self) -> str:
        return "REQUIRED"


REQUIRED: Final = Required()
"""There is no default: without a value in any store the start fails."""


@dataclass(frozen=True, slots=True)
class Item:
    """What a store has under a key, and when it was read (UTC)."""

    text: str = field(repr=False)
    version: str
    at: datetime


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a value comes from.

    `source` is `store`, `cache` where it is the last good one that is known of a store which can't be read now, or has an invalid one or
    none any more, or `default`. `store`, its `version` there and `at`, when it was read (UTC), are empty for a default.
    """

    source: Literal["store", "cache", "default"]
    store: str = ""
    version: str = ""
    at: datetime | None = None


class Candidate(NamedTuple):
    """What is known of a key in one store. Where that can't be read, `readable` is False, and `item` what was read before."""

    store: str
    item: Item | None
    readable: bool


class ConfigurationKey(Generic[V]):
    """A key that `ConfigurationManager.key` has declared. `value` is always the current one: read it where it is needed, don't keep it."""

    def __init__(self, name: str, kind: type[V] | TypeAdapter[V], default: V | Required) -> None:
        self.name = name
        self.kind = kind
        self.default = default
        self.good: dict[str, Item] = {}
        """The last valid item of each store."""
        self._value: V | Required = REQUIRED
        self._origin: Origin | None = None
        self._callbacks: list[Callable[[V, V], object]] = []
        self._tick = asyncio.Event()
        self._ended = asyncio.Event()
        self._stores: tuple[str, ...] = ()
        self._unreadable: tuple[str, ...] = ()
        self.problem: ConfigurationInvalid | None = None
        """Why the value that a store has is not the one that holds; None where it does."""

    def __repr__(self) -> str:
        return f"<ConfigurationKey {self.name!r} from {self._origin}>"

    @property
    def value(self) -> V:
        """The value now; before the start, the default. Raises `ConfigurationMissing`, or `ConfigurationInvalid`, where there is none."""
        if not isinstance(self._value, Required):
            return self._value
        if not isinstance(self.default, Required) and self._origin is None:
            return self.default
        if self.problem is not None:
            raise self.problem
        why = f"{', '.join(self._unreadable)} can't be read" if self._unreadable else ""
        raise ConfigurationMissing(self.name, self._stores, why)

    @property
    def origin(self) -> Origin:
        """Where the value comes from."""
        return self._origin or Origin("default")

    @property
    def degraded(self) -> bool:
        """Whether the value may be another than the stores would say: one that decides it can't be read, or has an invalid one."""
        return self.problem is not None or self.origin.source == "cache" or bool(self._unreadable)

    def on_change(self, callback: Callable[[V, V], object]) -> Callable[[V, V], object]:
        """Have `callback(new, old)` called after each change, one after another; it may be `async`. Usable as a decorator."""
        self._callbacks.append(callback)
        return callback

    async def changes(self) -> AsyncIterator[V]:
        """Yield the value after each change, until the app stops. Of several changes that come while one is dealt with, the last counts."""
        ended = self._ended
        while not ended.is_set():
            tick = self._tick
            await tick.wait()
            if not ended.is_set():
                yield self.value

    @property
    def callbacks(self) -> Sequence[Callable[[V, V], object]]:
        """What is called after a change."""
        return self._callbacks

    def settle(self, candidates: Sequence[Candidate]) -> tuple[V, V] | None:
        """Decide the value by what is known of it in each store, in their order. Return the new and the old one where it changed."""
        before = self._value
        self._stores = tuple(each.store for each in candidates)
        self.problem = None
        found = self._choose(candidates)
        if found is not None:
            self._value, self._origin = found
        if isinstance(before, Required) or isinstance(self._value, Required) or before == self._value:
            return None
        tick, self._tick = self._tick, asyncio.Event()
        tick.set()
        return self._value, before

    def begin(self) -> None:
        """Let changes be iterated over again after an `end`."""
        if self._ended.is_set():
            self._ended, self._tick = asyncio.Event(), asyncio.Event()

    def end(self) -> None:
        """End the iterators over changes."""
        self._ended.set()
        self._tick.set()

    def _choose(self, candidates: Sequence[Candidate]) -> tuple[V, Origin] | None:
        unreadable = []
        for store, item, readable in candidates:
            if not readable:
                unreadable.append(store)
            if readable and item is None:
                self.good.pop(store, None)
                continue
            self._unreadable = tuple(unreadable)
            if (found := self._of_store(store, item, readable=readable)) is not None:
                return found
        self._unreadable = tuple(unreadable)
        if not isinstance(self.default, Required):
            return self.default, Origin("default")
        if isinstance(self._value, Required) or self._origin is None or not self._origin.store:
            return None
        # It was there, and is gone: what needs it can't do without.
        last = self._origin
        return self._value, Origin("cache", last.store, last.version, last.at)

    def _of_store(self, store: str, item: Item | None, *, readable: bool) -> tuple[V, Origin] | None:
        """Return what a store says, or said last that was valid."""
        if item is not None:
            try:
                value = parse(item.text, self.kind)
            except ValueError as error:
                self.problem = self.problem or ConfigurationInvalid(self.name, store, str(error))
            else:
                self.good[store] = item
                return value, Origin("store" if readable else "cache", store, item.version, item.at)
        good = self.good.get(store)
        if good is None:
            return None
        try:
            return parse(good.text, self.kind), Origin("cache", store, good.version, good.at)
        except ValueError:  # of a file that another version of the app wrote
            return None


def parse(text: str, kind: type[V] | TypeAdapter[V]) -> V:
    """Return the value that a text is. Raises `ValueError`, which does not quote it, where it is none.

    A contract's message, a model, a list or a mapping is JSON; a number, a truth value, a duration or the like is as people write it.
    """
    if kind is str:
        return text  # type: ignore[return-value]
    if isinstance(kind, type) and issubclass(kind, Message):
        try:
            return decode(text.encode(), kind)
        except ValueError as error:
            raise ValueError(f"{kind.DESCRIPTOR.full_name}: {error}") from None
    try:
        adapter: TypeAdapter[V] = kind if isinstance(kind, TypeAdapter) else TypeAdapter(kind)
        return adapter.validate_json(text) if text[:1] in _JSON else adapter.validate_strings(text)
    except ValidationError as error:
        raise ValueError("; ".join(_problem(each) for each in error.errors(include_input=False))) from None
    except Exception as error:  # noqa: BLE001 - of a validator's own code; its text may quote the value
        raise ValueError(f"reading it failed with {type(error).__name__}") from None


def _problem(error: Any) -> str:  # noqa: ANN401 - pydantic's
    place = ".".join(map(str, error["loc"]))
    return f"{place}: {error['msg']}" if place else str(error["msg"])


_JSON = ("{", "[", '"')
