"""Logs: one JSON object a line, or a line for people on a terminal; loguru inside, the standard library's logs routed in.

Fields of a line: `time` (RFC 3339, UTC), `level`, `logger`, `message`, `app_id`, `trace_id`, `span_id`,
`correlation_id` (the last three within a call), `error` (`type`, `message`, `stack`) with an exception, then whatever
the call site bound.
"""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC
from typing import TYPE_CHECKING, TextIO

from loguru import logger

from apibase.observability.context import correlation_id, trace_ids

if TYPE_CHECKING:
    from loguru import Message, Record

    from apibase.settings import Settings

_OF_EVERY_LINE = frozenset({"time", "level", "logger", "message"})


def configure_logging(settings: Settings, stream: TextIO | None = None) -> None:
    """Send every log of this process to `stream` (default: standard error), in the settings' format and level."""
    stream = stream or sys.stderr
    as_json = settings.log_format == "json" or (settings.log_format == "auto" and not stream.isatty())

    def write(message: Message) -> None:
        line = _json_line(message.record) if as_json else _text_line(message.record)
        stream.write(line)
        stream.flush()

    logger.remove()
    logger.configure(extra={"app_id": settings.app_id}, patcher=_add_context)
    logger.add(write, level=settings.log_level, format="{message}", backtrace=False, diagnose=False)
    logging.basicConfig(handlers=[_ToLoguru()], level=logger.level(settings.log_level).no, force=True)
    for noisy in ("grpc", "asyncio", "urllib3"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def _add_context(record: Record) -> None:
    trace_id, span_id = trace_ids()
    if trace_id:
        record["extra"].update(trace_id=trace_id, span_id=span_id, correlation_id=correlation_id())


def _json_line(record: Record) -> str:
    line: dict[str, object] = {
        "time": record["time"].astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z"),
        "level": record["level"].name,
        "logger": record["extra"].get("logger") or record["name"],
        "message": record["message"],
    }
    line.update((key, value) for key, value in record["extra"].items() if key not in _OF_EVERY_LINE)
    error = _error(record)
    if error:
        line["error"] = error
    return json.dumps(line, default=str, ensure_ascii=False) + "\n"


def _text_line(record: Record) -> str:
    extra = {
        key: value
        for key, value in record["extra"].items()
        if key not in {"logger", "app_id", "span_id", "correlation_id"}
    }
    fields = "".join(f" {key}={_plain(value)}" for key, value in extra.items())
    error = _error(record)
    return (
        f"{record['time']:%H:%M:%S}.{record['time'].microsecond // 1000:03} {record['level'].name:<7} {record['message']}{fields}\n"
        + (f"{error['stack']}\n" if error else "")
    )


def _plain(value: object) -> str:
    """Return a field's value as a person reads it."""
    return ",".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def _error(record: Record) -> dict[str, str] | None:
    caught = record["exception"]
    if caught is None or caught.value is None:
        return None
    formatter = logging.Formatter()
    stack = formatter.formatException((type(caught.value), caught.value, caught.traceback))
    return {"type": type(caught.value).__qualname__, "message": str(caught.value), "stack": stack}


class _ToLoguru(logging.Handler):
    """Hands a standard-library record to loguru, under its own logger's name."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            message = record.getMessage()
        except Exception:  # noqa: BLE001 - as the standard library's handlers: a wrong format string breaks nobody
            self.handleError(record)
            return
        try:
            level: str | int = logger.level(record.levelname).name
        except ValueError:
            level = record.levelno
        logger.bind(logger=record.name).opt(exception=record.exc_info).log(level, "{}", message)
