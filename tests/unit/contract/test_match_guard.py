"""Rules that daprd can evaluate on any event."""

from __future__ import annotations

import pytest

from apibase.contract.match_guard import guarded

MAP = "has(event.data) && type(event.data) == map"


@pytest.mark.parametrize(
    ("match", "told"),
    [
        ('event.type == "a"', 'event.type == "a"'),
        ("event.data.a > 5", f"({MAP} && has(event.data.a) && (event.data.a > 5))"),
        ("event.data.a.b > 5", f"({MAP} && has(event.data.a) && has(event.data.a.b) && (event.data.a.b > 5))"),
        ('event.data.a.startsWith("x")', f'({MAP} && has(event.data.a) && (event.data.a.startsWith("x")))'),
        ("!has(event.data.a)", f"({MAP} && (!has(event.data.a)))"),
        ('event.type == "event.data.x"', 'event.type == "event.data.x"'),
        (
            'event.type == "a" || event.data.b == 1',
            f'event.type == "a" || ({MAP} && has(event.data.b) && (event.data.b == 1))',
        ),
        ('event.type == "a||b"', 'event.type == "a||b"'),
        (
            '(event.type == "a" || event.data.b == 1) && event.source == "s"',
            f'({MAP} && has(event.data.b) && ((event.type == "a" || event.data.b == 1) && event.source == "s"))',
        ),
        (
            'event.data.b ? event.type == "a" : event.type == "b" || event.source == "s"',
            f'({MAP} && has(event.data.b) && (event.data.b ? event.type == "a" : event.type == "b" || event.source == "s"))',
        ),
    ],
    ids=[
        "no data",
        "a field",
        "a field within",
        "a method",
        "its own question",
        "a string",
        "an alternative",
        "bars in a string",
        "parentheses",
        "a choice",
    ],
)
def test_a_rule_is_guarded_by_the_fields_that_it_names(match: str, told: str) -> None:
    assert guarded(match) == told
