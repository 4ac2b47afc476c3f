"""A line of the log as JSON: what every line has, what ties it to its call, what went wrong, and what its call site bound.

`log_line.schema.json` beside this file describes it.
"""

from __future__ import annotations

import json
import logging
import math
from bisect import bisect_right
from datetime import UTC, datetime
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import orjson
from google.protobuf import text_format
from google.protobuf.message import Message

from apibase.observability.redaction import redacted

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_NUMBERS = (5, 10, 20, 25, 30, 40, 50)
_NAMES = ("TRACE", "DEBUG", "INFO", "SUCCESS", "WARNING", "ERROR", "CRITICAL")
_DEEPEST = 16


class Line(NamedTuple):
    """What every line has, whoever wrote it."""

    at: float  # seconds since 1970
    level: str
    logger: str
    message: str
    app_id: str
    fields: Mapping[str, object]
    error: dict[str, str] | None = None
    library: bool = False
    """Whether it came by the standard library's logging."""


def level_name(number: int) -> str:
    """Return the name of a level: of one that somebody made up, the name of the level below it."""
    return _NAMES[max(bisect_right(_NUMBERS, number) - 1, 0)]


def json_line(line: Line) -> str:
    """Return a line as one JSON object, whatever was bound to it."""
    seconds, fraction = divmod(round(line.at * 1_000_000), 1_000_000)
    fixed = {
        "time": f"{_second(seconds)}.{fraction:06}Z",
        "level": line.level,
        "logger": line.logger,
        "message": line.message,
        "app_id": line.app_id,
    }
    # What every line has comes first, and wins over what a call site bound by one of these names.
    fields = {**fixed, **line.fields, **fixed}
    if line.error is not None:
        fields["error"] = line.error
    elif "error" in fields:
        fields["error"] = {"message": told(fields["error"])}
    try:
        return orjson.dumps(fields, default=told).decode() + "\n"
    except TypeError:  # a number beyond 64 bits, half of a character, a loop, a key that is no text: slowly, but surely
        return json.dumps(plain(fields)) + "\n"


def error_fields(error: BaseException) -> dict[str, str]:
    """Return an exception as a line has it: its type, its message, and the stack with causes, notes and groups."""
    stack = logging.Formatter().formatException((type(error), error, error.__traceback__))
    return {"type": type(error).__qualname__, "message": told(error), "stack": stack}


def told(value: object) -> str:
    """Return a value as text. A message lacks the fields that its contract marks `debug_redact`."""
    try:
        return (
            text_format.MessageToString(redacted(value), as_one_line=True) if isinstance(value, Message) else str(value)
        )
    except Exception as error:  # noqa: BLE001 - a value that can't be told costs nobody the line
        return f"<{type(value).__qualname__}, of which str() raises {type(error).__qualname__}>"


def plain(value: object, change: Callable[[str], str] = str, depth: int = _DEEPEST) -> object:
    """Return a value as what JSON knows, with `change` made to each text in it."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict) and depth:
        return {change(told(key)): plain(member, change, depth - 1) for key, member in value.items()}
    if isinstance(value, (list, tuple)) and depth:
        return [plain(member, change, depth - 1) for member in value]
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return None
    text = told(value)
    changed = change(text)
    return value if isinstance(value, (int, float)) and changed == text else changed


@lru_cache(maxsize=4)
def _second(seconds: int) -> str:
    """Return a second since 1970 as RFC 3339 has it, in UTC; many lines share one."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")
