"""The values of routing rules, and what can be done with them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

Value = Any

_ORDERS: dict[str, Callable[[Any, Any], bool]] = {
    "<": lambda left, right: left < right,
    "<=": lambda left, right: left <= right,
    ">": lambda left, right: left > right,
    ">=": lambda left, right: left >= right,
}


class RuleError(Exception):
    """A rule can't be evaluated on an event, such as one that selects a field which the event lacks."""


@dataclass(frozen=True)
class Type:
    """A type of CEL, which rules compare `type(…)` with."""

    name: str


TYPES = {name: Type(name) for name in ("int", "double", "bool", "string", "bytes", "list", "map", "null_type")}


def apply(operator: str, left: Value, right: Value) -> Value:
    """Return what an operator makes of two values. Raises `RuleError` where it takes no such values."""
    if operator in {"==", "!="}:
        return _equal(left, right) is (operator == "==")
    if operator == "in":
        if not isinstance(right, (list, dict)):
            raise RuleError("no such overload")
        return any(_equal(left, each) for each in right)
    same = isinstance(left, str) and isinstance(right, str)
    if operator in _ORDERS and (same or (_is_number(left) and _is_number(right))):
        return _ORDERS[operator](left, right)
    if operator == "+" and (same or (isinstance(left, list) and isinstance(right, list))):
        return left + right
    if _is_number(left) and type(left) is type(right):
        return _arithmetic(operator, left, right)
    raise RuleError("no such overload")


def _arithmetic(operator: str, left: float, right: float) -> float:
    if operator in {"/", "%"} and right == 0:
        raise RuleError("division by zero")
    match operator:
        case "+":
            return left + right
        case "-":
            return left - right
        case "*":
            return left * right
        case "/":
            return left / right if isinstance(left, float) else int(left / right)
        case _ if isinstance(left, int):
            return left - int(left / right) * right
        case _:
            raise RuleError("no such overload")


def _equal(left: Value, right: Value) -> bool:
    if _is_number(left) and _is_number(right):
        return bool(left == right)
    return type(left) is type(right) and bool(left == right)


def _is_number(value: Value) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def number(value: Value) -> float:
    """Return a value that is to be a number. Raises `RuleError`."""
    if not _is_number(value):
        raise RuleError("no such overload")
    number: float = value
    return number


def boolean(value: Value) -> bool:
    """Return a value that is to be true or false. Raises `RuleError`."""
    if not isinstance(value, bool):
        raise RuleError("no such overload")
    return value


def _type_of(value: Value) -> Type:
    kinds = {
        bool: "bool",
        int: "int",
        float: "double",
        str: "string",
        list: "list",
        dict: "map",
        bytes: "bytes",
        type(None): "null_type",
    }
    return TYPES[kinds[type(value)]]


def _text_method(method: Callable[[str, str], bool]) -> Callable[..., bool]:
    def call(*values: Value) -> bool:
        if [type(value) for value in values] != [str, str]:
            raise RuleError("no such overload")
        return method(*values)

    return call


def _converted(kind: Callable[[Any], Value]) -> Callable[[Value], Value]:
    def convert(value: Value) -> Value:
        try:
            return kind(value)
        except (TypeError, ValueError) as error:
            raise RuleError(f"type conversion error: {value!r}") from error

    return convert


def _size(value: Value) -> int:
    if not isinstance(value, (str, list, dict, bytes)):
        raise RuleError("no such overload")
    return len(value)


def _text_of(value: Value) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return f"{value:g}" if isinstance(value, float) else str(value)


METHODS: dict[str, Callable[..., Value]] = {
    "startsWith": _text_method(str.startswith),
    "endsWith": _text_method(str.endswith),
    "contains": _text_method(str.__contains__),
    "matches": _text_method(lambda text, pattern: re.search(pattern, text) is not None),
    "size": _size,
}
FUNCTIONS: dict[str, Callable[..., Value]] = {
    "size": _size,
    "type": _type_of,
    "string": _text_of,
    "int": _converted(int),
    "double": _converted(float),
    "matches": METHODS["matches"],
}
