"""A state store as a test reads and fills it, past the API."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, TypeVar

from apibase.clients._values import JSON, decode, encode
from apibase.testing.stand_in.state_rows import Write

if TYPE_CHECKING:
    from collections.abc import Iterator

    from apibase.clients._values import Value
    from apibase.testing.stand_in.state_rows import Store

V = TypeVar("V")


class StateView:
    """What a state store has: `view["key"]` is the JSON under a key, or its bytes; `get` returns it as a type."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def __getitem__(self, key: str) -> object:
        row = self._store.get(key)
        if row is None:
            raise KeyError(key)
        try:
            return json.loads(row.data)
        except ValueError:
            return row.data

    def __setitem__(self, key: str, value: Value) -> None:
        """Save a message of a contract, a pydantic model, text, bytes or JSON."""
        self.set(key, value)

    def __delitem__(self, key: str) -> None:
        self._store.write(Write(key, None, {}))

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and self._store.get(key) is not None

    def __iter__(self) -> Iterator[str]:
        return iter(self._store.rows)

    def __len__(self) -> int:
        return len(self._store.rows)

    def get(self, key: str, kind: type[V]) -> V | None:
        """Return what is under a key as a message, a model, text, bytes or JSON; None where nothing is. Raises `ValueError`."""
        row = self._store.get(key)
        return None if row is None else decode(row.data, kind)

    def set(self, key: str, value: Value, *, ttl: int | None = None) -> None:
        """Save a value, for `ttl` seconds if that is given."""
        data, content_type = encode(value)
        metadata = {} if ttl is None else {"ttlInSeconds": str(ttl)}
        self._store.write(Write(key, data, metadata, is_json=content_type == JSON))

    def etag(self, key: str) -> str:
        """Return the etag of what is under a key. Raises `KeyError`."""
        row = self._store.get(key)
        if row is None:
            raise KeyError(key)
        return row.etag

    def clear(self) -> None:
        """Remove everything."""
        self._store.clear()
