"""What a process's log says of its end: why, in a few words, and the lines that a person wants to see."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from apibase.local.log_fields import MESSAGE, QUIET_LEVELS, level, parse, pick

if TYPE_CHECKING:
    from collections.abc import Sequence

LINES_SEARCHED = 100
"""How far from its end a log is looked at."""
LINES_SHOWN = 15

_FATAL = {"FATAL", "CRITICAL"}
_COMPONENT = re.compile(r".*error occurred for (?P<name>\S+ \((?P<type>\S+)\)): (?P<why>.+)")
_WRAPPING = re.compile(r"(?:Fatal error from runtime: |\[[A-Z_]+\]: )+")


def reason(tail: Sequence[str]) -> str:
    """The last fatal message, or an error among the last lines, in words; "" where the log is not JSON, or has neither."""
    read = [parse(line) for line in tail]
    fatal = [fields for fields in read if level(fields) in _FATAL]
    errors = [fields for fields in read[-LINES_SHOWN:] if level(fields) == "ERROR"]
    told = fatal or errors
    return _in_words(str(pick(told[-1], MESSAGE))) if told else ""


def worth_showing(tail: Sequence[str]) -> list[str]:
    """The last lines without the JSON ones below a warning."""
    return [line for line in tail if level(parse(line)) not in QUIET_LEVELS][-LINES_SHOWN:]


def _in_words(message: str) -> str:
    """The message's first line, without what daprd wraps its errors in."""
    first = message.strip().partition("\n")[0]
    if match := _COMPONENT.fullmatch(first):
        why = _WRAPPING.sub("", match["why"])
        return why if match["type"] in why else f"{match['name']}: {why}"
    return _WRAPPING.sub("", first)
