"""Logs: one JSON object a line, or a line for people on a terminal; loguru inside, the standard library's logs routed in.

docs/logs.md has the fields of a line, and what else an operator wants to know.
"""

from __future__ import annotations

import asyncio
import io
import logging
import sys
import threading
import time
from typing import TYPE_CHECKING, ClassVar, Literal, TextIO

from loguru import logger

from apibase.observability.context import Ids, call_ids, current_ids
from apibase.observability.log_levels import EVERYTHING, LEVELS, levels, parse_levels
from apibase.observability.log_libraries import LIBRARIES, ToLoguru, log_what_nobody_catches
from apibase.observability.log_line import Line, error_fields, json_line, level_name
from apibase.observability.log_secrets import Secrets, secrets_of
from apibase.observability.log_text import takes_colour, text_formatter

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from loguru import Message, Record

    from apibase.settings import Settings

CallLevel = Literal["DEBUG", "INFO", "WARNING"]

_WAIT_SECONDS = 0.005
_MOST_WAITING = 1000


def configure_logging(settings: Settings, stream: TextIO | None = None) -> None:
    """Send every log of this process to `stream`, in the settings' format and levels.

    By default that is standard error, and what Python would print there is logged too: warnings, and exceptions that nobody
    catches.
    """
    if stream is None:
        stream = sys.stderr
        log_what_nobody_catches()
    as_json = settings.log_format == "json" or (settings.log_format == "auto" and not stream.isatty())
    if as_json and isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(encoding="utf-8")  # as JSON is, whatever the locale
    output = _Output(
        stream,
        settings.app_id,
        json_line if as_json else text_formatter(colour=takes_colour(stream)),
        Secrets(secrets_of(settings)),
    )
    logger.remove()
    logger.configure(extra={"app_id": settings.app_id}, patcher=_add_context)
    _Output.current = output
    logging.basicConfig(handlers=[ToLoguru()], force=True)
    levels.change("settings", {EVERYTHING: settings.log_level, **parse_levels(settings.log_levels)})
    output.attach()


def log_outcome(level: CallLevel, name: str, message: str, fields: Mapping[str, object]) -> None:
    """Log the one line that ends a call or an event, as `logger.bind(logger=name, **fields).log(level, message)` does.

    There is one for every call, so it goes around loguru, which takes longer than all else that the chassis does for a
    call, and on an event loop it is written up to 5 ms later, with others. Lines stay in their order. Where loguru has other
    sinks than that of `configure_logging`, it goes through loguru, to all of them.
    """
    output = _Output.current
    if output is None or not output.is_alone():
        logger.bind(logger=name, **fields).log(level, "{}", message)
    elif LEVELS[level] >= levels.of(name):
        output.put(level, name, message, fields)


def log_always(name: str, message: str, fields: Mapping[str, object]) -> None:
    """Log a line at INFO that no level leaves out: one that says what is logged."""
    if _Output.current is not None:
        _Output.current.put("INFO", name, message, fields)


def flush_logs() -> None:
    """Write the lines that wait to be written with others."""
    if _Output.current is not None:
        _Output.current.flush()


class _Output:
    """Where lines go, and how they look."""

    current: ClassVar[_Output | None] = None

    def __init__(self, stream: TextIO, app_id: str, form: Callable[[Line], str], secrets: Secrets) -> None:
        self._handler = -1
        self._stream = stream
        self._app_id = app_id
        self._form = form
        self._secrets = secrets
        self._lock = threading.Lock()
        self._waiting: list[tuple[float, str, str, str, Ids, Mapping[str, object]]] = []
        self._loop: asyncio.AbstractEventLoop | None = None

    def attach(self) -> None:
        """Take the lines of loguru's."""
        self._handler = logger.add(
            self._take, level=levels.lowest, filter=_is_wanted, format="{message}", backtrace=False, diagnose=False
        )
        levels.on_change = self._heed_levels

    def _heed_levels(self) -> None:
        """Have loguru make no more records than the levels ask for."""
        # There is no public way that loses no line of another thread: a sink that is removed and added again does.
        core = logger._core  # type: ignore[attr-defined]  # noqa: SLF001
        with core.lock:
            if self._handler in core.handlers:
                core.handlers[self._handler]._levelno = levels.lowest  # noqa: SLF001
                core.min_level = min(each.levelno for each in core.handlers.values())

    def is_alone(self) -> bool:
        """Whether loguru has this sink and no other."""
        handlers = logger._core.handlers  # type: ignore[attr-defined]  # noqa: SLF001 - there is no public way to ask
        return len(handlers) == 1 and self._handler in handlers

    def _take(self, message: Message) -> None:
        """Write a line of loguru's: at once, after those that wait."""
        record = message.record
        fields = record["extra"].copy()
        fields.pop("logger", None)
        caught = record["exception"]
        error = caught.value if caught is not None else fields.get("error")
        self._write(
            Line(
                record["time"].timestamp(),
                level_name(record["level"].no),
                _name(record),
                record["message"],
                self._app_id,
                fields,
                error_fields(error) if isinstance(error, BaseException) else None,
                library=record["name"] == LIBRARIES,
            )
        )

    def put(self, level: CallLevel, name: str, message: str, fields: Mapping[str, object]) -> None:
        """Write a line within `_WAIT_SECONDS`, together with others; at once where no event loop runs."""
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
        self._write()

    def _write(self, *more: Line) -> None:
        with self._lock:
            waiting, self._waiting = self._waiting, []
            # Formatted together: code that runs again and again is several times as fast as between two calls.
            lines = [*(self._line(*each) for each in waiting), *more]
            text = "".join(map(self._form, lines))
            if self._secrets.in_text(text):
                text = "".join(self._form(self._secrets.without(line)) for line in lines)
            if not text:
                return
            try:
                self._stream.write(text)
                self._stream.flush()
            except (OSError, ValueError):  # Nobody reads on: that ends no call.
                return

    def _line(self, at: float, level: str, name: str, message: str, ids: Ids, fields: Mapping[str, object]) -> Line:
        return Line(at, level, name, message, self._app_id, _in_call(ids, fields))


def _is_wanted(record: Record) -> bool:
    return record["level"].no >= levels.of(_name(record))


def _name(record: Record) -> str:
    """Return the name of the logger: the one that a call site bound, or the module's."""
    return str(record["extra"].get("logger") or record["name"] or "root")


def _add_context(record: Record) -> None:
    record["extra"].update(_in_call(current_ids(), {}))


def _in_call(ids: Ids, fields: Mapping[str, object]) -> Mapping[str, object]:
    """Return fields after what ties a line to its call; as they are outside of one."""
    trace_id, span_id, correlation_id = ids
    if not trace_id:
        return fields
    trace_text = f"{trace_id:032x}"
    return {
        "trace_id": trace_text,
        "span_id": f"{span_id:016x}",
        "correlation_id": correlation_id or trace_text,
        **fields,
    }
