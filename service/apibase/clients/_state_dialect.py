"""What a state store does in its own way, where daprd does not even it out. Each line of it is held by the contract suite."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import grpc

from apibase.errors import NotSupported

if TYPE_CHECKING:
    from apibase.clients.components import Component
    from apibase.errors import SidecarError

_REDIS = "state.redis"
# Where a query compares what JSON's `->>` gives.
_COMPARE_AS_TEXT = frozenset({"state.postgresql", "state.postgres", "state.cockroachdb"})
# What no item of Redis ever has. Its script writes whatever etag is given where the key is new, and compares it where it is not.
_NO_ITEM = "1000000000000"
_NO_ANSWER = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED})
_MISMATCH = re.compile(r"possible etag mismatch|no item was updated")
_REFUSED_BY_REDIS = re.compile(r"failed to (?:set key|delete) (?P<key>.+)$")


def may_have_happened(error: SidecarError) -> bool:
    """Return whether a write that failed so may have been made all the same: nothing that the store says of it has arrived."""
    return error.code in _NO_ANSWER


@dataclass(frozen=True, slots=True)
class Dialect:
    """How one store is spoken to."""

    component: Component

    @property
    def _redis(self) -> bool:
        return self.component.type == _REDIS

    @property
    def etag_of_new(self) -> str | None:
        """The etag that lets a write through only where the key is new; None where Dapr's first-write does.

        On Redis first-write writes over an item that was last saved without it, and refuses every later write without an etag.
        """
        return _NO_ITEM if self._redis else None

    @property
    def first_write_with_etag(self) -> bool:
        """Whether a write with an etag says first-write too. On Redis that would bind every later write, see `etag_of_new`."""
        return not self._redis

    @property
    def json_in_transactions(self) -> bool:
        """Whether a transaction may say that a value is JSON: without Redis' JSON module, its commands fail then."""
        return not self._redis or "QUERY_API" in self.component.capabilities

    @property
    def compares_as_text(self) -> bool:
        """Whether a query compares numbers as text: 10 is less than 9 then."""
        return self.component.type in _COMPARE_AS_TEXT

    def need(self, capability: str, feature: str) -> None:
        """Raise `NotSupported` where the store lacks a capability."""
        if capability not in self.component.capabilities:
            raise NotSupported(self.component.name, feature)

    def is_conflict(self, error: SidecarError) -> bool:
        """Return whether a write of one key failed because somebody else was first.

        Redis' component calls whatever fails with an etag a mismatch, also when Redis is away; the text tells.
        """
        if may_have_happened(error):
            return False
        if self._redis:
            return _REFUSED_BY_REDIS.search(error.message) is not None
        return error.code is grpc.StatusCode.ABORTED or "no item was updated" in error.message

    def transaction_conflict(self, error: SidecarError) -> str | None:
        """Return the key of which a transaction says that somebody else was first; empty where it doesn't say, None for other failures.

        To daprd every failure of a transaction is INTERNAL: only the store's own text tells.
        """
        if error.code is not grpc.StatusCode.INTERNAL:
            return None
        if self._redis:
            found = _REFUSED_BY_REDIS.search(error.message)
            return found["key"].rpartition("||")[2] if found else None
        return "" if _MISMATCH.search(error.message) else None
