"""What is kept in a state store, and when a write to it is refused: each of Dapr's stores has its own rules."""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from apibase.testing.stand_in.json_forms import go_json

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from apibase.testing.stand_in.clock import Clock


class EtagProblem(Enum):
    """What is wrong with an etag: somebody else wrote since, or it is none of this store's."""

    MISMATCH = "possible etag mismatch. error from state store"
    INVALID = "invalid etag value"


class StoreError(Exception):
    """A store refuses an operation; `problem` says whether the etag is why."""

    def __init__(self, message: str, problem: EtagProblem | None = None) -> None:
        if problem is not None:
            message = f"{problem.value}: {message}" if message else problem.value
        super().__init__(message)
        self.problem = problem


@dataclass
class Row:
    """What is under a key."""

    data: bytes
    etag: str
    expires: float | None = None
    is_json: bool = False
    """Whether it was saved as JSON, so that a query can look into it."""
    first_write: bool = False
    """Redis only: whether a first write made it, after which it takes no write without an etag."""


@dataclass(frozen=True)
class Write:
    """A value for a key, or, with no `data`, its removal. An `etag` of "" is none."""

    key: str
    data: bytes | None
    metadata: Mapping[str, str]
    etag: str = ""
    first_write: bool = False
    last_write: bool = False
    is_json: bool = False


class Store:
    """A state store that keeps rows as PostgreSQL does."""

    rolls_back = True
    takes_nothing = True
    """Whether a value may be empty."""
    tells_expiry = True
    form: Callable[[object], bytes] = staticmethod(go_json)
    """What JSON looks like when it is read back."""

    def __init__(self, name: str, prefix: str, clock: Clock) -> None:
        self.name = name
        self._prefix = prefix
        self._clock = clock
        self._rows: dict[str, Row] = {}

    def get(self, key: str) -> Row | None:
        """Return what is under a key and has not expired."""
        row = self._rows.get(key)
        if row is not None and row.expires is not None and row.expires <= self._clock.seconds:
            del self._rows[key]
            return None
        return row

    @property
    def rows(self) -> dict[str, Row]:
        """Everything that is kept and has not expired, in the order in which it was written first."""
        return {key: row for key in list(self._rows) if (row := self.get(key)) is not None}

    def write(self, write: Write) -> None:
        """Save or remove. Raises `StoreError` where it is refused."""
        self.check(write)
        if write.data is None:
            self._rows.pop(write.key, None)
            return
        if not write.data and not self.takes_nothing:
            raise StoreError('ERROR: null value in column "value" violates not-null constraint (SQLSTATE 23502)')
        seconds = self.time_to_live(write.metadata.get("ttlInSeconds", ""))
        row = self._row(write, seconds)
        # As in a table, an update is a new version at the end.
        self._rows.pop(write.key, None)
        self._rows[write.key] = row

    def transact(self, writes: list[Write]) -> None:
        """Make several writes, all or none. Raises `StoreError` where one of them is refused."""
        before = dict(self._rows)
        try:
            for write in writes:
                self.write(write)
        except StoreError:
            self._rows = before
            raise

    def clear(self) -> None:
        """Remove everything."""
        self._rows.clear()

    def check(self, write: Write) -> None:
        """Raise `StoreError` where a write is refused."""
        row = self.get(write.key)
        if write.etag:
            try:
                uuid.UUID(write.etag)
            except ValueError:
                length = f"invalid UUID length: {len(write.etag)}"
                raise StoreError(length, EtagProblem.MISMATCH) from None
            if row is None or row.etag != write.etag:
                raise StoreError("", EtagProblem.MISMATCH)
        elif write.first_write and write.data is not None and row is not None:
            raise StoreError("no item was updated")

    def time_to_live(self, text: str) -> float | None:
        """Return the seconds that a row is kept; None for ever. Raises `StoreError` for what is no such number."""
        if not text:
            return None
        wrong = "error parsing TTL: incorrect value for metadata 'ttlInSeconds': "
        try:
            seconds = int(text)
        except ValueError:
            raise StoreError(f'{wrong}strconv.ParseInt: parsing "{text}": invalid syntax') from None
        if seconds < -1:
            raise StoreError(f"{wrong}must be -1 or greater")
        return float(seconds) if seconds > 0 else None

    def _row(self, write: Write, seconds: float | None) -> Row:
        expires = None if seconds is None else self._clock.seconds + seconds
        data = write.data or b""
        if write.is_json:
            data = self.form(json.loads(data))
        return Row(data, self.next_etag(write.key), expires, write.is_json)

    def next_etag(self, key: str) -> str:  # noqa: ARG002 - others count by key
        """Return the etag of the next version of a row."""
        return str(uuid.uuid4())
