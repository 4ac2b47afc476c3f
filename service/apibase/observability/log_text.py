"""A line of the log for a person: time, level, message, what else is known, and the stack below."""

from __future__ import annotations

import json
import os
import re
from datetime import datetime
from typing import TYPE_CHECKING, TextIO

from apibase.observability.log_line import told

if TYPE_CHECKING:
    from collections.abc import Callable

    from apibase.observability.log_line import Line

_RESET, _DIM = "\x1b[0m", "\x1b[2m"
_COLOURS = {
    "TRACE": _DIM,
    "DEBUG": _DIM,
    "SUCCESS": "\x1b[32m",
    "WARNING": "\x1b[33m",
    "ERROR": "\x1b[31m",
    "CRITICAL": "\x1b[1;31m",
}
_QUIET = frozenset({"TRACE", "DEBUG"})
_NOT_SHOWN = frozenset({"logger", "app_id", "trace_id", "span_id", "correlation_id"})
_WORD = re.compile(r"[^\s\"'=]+")
# A terminal takes orders by these, and a line's text may be a caller's.
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def text_formatter(*, colour: bool) -> Callable[[Line], str]:
    """Return what makes a line for a person."""

    def formatted(line: Line) -> str:
        when = datetime.fromtimestamp(line.at).astimezone()
        clock = f"{when:%H:%M:%S}.{when.microsecond // 1000:03}"
        level, fields = f"{line.level:<7}", _fields(line)
        if colour:
            clock, level = f"{_DIM}{clock}{_RESET}", f"{_COLOURS.get(line.level, '')}{level}{_RESET}"
            fields = f"{_DIM}{fields}{_RESET}" if fields else ""
        # Whose it is, where that is not plain from the message; and what a setting of levels is to name.
        name = f"{_shown(line.logger)}: " if line.library or line.level in _QUIET else ""
        stack = f"{_shown(line.error['stack'])}\n" if line.error is not None else ""
        return f"{clock} {level} {name}{message_text(line.message)}{fields}\n{stack}"

    return formatted


def message_text(text: str) -> str:
    """Return a message such that all of it is seen, and none of it is taken for another line or an order to the terminal."""
    return _shown(text).replace("\n", "\n    ")


def takes_colour(stream: TextIO) -> bool:
    """Whether it is a terminal that shows colours, and nobody asks for none (https://no-color.org)."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def _fields(line: Line) -> str:
    words = line.message.split()
    shown = {
        key: value for key, value in line.fields.items() if key not in _NOT_SHOWN and not _says_nothing(value, words)
    }
    trace, correlation = line.fields.get("trace_id"), line.fields.get("correlation_id")
    if correlation and correlation != trace:
        shown["correlation"] = correlation
    if trace:
        shown["trace"] = trace
    return "".join(f"  {_shown(key)}={_value(value)}" for key, value in shown.items())


def _says_nothing(value: object, words: list[str]) -> bool:
    """Whether a field is empty, or a word of the message, as a method's name may be."""
    return value is None or (isinstance(value, (str, list, tuple)) and (not value or value in words))


def _value(value: object) -> str:
    if isinstance(value, (list, tuple)):
        return ",".join(map(_value, value))
    text = told(value)
    return _shown(text if _WORD.fullmatch(text) else json.dumps(text, ensure_ascii=False))


def _shown(text: str) -> str:
    return _CONTROLS.sub(lambda found: f"\\x{ord(found[0]):02x}", text)
