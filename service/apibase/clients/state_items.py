"""What goes into a state store and comes out of it: items, writes, and what became of many at once."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Generic, Literal, TypeAlias, TypeVar

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from apibase.clients._values import Value
    from apibase.errors import SidecarError

V = TypeVar("V")

Consistency: TypeAlias = Literal["strong", "eventual"]
"""What a store with replicas waits for. Stores without them pass it over."""

FOREVER = timedelta.max
"""A time to live that never ends: it takes one away that the store, or the write before, has set."""


@dataclass(frozen=True, slots=True)
class StateItem(Generic[V]):
    """What a store has under a key: the value, and the etag to give when writing it back.

    `expires` is when it is gone, where the store tells (Redis does not).
    """

    key: str
    value: V = field(repr=False)
    etag: str
    expires: datetime | None = None


@dataclass(frozen=True, slots=True)
class Upsert:
    """A value to save. With `etag` only over the version that it names; with `first_write` only where the key is new."""

    key: str
    value: Value = field(repr=False)
    etag: str | None = None
    first_write: bool = False
    ttl: timedelta | None = None
    consistency: Consistency = "strong"
    metadata: Mapping[str, str] = field(default_factory=dict)

    @property
    def conditional(self) -> bool:
        """Whether it may end in a `Conflict`."""
        return self.first_write or self.etag is not None


@dataclass(frozen=True, slots=True)
class Delete:
    """A key to take away, if it is there; with `etag` only the version that it names."""

    key: str
    etag: str | None = None
    consistency: Consistency = "strong"
    metadata: Mapping[str, str] = field(default_factory=dict)

    @property
    def conditional(self) -> bool:
        """Whether it may end in a `Conflict`."""
        return self.etag is not None


Operation: TypeAlias = Upsert | Delete


@dataclass(frozen=True, slots=True)
class _Many:
    errors: Mapping[str, SidecarError]
    """Why each of the other keys failed."""

    def raise_first(self) -> None:
        """Raise the first error, if there is one."""
        for error in self.errors.values():
            raise error


@dataclass(frozen=True, slots=True)
class BulkItems(_Many, Generic[V]):
    """What many keys have, each for itself."""

    items: Mapping[str, StateItem[V] | None]
    """The keys that could be read, in the order asked for; None where there is nothing."""


@dataclass(frozen=True, slots=True)
class BulkWrites(_Many):
    """What became of many writes, each for itself."""

    done: tuple[str, ...]
    """The keys that were written, in the order given."""
