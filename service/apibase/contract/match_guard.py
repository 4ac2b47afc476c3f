"""Rules that daprd can evaluate on any event.

A CEL rule that selects a field which an event lacks is an error, and daprd sends such an event to the dead-letter topic, or
delivers it again for ever where there is none: one poison event, or one that leaves a field out, and the other handlers
of the topic never see it (tried, 1.18.2). So each rule is told to daprd behind a guard, and matches only events that
have every field of `event.data` that it names.
"""

from __future__ import annotations

import re

_DATA_FIELD = re.compile(r"\bevent\.data((?:\.[A-Za-z_]\w*)+)(?!\w*\()")
_STRING = re.compile(r"""\"(?:\\.|[^\"\\])*\"|'(?:\\.|[^'\\])*'""")


def guarded(match: str) -> str:
    """Return a CEL rule that is false, and no error, where the event lacks a field of `event.data` that it names.

    Each alternative of an `||` is guarded for itself; one within parentheses goes with what it stands in.
    """
    return " || ".join(_guarded_alternative(alternative) for alternative in _alternatives(match))


def _guarded_alternative(match: str) -> str:
    code = _STRING.sub('""', match)
    if "event.data" not in code:
        return match
    guards = ["has(event.data)", "type(event.data) == map"]
    # Who asks for a field with `has` takes care of its absence: only the data itself is asked for then.
    for found in () if "has(" in code else _DATA_FIELD.finditer(code):
        path = "event.data"
        for name in found[1].removeprefix(".").split("."):
            path += f".{name}"
            guard = f"has({path})"
            if guard not in guards:
                guards.append(guard)
    return f"({' && '.join(guards)} && ({match.strip()}))"


def _alternatives(match: str) -> list[str]:
    """Split a rule at the `||` that stand in no parentheses, brackets or strings; not where one is part of a `? :`."""
    strings = {at for found in _STRING.finditer(match) for at in range(*found.span())}
    parts, depth, begin = [], 0, 0
    for at, character in enumerate(match):
        if at in strings:
            continue
        depth += (character in "([{") - (character in ")]}")
        if depth == 0 and character == "?":
            return [match.strip()]  # It binds less than `||`.
        if depth == 0 and match.startswith("||", at):
            parts.append(match[begin:at].strip())
            begin = at + 2
    return [*parts, match[begin:].strip()]
