"""The stores of Dapr, each with its own rules on etags, first writes and times to live."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import TYPE_CHECKING

from apibase.testing.stand_in.json_forms import jsonb, plain_json
from apibase.testing.stand_in.state_rows import EtagProblem, Row, Store, StoreError, Write

if TYPE_CHECKING:
    from apibase.testing.stand_in.clock import Clock


class PostgresV2(Store):
    """PostgreSQL v2: a value that is empty is none, and refused."""

    takes_nothing = False


class PostgresV1(Store):
    """PostgreSQL v1: etags are numbers of transactions, JSON is JSONB."""

    form = staticmethod(jsonb)

    def __init__(self, name: str, prefix: str, clock: Clock) -> None:
        super().__init__(name, prefix, clock)
        self._numbers = itertools.count(700)

    def check(self, write: Write) -> None:
        """Raise `StoreError` where a write is refused."""
        if not write.etag:
            super().check(write)
            return
        if not write.etag.isdecimal():
            problem = f'strconv.ParseUint: parsing "{write.etag}": invalid syntax'
            raise StoreError(problem, EtagProblem.INVALID)
        row = self.get(write.key)
        if row is None or row.etag != write.etag:
            raise StoreError("", EtagProblem.MISMATCH)

    def next_etag(self, key: str) -> str:  # noqa: ARG002 - one sequence for all
        """Return the etag of the next version of a row."""
        return str(next(self._numbers))


class Sqlite(Store):
    """SQLite: any text may be an etag, and a first write that is late is a mismatch."""

    def check(self, write: Write) -> None:
        """Raise `StoreError` where a write is refused."""
        row = self.get(write.key)
        late = write.first_write and not write.etag and write.data is not None and row is not None
        if late or (write.etag and (row is None or row.etag != write.etag)):
            raise StoreError("", EtagProblem.MISMATCH)


class InMemory(Store):
    """Dapr's own in-memory store."""

    def check(self, write: Write) -> None:
        """Raise `StoreError` where a write is refused."""
        row = self.get(write.key)
        key = f"{self._prefix}{write.key}"
        if write.first_write and not write.etag and row is not None:
            raise StoreError("item already exists and no etag was passed", EtagProblem.MISMATCH)
        if write.etag and row is None:
            raise StoreError(f"state not exist or expired for key={key}", EtagProblem.MISMATCH)
        if write.etag and row is not None and row.etag != write.etag:
            text = f"state etag not match for key={key}: current={row.etag}, expect={write.etag}"
            raise StoreError(text, EtagProblem.MISMATCH)


class Redis(Store):
    """Redis: etags count the versions of a key; a transaction does not roll back; expiry is not told."""

    rolls_back = False
    tells_expiry = False
    form = staticmethod(plain_json)

    def check(self, write: Write) -> None:
        """Raise `StoreError` where a write is refused."""
        row = self.get(write.key)
        if write.data is None:
            if row is not None and write.etag not in {"", "0", row.etag}:
                text = f"ERR Error running script: failed to delete {self._prefix}{write.key}"
                raise StoreError(text, EtagProblem.MISMATCH)
            return
        etag = "" if write.last_write else write.etag
        if etag and not etag.lstrip("+-").isdecimal():
            raise StoreError(f'strconv.Atoi: parsing "{etag}": invalid syntax', EtagProblem.INVALID)
        given = str(int(etag or "0"))
        # The script that saves heeds an etag only where a row is, and takes none at all unless a first write made that.
        if row is None or row.etag == given or (given == "0" and not row.first_write):
            return
        text = f"ERR Error running script: failed to set key {self._prefix}{write.key}"
        if write.etag:
            raise StoreError(text, EtagProblem.MISMATCH)
        raise StoreError(f"failed to set key {self._prefix}{write.key}: {text}")

    def transact(self, writes: list[Write]) -> None:
        """Make several writes; those that are not refused stay."""
        first: StoreError | None = None
        for write in writes:
            self.time_to_live(write.metadata.get("ttlInSeconds", ""))  # the component reads all of them first
        for write in writes:
            try:
                if write.metadata.get("contentType") == "application/json":
                    # The transaction asks for RedisJSON, which a plain Redis lacks.
                    raise StoreError("ERR Error running script: Unknown Redis command called from Lua script")  # noqa: TRY301
                self.write(replace(write, first_write=False))
            except StoreError as error:
                if error.problem is EtagProblem.INVALID:
                    raise
                # What a script says in a transaction comes without the component's own words.
                first = first or StoreError(str(error).partition(f"{EtagProblem.MISMATCH.value}: ")[2] or str(error))
        if first is not None:
            raise first

    def time_to_live(self, text: str) -> float | None:
        """Return the seconds that a row is kept; none, and those below 1, for ever."""
        if not text:
            return None
        try:
            return float(int(text))
        except ValueError:
            wrong = f'failed to parse ttl from metadata: strconv.ParseInt: parsing "{text}": invalid syntax'
            raise StoreError(wrong) from None

    def _row(self, write: Write, seconds: float | None) -> Row:
        before = self.get(write.key)
        expires = before.expires if before is not None and seconds is None else None
        if seconds is not None and seconds > 0:
            expires = self._clock.seconds + seconds
        row = super()._row(write, None)
        row.expires = expires
        row.first_write = write.first_write or (before is not None and before.first_write)
        return row

    def next_etag(self, key: str) -> str:
        """Return the etag of the next version of a row."""
        before = self.get(key)
        return str(int(before.etag) + 1 if before is not None else 1)


_STORES: dict[tuple[str, str], type[Store]] = {
    ("state.postgresql", "v2"): PostgresV2,
    ("state.postgresql", "v1"): PostgresV1,
    ("state.sqlite", "v1"): Sqlite,
    ("state.redis", "v1"): Redis,
    ("state.in-memory", "v1"): InMemory,
}


def store_class(kind: str, version: str) -> type[Store]:
    """Return how a component keeps its rows; one that is not known here, as PostgreSQL does."""
    return _STORES.get((kind, version), Store)
