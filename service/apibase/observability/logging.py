"""Logs: one JSON object a line, or a line for people on a terminal; loguru inside, the standard library's logs routed in.

Fields of a line: `time` (RFC 3339, UTC), `level`, `logger`, `message`, `app_id`, `trace_id`, `span_id`,
`correlation_id` (the last three within a call), `error` (`type`, `message`, `stack`) with an exception, then whatever
the call site bound.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import threading
import time
from datetime import UTC, datetime
from functools import lru_cache
from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple, TextIO

import orjson
from loguru import logger
from opentelemetry.trace import format_span_id, format_trace_id

from apibase.observability.context import Ids, call_ids, current_ids

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from loguru import Message, Record

    from apibase.settings import Settings

CallLevel = Literal["DEBUG", "INFO", "WARNING"]

_LEVELS: dict[CallLevel, int] = {"DEBUG": 10, "INFO": 20, "WARNING": 30}
_WAIT_SECONDS = 0.005
_MOST_WAITING = 1000


def configure_logging(settings: Settings, stream: TextIO | None = None) -> None:
    """Send every log of this process to `stream` (default: standard error), in the settings' format and level."""
    stream = stream or sys.stderr
    as_json = settings.log_format == "json" or (settings.log_format == "auto" and not stream.isatty())
    output = _Output(stream, settings.app_id, logger.level(settings.log_level).no, as_json=as_json)
    logger.remove()
    logger.configure(extra={"app_id": settings.app_id}, patcher=_add_context)
    output.handler = logger.add(
        output.take, level=settings.log_level, format="{message}", backtrace=False, diagnose=False
    )
    _Output.current = output
    logging.basicConfig(handlers=[_ToLoguru()], level=logger.level(settings.log_level).no, force=True)
    for noisy in ("grpc", "asyncio", "urllib3"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def log_outcome(level: CallLevel, name: str, message: str, fields: Mapping[str, object]) -> None:
    """Log the one line that ends a call or an event, as `logger.bind(logger=name, **fields).log(level, message)` does.

    There is one for every call, so it goes around loguru, which takes longer than all else that the chassis does for a
    call, and on an event loop it is written up to 5 ms later, with others. Lines stay in their order. Where loguru has other
    sinks than that of `configure_logging`, it goes through loguru, to all of them.
    """
    output = _Output.current
    if output is not None and output.is_alone():
        output.put(level, name, message, fields)
    else:
        logger.bind(logger=name, **fields).log(level, "{}", message)


def flush_logs() -> None:
    """Write the lines that wait to be written with others."""
    if _Output.current is not None:
        _Output.current.flush()


class _Output:
    """Where lines go, and how they look."""

    current: ClassVar[_Output | None] = None

    def __init__(self, stream: TextIO, app_id: str, level: int, *, as_json: bool) -> None:
        self.handler = -1
        self._stream = stream
        self._app_id = app_id
        self._level = level
        self._format: Callable[[_Line], str] = _json_line if as_json else _text_line
        self._lock = threading.Lock()
        self._waiting: list[tuple[float, str, str, str, Ids, Mapping[str, object]]] = []
        self._loop: asyncio.AbstractEventLoop | None = None

    def is_alone(self) -> bool:
        """Whether loguru has this sink and no other."""
        handlers = logger._core.handlers  # type: ignore[attr-defined]  # noqa: SLF001 - there is no public way to ask
        return len(handlers) == 1 and self.handler in handlers

    def take(self, message: Message) -> None:
        """Write a line of loguru's: at once, after those that wait."""
        record = message.record
        extra = record["extra"]
        name = extra.get("logger") or record["name"]
        at = record["time"].timestamp()
        line = _Line(at, record["level"].name, name, record["message"], extra, _error(record))
        self._write([self._format(line)])

    def put(self, level: CallLevel, name: str, message: str, fields: Mapping[str, object]) -> None:
        """Write a line within `_WAIT_SECONDS`, together with others; at once where no event loop runs."""
        if _LEVELS[level] < self._level:
            return
        line = (time.time(), level, name, message, call_ids(), fields)
        with self._lock:  # a thread's own log line may be writing what waits
            self._waiting.append(line)
        if 1 < len(self._waiting) < _MOST_WAITING and self._loop is not None and not self._loop.is_closed():
            return  # a timer runs
        try:
            self._loop = asyncio.get_running_loop()
        except RuntimeError:
            self._loop = None
        if self._loop is None or len(self._waiting) >= _MOST_WAITING:
            self.flush()
        else:
            self._loop.call_later(_WAIT_SECONDS, self.flush)

    def flush(self) -> None:
        """Write what waits."""
        self._write([])

    def _write(self, lines: list[str]) -> None:
        with self._lock:
            waiting, self._waiting = self._waiting, []
            # Formatted together: code that runs again and again is several times as fast as between two calls.
            text = "".join([*(self._format(self._line(*each)) for each in waiting), *lines])
            if text:
                self._stream.write(text)
                self._stream.flush()

    def _line(self, at: float, level: str, name: str, message: str, ids: Ids, fields: Mapping[str, object]) -> _Line:
        return _Line(at, level, name, message, {"app_id": self._app_id, **_fields_of(ids), **fields})


def _add_context(record: Record) -> None:
    record["extra"].update(_fields_of(current_ids()))


def _fields_of(ids: Ids) -> dict[str, str]:
    """Return what ties a line to its call; nothing outside of one."""
    trace_id, span_id, correlation_id = ids
    if not trace_id:
        return {}
    trace_text = format_trace_id(trace_id)
    return {
        "trace_id": trace_text,
        "span_id": format_span_id(span_id),
        "correlation_id": correlation_id or trace_text,
    }


@lru_cache(maxsize=4)
def _second(seconds: int) -> str:
    """Return a second since 1970 as RFC 3339 has it, in UTC; many lines share one."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")


class _Line(NamedTuple):
    """What every line has, whoever wrote it."""

    at: float  # seconds since 1970
    level: str
    logger: str | None
    message: str
    extra: Mapping[str, object]
    error: dict[str, str] | None = None


def _json_line(line: _Line) -> str:
    seconds, fraction = divmod(round(line.at * 1_000_000), 1_000_000)
    fixed = {
        "time": f"{_second(seconds)}.{fraction:06}Z",
        "level": line.level,
        "logger": line.logger,
        "message": line.message,
    }
    # What every line has comes first, and wins over what a call site bound by one of these names.
    fields = {**fixed, **line.extra, **fixed}
    if line.error:
        fields["error"] = line.error
    try:
        return orjson.dumps(fields, default=str).decode() + "\n"
    except TypeError:  # a number beyond 64 bits, half of a character: what the standard library writes, slowly
        return json.dumps(fields, default=str) + "\n"


def _text_line(line: _Line) -> str:
    extra = {
        key: value for key, value in line.extra.items() if key not in {"logger", "app_id", "span_id", "correlation_id"}
    }
    fields = "".join(f" {key}={_plain(value)}" for key, value in extra.items())
    when = datetime.fromtimestamp(line.at).astimezone()
    return f"{when:%H:%M:%S}.{when.microsecond // 1000:03} {line.level:<7} {line.message}{fields}\n" + (
        f"{line.error['stack']}\n" if line.error else ""
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
