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
_WIDEST = 32
_REASON = 24
_PLAN_ROWS = 20
_UNITS = ((86400, "d"), (3600, "h"), (60, "m"))
SIDECARS_REASON = "(buried by the sidecar, which gives no reason)"


def letter_table(found: Sequence[Found], width: int, *, with_app: bool) -> Table:
    """What a list shows; on a narrow terminal without type and topic. The reason takes the room that is left."""
    now = datetime.now(UTC)
    table = _table()
    app, where = (["app"] if with_app else []), (["type", "topic"] if width >= _WIDE else [])
    for heading in ("id", "age", *app, "code", "handler", *where, "replayed"):
        table.add_column(heading, no_wrap=True, overflow="ellipsis", max_width=_WIDEST)
    table.add_column("reason", overflow="fold", min_width=_REASON)
    for each in found:
        summary = each.entry.summary
        cells = (
            each.entry.id,
            _age(now - summary.archived_at.ToDatetime(UTC)),
            *([each.archive.app_id] if with_app else []),
            summary.code or "-",
            summary.handler.rpartition(".")[2] or "-",
            *(
                [summary.event_type.rpartition(".")[2] or "-", summary.topic or summary.dead_letter_topic]
                if where
                else []
            ),
            "-" if not summary.HasField("replayed_at") else "yes" if is_replayed(summary) else "died again",
            _reason(summary),
        )
        table.add_row(*(Text(_printable(" ".join(cell.split()))) for cell in cells))
    return table


def plan_table(plan: Sequence[tuple[DeadLetter, str]]) -> Table:
    """What a replay would send, the first of it."""
    table = _table()
    for heading in ("id", "event", "type", "to topic", "for"):
        table.add_column(heading, no_wrap=True, overflow="ellipsis")
    for letter, target in plan[:_PLAN_ROWS]:
        summary = letter.summary
        handlers = "every consumer" if letter.raw_payload else ", ".join(letter.handlers) or "every consumer"
        cells = (letter.id, summary.event_id or "-", summary.event_type or "-", target, handlers)
        table.add_row(*(Text(_printable(cell)) for cell in cells))
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


def _table() -> Table:
    return Table(box=box.SIMPLE_HEAD, pad_edge=False)
