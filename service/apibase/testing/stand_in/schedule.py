"""When something repeats: cron expressions, `@every 5m`, `@daily`."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from apibase.testing.stand_in.durations import seconds_of

_NAMED = {
    "@yearly": "0 0 0 1 1 *",
    "@annually": "0 0 0 1 1 *",
    "@monthly": "0 0 0 1 * *",
    "@weekly": "0 0 0 * * 0",
    "@daily": "0 0 0 * * *",
    "@midnight": "0 0 0 * * *",
    "@hourly": "0 0 * * * *",
}
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_RANGES = ((0, 59), (0, 59), (0, 23), (1, 31), (1, 12), (0, 6))
_FIELDS = 6
_YEARS = 5


@dataclass(frozen=True)
class Schedule:
    """Moments: every so many seconds, or those that cron's six fields name, in UTC."""

    every: float = 0.0
    fields: tuple[frozenset[int], ...] = ()
    any_day: tuple[bool, bool] = (True, True)
    """Whether day of month and day of week are `*`; where neither is, one of the two suffices."""

    @classmethod
    def parse(cls, text: str, *, seconds_optional: bool = False) -> Schedule:
        """Return the schedule. Raises `ValueError` in the words of Dapr's scheduler."""
        text = text.strip()
        if text.startswith("@every "):
            every = seconds_of(text.removeprefix("@every "))
            return cls(every=max(float(int(every)), 1.0) if seconds_optional else every)
        if text.startswith("@") and text not in _NAMED:
            raise ValueError(f"unrecognized descriptor: {text}")
        parts = _NAMED.get(text, text).split()
        if len(parts) == _FIELDS - 1 and seconds_optional:
            parts.insert(0, "0")
        if len(parts) != _FIELDS:
            raise ValueError(f"expected exactly 6 fields, found {len(parts)}: [{' '.join(parts)}]")
        fields = tuple(_field(part, *limits) for part, limits in zip(parts, _RANGES, strict=True))
        return cls(fields=fields, any_day=(parts[3][0] in "*?", parts[5][0] in "*?"))

    def after(self, moment: float) -> float | None:
        """Return the first time after a moment, both in seconds since 1970; None where there is none within five years."""
        if self.every:
            return moment + self.every
        found = datetime.fromtimestamp(int(moment) + 1, UTC)
        seconds, minutes, hours, days, months, weekdays = self.fields
        end = found + timedelta(days=366 * _YEARS)
        while found < end:
            if found.month not in months:
                found = (found.replace(day=1, hour=0, minute=0, second=0) + timedelta(days=32)).replace(day=1)
            elif not self._is_day(found, days, weekdays):
                found = found.replace(hour=0, minute=0, second=0) + timedelta(days=1)
            elif found.hour not in hours:
                found = found.replace(minute=0, second=0) + timedelta(hours=1)
            elif found.minute not in minutes:
                found = found.replace(second=0) + timedelta(minutes=1)
            elif found.second not in seconds:
                found += timedelta(seconds=1)
            else:
                return found.timestamp()
        return None

    def _is_day(self, moment: datetime, days: frozenset[int], weekdays: frozenset[int]) -> bool:
        by_month, by_week = moment.day in days, moment.isoweekday() % 7 in weekdays
        return (by_month and by_week) if any(self.any_day) else (by_month or by_week)


def _field(text: str, low: int, high: int) -> frozenset[int]:
    found: set[int] = set()
    for part in text.split(","):
        span, _, step = part.partition("/")
        if span in {"*", "?"}:
            first, last = low, high
        else:
            begin, is_range, finish = span.partition("-")
            first = _number(begin)
            last = _number(finish) if is_range else (high if step else first)
        if not low <= first <= last <= high or (step and int(step) < 1):
            raise ValueError(f"{text!r} is not within {low} to {high}")
        found.update(range(first, last + 1, int(step or 1)))
    return frozenset(found)


def _number(text: str) -> int:
    for names, first in ((_MONTHS, 1), (_DAYS, 0)):
        if text.lower() in names:
            return names.index(text.lower()) + first
    return int(text)
