"""JSON as the stores of Dapr hand it back: other spaces, another order, and escapes that were not in what was saved."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

_ESCAPES = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}


def go_json(value: object) -> bytes:
    """Return JSON as Go writes it: keys in order, no spaces, what HTML would read escaped."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    for character, escape in _ESCAPES.items():
        text = text.replace(character, escape)
    return text.encode()


def plain_json(value: object) -> bytes:
    """Return JSON without spaces, in the order in which it came."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


def jsonb(value: object) -> bytes:
    """Return JSON as PostgreSQL's JSONB has it: shorter keys first, and spaces."""
    return json.dumps(_by_length(value), ensure_ascii=False).encode()


def _by_length(value: object) -> object:
    if isinstance(value, dict):
        keys: Iterable[str] = sorted(value, key=lambda key: (len(key.encode()), key))
        return {key: _by_length(value[key]) for key in keys}
    if isinstance(value, list):
        return [_by_length(each) for each in value]
    return value
