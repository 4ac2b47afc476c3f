"""Routing rules: the part of CEL that the stand-in has, what is an error on an event, and what it refuses."""

from __future__ import annotations

import pytest

from apibase.contract.match_guard import guarded
from apibase.testing.stand_in.cel import RuleNotSupported, compile_rule
from apibase.testing.stand_in.cel_values import RuleError

EVENT = {
    "type": "shop.Order",
    "data": {"n": 5.0, "name": "ann", "tags": ["a", "b"], "deep": {"x": 1.0}, "yes": True, "none": None},
}


def holds(rule: str, event: object = EVENT) -> bool:
    return compile_rule(rule)({"event": event})


@pytest.mark.parametrize(
    "rule",
    [
        "event.type == 'shop.Order'",
        'event.type == "shop.Order"',
        "event['type'] == r'shop.Order'",
        "event.data.n == 5",
        "event.data.n > 4 && event.data.n < 5.5",
        "event.data.n >= 5 && event.data.n <= 5",
        "event.data.n != 4",
        "!(event.data.n == 4)",
        "event.data.yes",
        "event.data.none == null",
        "event.data.name in ['bob', 'ann']",
        "'a' in event.data.tags",
        "'n' in event.data",
        "event.data.tags[1] == 'b'",
        "size(event.data.tags) == 2 && event.data.name.size() == 3",
        "event.data.name.startsWith('a') && event.data.name.endsWith('n') && event.data.name.contains('nn')",
        "event.data.name.matches('^a.n$')",
        "has(event.data.deep.x) && !has(event.data.deep.y)",
        "type(event.data) == map && type(event.data.n) == double",
        "event.data.n + 1.0 == 6.0 && -event.data.n == -5.0 && event.data.n * 2.0 - 4.0 == 6.0",
        "7 / 2 == 3 && 7 % 4 == 3 && -7 / 2 == -3",
        "event.data.yes ? event.data.n == 5 : false",
        "int(event.data.n) == 5 && double('2.5') == 2.5 && string(5) == '5'",
        "event.data.name + '!' == 'ann!'",
        "event.data.missing == 1 || event.data.n == 5",
        "!(event.data.missing == 1 && event.data.n == 4)",
        "'1' != 1",
        "event.data.name > 'abc'",
    ],
)
def test_a_rule_that_holds(rule: str) -> None:
    assert holds(rule)


@pytest.mark.parametrize(
    "rule",
    [
        "event.data.missing == 1",
        "event.data.name > 4",
        "event.data.n",
        "event.data.n && true",
        "event.data.name.x == 1",
        "event.data.tags[7] == 'b'",
        "nobody == 1",
        "event.data.n.startsWith('a')",
        "1 / 0 == 1",
        "size(event.data.n) == 1",
        "event.data.n + 1 == 6.0",
        "int('x') == 1",
    ],
)
def test_what_can_not_be_told_of_an_event_is_an_error(rule: str) -> None:
    with pytest.raises(RuleError):
        holds(rule)


@pytest.mark.parametrize(
    ("rule", "why"),
    [
        ("event.data.exists(x, x > 1)", "has no exists"),
        ("timestamp(event.time) > timestamp('2020-01-01T00:00:00Z')", "has no timestamp"),
        ("event.type ==", "missing"),
        ("event.type = 'x'", "can't be read"),
        ("event.type == 'x')", "too much"),
        ("has(event)", "takes a field"),
        ("(event.type", "missing"),
        ("event.'x'", "is no field"),
        ("event.type == 'x", "can't be read"),
    ],
)
def test_what_is_beyond_the_stand_in_is_refused_by_name(rule: str, why: str) -> None:
    with pytest.raises(RuleNotSupported, match=why):
        compile_rule(rule)


@pytest.mark.parametrize("data", [{}, {"n": None}, None, "text", 5.0, ["n"]])
def test_a_guarded_rule_is_false_where_a_field_is_missing(data: object) -> None:
    rule = guarded("event.data.name == 'ann'")
    assert holds(rule)
    assert not holds(rule, {"type": "x", "data": data})
    assert not holds(rule, {"type": "x"})
