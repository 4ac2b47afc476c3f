"""Queries of a state store: filters, order, pages. Which stores have them: `QUERY_API` among a component's capabilities."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar

from apibase.clients._state_wire import read_of_many
from apibase.errors import NotSupported, SidecarError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from dapr.proto import api_v1

    from apibase.clients._state_dialect import Dialect
    from apibase.clients._transport import Sidecar
    from apibase.clients.state_items import StateItem

V = TypeVar("V")

Scalar: TypeAlias = str | int | float | bool
"""What a field is compared with. Give what JSON has: protobuf writes 64-bit numbers and enums as text, and leaves defaults out."""

# Dapr's components for SQL put the path into the statement as it is.
_PATH = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*")


@dataclass(frozen=True, slots=True)
class _Compared:
    field: str
    """The path in the value's JSON: `customer`, `address.city`."""
    value: Scalar


class Equal(_Compared):
    """The field has the value."""

    __slots__ = ()


class NotEqual(_Compared):
    """The field is there and has another value."""

    __slots__ = ()


class Greater(_Compared):
    """The field has a greater number. `NotSupported` on PostgreSQL, which would compare as text."""

    __slots__ = ()


class GreaterOrEqual(_Compared):
    """The field has this number or a greater one; see `Greater`."""

    __slots__ = ()


class Less(_Compared):
    """The field has a smaller number; see `Greater`."""

    __slots__ = ()


class LessOrEqual(_Compared):
    """The field has this number or a smaller one; see `Greater`."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class OneOf:
    """The field has one of the values."""

    field: str
    values: Sequence[Scalar]


@dataclass(frozen=True, slots=True, init=False)
class AllOf:
    """All of the filters hold."""

    filters: tuple[Filter, ...]

    def __init__(self, *filters: Filter) -> None:
        object.__setattr__(self, "filters", filters)


@dataclass(frozen=True, slots=True, init=False)
class AnyOf:
    """At least one of the filters holds."""

    filters: tuple[Filter, ...]

    def __init__(self, *filters: Filter) -> None:
        object.__setattr__(self, "filters", filters)


Filter: TypeAlias = Equal | NotEqual | Greater | GreaterOrEqual | Less | LessOrEqual | OneOf | AllOf | AnyOf


@dataclass(frozen=True, slots=True)
class Sort:
    """An order by a field, as text: on PostgreSQL 10 comes before 9."""

    field: str
    descending: bool = False


@dataclass(frozen=True, slots=True)
class QueryPage(Generic[V]):
    """A page of what was found.

    Pages are counted from the beginning: what is written between two of them can move an item to another page, so that it comes
    twice or not at all.
    """

    items: tuple[StateItem[V], ...]
    errors: Mapping[str, SidecarError]
    """Items that were found and can't be read, or are none of the kind that was asked for."""
    token: str | None
    """What to give for the next page; None where this is the last."""


_WORDS: Mapping[type, str] = {
    Equal: "EQ",
    NotEqual: "NEQ",
    Greater: "GT",
    GreaterOrEqual: "GTE",
    Less: "LT",
    LessOrEqual: "LTE",
}
_BY_ORDER = (Greater, GreaterOrEqual, Less, LessOrEqual)


def query_text(dialect: Dialect, where: Filter | None, sort: Sequence[Sort], limit: int, token: str) -> str:
    """Return what Dapr is asked. Raises `NotSupported` for what the store can't do, `ValueError` for what says nothing."""
    dialect.need("QUERY_API", "queries")
    if limit < 1:
        raise ValueError(f"a page of {limit} items is none")
    asked: dict[str, Any] = {"page": {"limit": limit, **({"token": token} if token else {})}}
    if where is not None:
        asked["filter"] = _filter(where, dialect)
    if sort:
        asked["sort"] = [{"key": _path(each.field), "order": "DESC" if each.descending else "ASC"} for each in sort]
    return json.dumps(asked)


async def query(sidecar: Sidecar, request: api_v1.QueryStateRequest, kind: type[V], limit: int) -> QueryPage[V]:
    """Ask for a page."""
    store = request.store_name
    answer = await sidecar.call(lambda: sidecar.stub.QueryStateAlpha1(request), component=store, safe=True)
    items: list[StateItem[V]] = []
    errors: dict[str, SidecarError] = {}
    for each in answer.results:
        try:
            item = read_of_many(store, each, kind)
        except SidecarError as error:
            errors[each.key] = error
        else:
            if item is not None:
                items.append(item)
    # PostgreSQL gives a token with the last page too.
    more = len(answer.results) == limit and answer.token
    return QueryPage(tuple(items), errors, answer.token if more else None)


def _filter(where: Filter, dialect: Dialect) -> dict[str, Any]:
    match where:
        case AllOf() | AnyOf():
            if not where.filters:
                raise ValueError(f"{type(where).__name__} of no filters says nothing")
            parts = [_filter(each, dialect) for each in where.filters]
            # Dapr refuses one alone.
            return parts[0] if len(parts) == 1 else {"AND" if isinstance(where, AllOf) else "OR": parts}
        case OneOf():
            if not where.values:
                raise ValueError(f"the field {where.field!r} can't be one of no values")
            return {"IN": {_path(where.field): [_value(each, dialect) for each in where.values]}}
        case _:
            if isinstance(where, _BY_ORDER) and dialect.compares_as_text:
                why = "it compares numbers as text, by which 10 is less than 9"
                raise NotSupported(dialect.component.name, "queries for greater or less", why)
            return {_WORDS[type(where)]: {_path(where.field): _value(where.value, dialect)}}


def _path(field: str) -> str:
    if _PATH.fullmatch(field) is None:
        raise ValueError(f"{field!r} is no path of a field: names of letters, digits and _, with dots between")
    return field


def _value(value: Scalar, dialect: Dialect) -> Scalar:
    """Return a value as the store has to get it: where it compares text, daprd's own text of a number would be another one (1e+06)."""
    if not dialect.compares_as_text or isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    return format(Decimal(repr(value)).normalize() if isinstance(value, float) else Decimal(value), "f")
