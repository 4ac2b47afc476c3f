"""Routing rules: the part of CEL that rules on events use. What goes beyond it is refused when a subscription begins."""

from __future__ import annotations

import re
from collections.abc import Callable

from apibase.testing.stand_in.cel_values import FUNCTIONS, METHODS, TYPES, RuleError, Value, apply, boolean, number

Node = Callable[["Values"], Value]
Values = dict[str, Value]

_TOKEN = re.compile(
    r"""\s*(?:
      (?P<number>\d+\.\d*(?:[eE][-+]?\d+)?|\.\d+|\d+[eE][-+]?\d+|\d+)u?
    | (?P<string>r?(?:"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'))
    | (?P<name>[A-Za-z_]\w*)
    | (?P<sign>&&|\|\||[=!<>]=|[-+*/%!<>?:.,()\[\]{}])
    )""",
    re.VERBOSE,
)
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "\\": "\\", '"': '"', "'": "'"}
_LEVELS: tuple[frozenset[str], ...] = (
    frozenset({"||"}), frozenset({"&&"}), frozenset({"==", "!=", "<", "<=", ">", ">=", "in"}), frozenset({"+", "-"}),
    frozenset({"*", "/", "%"}),
)  # fmt: skip


class RuleNotSupported(ValueError):
    """A rule is no CEL, or more of CEL than the stand-in has."""


def compile_rule(text: str) -> Callable[[Values], bool]:
    """Return a rule as a function of its variables, which raises `RuleError`. Raises `RuleNotSupported`."""
    parser = _Parser(text)
    node = parser.ternary()
    parser.end()

    def matches(values: Values) -> bool:
        result = node(values)
        if not isinstance(result, bool):
            raise RuleError(f"the result of match expression {text} was not a boolean")
        return result

    return matches


class _Parser:
    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens: list[tuple[str, str]] = []
        position = 0
        while text[position:].strip():
            found = _TOKEN.match(text, position)
            if found is None:
                raise RuleNotSupported(f"{text!r}: {text[position:].strip()[:10]!r} can't be read")
            self._tokens.append((found.lastgroup or "", found[found.lastgroup or 0]))
            position = found.end()
        self._at = 0

    def _peek(self) -> tuple[str, str]:
        return self._tokens[self._at] if self._at < len(self._tokens) else ("", "")

    def _take(self, *wanted: str) -> bool:
        if self._peek()[1] in wanted and self._peek()[0] != "string":
            self._at += 1
            return True
        return False

    def _need(self, sign: str) -> None:
        if not self._take(sign):
            raise RuleNotSupported(f"{self._text!r}: {sign!r} is missing before {self._peek()[1]!r}")

    def end(self) -> None:
        if self._at < len(self._tokens):
            raise RuleNotSupported(f"{self._text!r}: {self._peek()[1]!r} is too much")

    def ternary(self) -> Node:
        condition = self._binary(0)
        if not self._take("?"):
            return condition
        yes = self.ternary()
        self._need(":")
        no = self.ternary()
        return lambda values: yes(values) if boolean(condition(values)) else no(values)

    def _binary(self, level: int) -> Node:
        if level == len(_LEVELS):
            return self._unary()
        left = self._binary(level + 1)
        while self._peek()[1] in _LEVELS[level] and self._peek()[0] != "string":
            operator = self._peek()[1]
            self._at += 1
            left = _operation(operator, left, self._binary(level + 1))
        return left

    def _unary(self) -> Node:
        if self._take("!"):
            inner = self._unary()
            return lambda values: not boolean(inner(values))
        if self._take("-"):
            inner = self._unary()
            return lambda values: -number(inner(values))
        return self._member()

    def _member(self) -> Node:
        node = self._primary()
        while True:
            if self._take("."):
                kind, name = self._peek()
                if kind != "name":
                    raise RuleNotSupported(f"{self._text!r}: {name!r} is no field")
                self._at += 1
                node = self._method(node, name) if self._take("(") else _select(node, name)
            elif self._take("["):
                index = self.ternary()
                self._need("]")
                node = _index(node, index)
            else:
                return node

    def _arguments(self, close: str = ")") -> list[Node]:
        arguments: list[Node] = []
        while not self._take(close):
            if arguments:
                self._need(",")
            arguments.append(self.ternary())
        return arguments

    def _method(self, node: Node, name: str) -> Node:
        if name not in METHODS:
            raise RuleNotSupported(f"{self._text!r}: the stand-in sidecar has no {name}(); try it with a real one")
        method, arguments = METHODS[name], self._arguments()
        return lambda values: method(node(values), *(each(values) for each in arguments))

    def _primary(self) -> Node:
        kind, text = self._peek()
        self._at += 1
        if kind == "number":
            number: float = float(text) if any(sign in text for sign in ".eE") else int(text)
            return lambda _values: number
        if kind == "string":
            string = _unquoted(text)
            return lambda _values: string
        if text == "(":
            inner = self.ternary()
            self._need(")")
            return inner
        if text == "[":
            items = self._arguments("]")
            return lambda values: [item(values) for item in items]
        if kind == "name":
            return self._call(text) if self._take("(") else _name(text)
        raise RuleNotSupported(f"{self._text!r}: something is missing before {text!r}")

    def _call(self, name: str) -> Node:
        if name == "has":
            argument = self.ternary()
            self._need(")")
            return getattr(argument, "present", None) or _no_field(self._text)
        if name not in FUNCTIONS:
            raise RuleNotSupported(f"{self._text!r}: the stand-in sidecar has no {name}(); try it with a real one")
        function, arguments = FUNCTIONS[name], self._arguments()
        return lambda values: function(*(each(values) for each in arguments))


def _no_field(text: str) -> Node:
    raise RuleNotSupported(f"{text!r}: has() takes a field")


def _name(name: str) -> Node:
    constants = {"true": True, "false": False, "null": None}
    if name in constants:
        return lambda _values: constants[name]

    def value(values: Values) -> Value:
        if name in values:
            return values[name]
        if name in TYPES:
            return TYPES[name]
        raise RuleError(f"no such attribute: {name}")

    return value


def _select(node: Node, name: str) -> Node:
    def field(values: Values) -> Value:
        whole = node(values)
        if not isinstance(whole, dict):
            raise RuleError("no such overload")
        if name not in whole:
            raise RuleError(f"no such key: {name}")
        return whole[name]

    def present(values: Values) -> bool:
        whole = node(values)
        if not isinstance(whole, dict):
            raise RuleError("no such overload")
        return name in whole

    field.present = present  # type: ignore[attr-defined]
    return field


def _index(node: Node, index: Node) -> Node:
    def item(values: Values) -> Value:
        try:
            return node(values)[index(values)]
        except (KeyError, IndexError, TypeError) as error:
            raise RuleError(f"no such key: {index(values)}") from error

    return item


def _operation(operator: str, left: Node, right: Node) -> Node:
    if operator in {"&&", "||"}:
        decides = operator == "||"
        return lambda values: _either(values, left, right, decides)
    return lambda values: apply(operator, left(values), right(values))


def _either(values: Values, left: Node, right: Node, decides: bool) -> bool:  # noqa: FBT001 - which of two operators
    """Evaluate `||` or `&&`: a side that fails does not matter where the other one decides."""
    try:
        if boolean(left(values)) is decides:
            return decides
    except RuleError:
        if boolean(right(values)) is decides:
            return decides
        raise
    return boolean(right(values))


def _unquoted(text: str) -> str:
    if text.startswith("r"):
        return text[2:-1]
    return re.sub(r"\\(.)", lambda found: _ESCAPES.get(found[1], found[0]), text[1:-1])
