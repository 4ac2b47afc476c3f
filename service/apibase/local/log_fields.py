"""Log lines in JSON, from whatever library: what is their time, their level, their message, their trace."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

TIME = ("time", "timestamp", "ts", "@timestamp")
LEVEL = ("level", "severity", "levelname", "lvl")
MESSAGE = ("message", "msg", "event")
TRACE = ("trace_id", "traceId", "trace", "trace.id")
QUIET_LEVELS = {"TRACE", "DEBUG", "INFO"}


def parse(line: str) -> dict[str, object]:
    """The fields of a JSON line; none if it is not one."""
    if not line.startswith("{"):
        return {}
    try:
        fields = json.loads(line)
    except ValueError:
        return {}
    return fields if isinstance(fields, dict) else {}


def pick(fields: Mapping[str, object], names: tuple[str, ...]) -> object:
    """The first of the fields that has a value; "" for none."""
    return next((fields[name] for name in names if fields.get(name)), "")


def level(fields: Mapping[str, object]) -> str:
    """The level in capitals; "" for none."""
    return str(pick(fields, LEVEL)).upper()
