"""Spans of time as Dapr's files and jobs write them: Go's (`1h30m`), ISO 8601's (`PT5M`), and moments (RFC 3339)."""

from __future__ import annotations

import re
from datetime import datetime

_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_GO = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h)")
_ISO = re.compile(
    r"P(?!$)(?:(\d+)Y)?(?:(\d+)M)?(?:(\d+)W)?(?:(\d+)D)?(?:T(?:(\d+)H)?(?:(\d+)M)?(?:(\d+(?:\.\d+)?)S)?)?"
)
_ISO_SECONDS = (365 * 86400.0, 30 * 86400.0, 7 * 86400.0, 86400.0, 3600.0, 60.0, 1.0)


def seconds_of(text: str) -> float:
    """Return the seconds of a span. Raises `ValueError` for what is none."""
    text = text.strip()
    if iso := _ISO.fullmatch(text):
        return sum(float(value) * unit for value, unit in zip(iso.groups(), _ISO_SECONDS, strict=True) if value)
    total, position = 0.0, 0
    for part in _GO.finditer(text):
        if part.start() != position:
            break
        total += float(part[1]) * _UNITS[part[2]]
        position = part.end()
    if not text or position != len(text):
        raise ValueError(f"{text!r} is no span of time, such as 500ms or 1h30m")
    return total


def moment_of(text: str, now: float) -> float:
    """Return the time, in seconds since 1970, of a moment, or of a span that begins now. Raises `ValueError`."""
    try:
        return now + seconds_of(text)
    except ValueError:
        moment = datetime.fromisoformat(text)
        if moment.tzinfo is None:
            raise ValueError(f"{text!r} names no time zone") from None
        return moment.timestamp()
