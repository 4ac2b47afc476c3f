"""Dead letters as a person sees them: a table, a letter whole, a plan; and as JSON."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from google.protobuf import json_format
from rich import box
from rich.table import Table
from rich.text import Text

from apibase.dead_letters.filter import is_replayed

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from google.protobuf.timestamp_pb2 import Timestamp

    from apibase.cli.archives import Found
    from dapr_contract.v1.dead_letters_pb2 import DeadLetter, DeadLetterSummary

_WIDE = 140
_NARROW = 110
_WIDEST = 32
_LAST = 20
_ID = 16
_PLAN_ROWS = 20
_UNITS = ((86400, "d"), (3600, "h"), (60, "m"))
SIDECARS_REASON = "(buried by the sidecar, which gives no reason)"


def letter_table(found: Sequence[Found], width: int, *, with_app: bool) -> Table:
    """What a list shows; the reason takes the room that is left.

    Without type and topic where there is too little room for them, and with code, handler and reason below each other where
    there is not enough for these.
    """
    now = datetime.now(UTC)
    stacked, whole = width < _NARROW, width >= _WIDE
    app, told = (["app"] if with_app else []), ([] if stacked else ["code", "handler"])
    headings = ["id", "age", *app, *told, *(["type", "topic"] if whole else []), "replayed"]
    table = _table(headings, "code, handler, reason" if stacked else "reason")
    for each in found:
        summary = each.entry.summary
        told = [summary.code or "-", summary.handler.rpartition(".")[2] or "-"]
        where = [summary.event_type.rpartition(".")[2] or "-", summary.topic or summary.dead_letter_topic]
        cells = [
            each.entry.id,
            _age(now - summary.archived_at.ToDatetime(UTC)),
            *([each.archive.app_id] if with_app else []),
            *([] if stacked else told),
            *(where if whole else []),
            "-" if not summary.HasField("replayed_at") else "yes" if is_replayed(summary) else "died again",
        ]
        last = [*told, _reason(summary)] if stacked else [_reason(summary)]
        table.add_row(*map(_line, cells), Text("\n").join(map(_line, last)))
    return table


def plan_table(plan: Sequence[tuple[DeadLetter, str]], width: int, *, for_everybody: bool) -> Table:
    """What a replay would send, the first of it; on a narrow terminal with event, type and handlers below each other."""
    stacked = width < _WIDE
    told = ["event", "type", "for"]
    headings = ["id", "to topic", *([] if stacked else told[:-1])]
    table = _table(headings, ", ".join(told) if stacked else told[-1])
    for letter, target in plan[:_PLAN_ROWS]:
        summary = letter.summary
        named = [] if letter.raw_payload or for_everybody else letter.handlers
        cells = [letter.id, target]
        told = [summary.event_id or "-", summary.event_type or "-", ", ".join(named) or "every consumer"]
        head, last = (cells, told) if stacked else ([*cells, *told[:-1]], told[-1:])
        table.add_row(*map(_line, head), Text("\n").join(map(_line, last)))
    if len(plan) > _PLAN_ROWS:
        table.add_row("…", f"and {len(plan) - _PLAN_ROWS} more")
    return table


def letter_lines(letter: DeadLetter, app_id: str) -> Iterator[str]:
    """A letter whole: what is known of it, then its data."""
    summary = letter.summary
    fields = {
        "id": letter.id,
        "app": app_id,
        "code": summary.code or "-",
        "reason": _reason(summary),
        "handler": summary.handler or ", ".join(letter.handlers) or "-",
        "event id": summary.event_id,
        "type": summary.event_type,
        "source": letter.source,
        "pub/sub": summary.pubsub_name,
        "topic": summary.topic or "(not known)",
        "dead letters": summary.dead_letter_topic,
        "archived": _time(summary.archived_at),
        "replayed": replayed(summary),
        "kept until": _time(summary.expires_at),
        "redacted": ", ".join(letter.redacted_fields),
        "raw": "yes: a record without attributes" if letter.raw_payload else "",
        "content type": letter.content_type,
    }
    fields |= {f"extension {key}": str(value) for key, value in json_format.MessageToDict(letter.extensions).items()}
    width = max(map(len, fields))
    yield from (_printable(f"{key:<{width}}  {value}") for key, value in fields.items() if value)
    yield ""
    yield from map(_printable, data_text(letter).splitlines())


def data_text(letter: DeadLetter) -> str:
    """A letter's data to read: JSON, or text, or else in base 64."""
    if letter.data_missing:
        return f"(no data: {letter.data_missing})"
    if not letter.data:
        return "(no data)"
    try:
        text = letter.data.decode()
    except UnicodeDecodeError:
        return f"base64: {base64.b64encode(letter.data).decode()}"
    try:
        return json.dumps(json.loads(text), indent=2, ensure_ascii=False)
    except (ValueError, RecursionError):
        return (
            text
            if all(map(str.isprintable, text.splitlines()))
            else f"base64: {base64.b64encode(letter.data).decode()}"
        )


def as_json(found: Found) -> str:
    """An entry on one line, with the names that the contract gives its fields."""
    entry = json_format.MessageToDict(found.entry, preserving_proto_field_name=True)
    return json.dumps({"id": found.entry.id, "app": found.archive.app_id, **entry["summary"]}, ensure_ascii=False)


def replayed(summary: DeadLetterSummary) -> str:
    """When a letter was replayed, and whether it has died again since."""
    if not summary.HasField("replayed_at"):
        return "-"
    return _time(summary.replayed_at) if is_replayed(summary) else f"{_time(summary.replayed_at)}, died again"


def _reason(summary: DeadLetterSummary) -> str:
    return summary.reason or ("" if summary.code else SIDECARS_REASON)


def _printable(text: str) -> str:
    """Return text that does nothing to a terminal but stand there: what an event says is anybody's."""
    return "".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in text)


def _age(age: timedelta) -> str:
    """Return how long ago something was, in the largest unit that it fills: 40s, 5m, 3h, 12d."""
    seconds = max(int(age.total_seconds()), 0)
    size, unit = next(((size, unit) for size, unit in _UNITS if seconds >= size), (1, "s"))
    return f"{seconds // size}{unit}"


def _time(stamp: Timestamp) -> str:
    return f"{stamp.ToDatetime():%Y-%m-%d %H:%M:%S}Z"


def _line(cell: str) -> Text:
    return Text(_printable(" ".join(cell.split())))


def _table(headings: Sequence[str], last: str) -> Table:
    """Return a table without rows. The last column is folded into the room that the others leave; ids are always whole."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for heading in headings:
        width = _ID if heading == "id" else None
        table.add_column(heading, no_wrap=True, overflow="ellipsis", min_width=width, max_width=_WIDEST)
    table.add_column(last, overflow="fold", min_width=_LAST)
    return table
