"""Queries of state: filters on JSON, sorting and pages, as PostgreSQL v1 answers them."""

from __future__ import annotations

import json
from functools import cmp_to_key
from typing import TYPE_CHECKING, Any

from apibase.testing.stand_in.go_errors import json_problem
from apibase.testing.stand_in.state_rows import StoreError

if TYPE_CHECKING:
    from collections.abc import Callable

    from apibase.testing.stand_in.state_rows import Row

_COMPARED: dict[str, Callable[[Any, Any], bool]] = {
    "GT": lambda left, right: left > right,
    "GTE": lambda left, right: left >= right,
    "LT": lambda left, right: left < right,
    "LTE": lambda left, right: left <= right,
}


def query_rows(rows: dict[str, Row], text: str) -> tuple[list[tuple[str, Row]], str]:
    """Return the rows that a query finds, in its order, and the token of the next page. Raises `StoreError`."""
    try:
        query = json.loads(text)
    except ValueError:
        raise StoreError(f"failed to parse JSON query body: {json_problem(text)}") from None
    found = [(key, row) for key, row in rows.items() if _matches(query.get("filter") or {}, _value(row))]
    for order in reversed(query.get("sort") or []):
        path, down = order["key"], str(order.get("order", "")).upper() == "DESC"
        found.sort(key=cmp_to_key(lambda a, b, path=path: _compare(a[1], b[1], path)), reverse=down)  # type: ignore[misc]
    page = query.get("page") or {}
    token, limit = str(page.get("token") or ""), int(page.get("limit") or 0)
    if token and not token.isdecimal():
        raise StoreError(f'strconv.ParseInt: parsing "{token}": invalid syntax')
    first = int(token or 0)
    found = found[first : first + limit] if limit else found[first:]
    return found, str(first + len(found)) if limit else ""


def _value(row: Row) -> object:
    return json.loads(row.data) if row.is_json else None


def _matches(condition: dict[str, Any], value: object) -> bool:
    for operator, operand in condition.items():
        if operator in {"AND", "OR"}:
            each = [_matches(part, value) for part in operand]
            if not (all(each) if operator == "AND" else any(each)):
                return False
        elif operator in {"EQ", "NEQ", "IN", *_COMPARED}:
            path, wanted = next(iter(operand.items()))
            if not _holds(operator, path, wanted, value):
                return False
        else:
            raise StoreError(f'failed to parse JSON query body: unsupported filter "{operator}"')
    return True


def _holds(operator: str, path: str, wanted: Any, value: object) -> bool:  # noqa: ANN401 - whatever JSON has
    actual = _text(_at(value, path))
    if operator == "IN":
        if not wanted:
            raise StoreError(f'empty IN operator for key "{path}"')
        return actual in {_text(each) for each in wanted}
    if operator in _COMPARED:
        if isinstance(wanted, str):
            raise StoreError(f"unsupported type of value {wanted}; string type not permitted")
        try:
            return actual is not None and _COMPARED[operator](float(actual), float(wanted))
        except ValueError:
            raise StoreError(f'ERROR: invalid input syntax for type numeric: "{actual}" (SQLSTATE 22P02)') from None
    if actual is None:
        return False
    return (actual == _text(wanted)) is (operator == "EQ")


def _at(value: Any, path: str) -> Any:  # noqa: ANN401 - whatever JSON has
    for name in path.split("."):
        if not isinstance(value, dict) or name not in value:
            return None
        value = value[name]
    return value


def _text(value: object) -> str | None:
    """Return a value as the database compares it: as text; null is no value."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return json.dumps(value)


def _compare(left: Row, right: Row, path: str) -> int:
    """Order rows by the text at a path; those without one come last."""
    one, other = _text(_at(_value(left), path)), _text(_at(_value(right), path))
    if one == other:
        return 0
    if one is None or other is None:
        return 1 if one is None else -1
    return -1 if one < other else 1
