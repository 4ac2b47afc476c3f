"""What others log, warn of, and do not catch, on its way into the log of the process."""

from __future__ import annotations

import contextvars
import gc
import logging
import sys
import threading
import traceback
import warnings
from typing import TYPE_CHECKING, Any, TextIO

from loguru import logger

from apibase.observability.log_line import told

if TYPE_CHECKING:
    import asyncio
    from types import TracebackType

LIBRARIES = __name__
_OF_EVERY_RECORD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}
_TOLD_OTHERWISE = frozenset({"message", "exception", "source_traceback"})


class ToLoguru(logging.Handler):
    """Hands a standard-library record to loguru, under its own logger's name and with what `extra` it has."""

    def emit(self, record: logging.LogRecord) -> None:
        """Log the record; a wrong format string breaks nobody, as with the standard library's own handlers."""
        try:
            message = record.getMessage()
        except Exception:  # noqa: BLE001 - see above
            self.handleError(record)
            return
        try:
            level: str | int = logger.level(record.levelname).name
        except ValueError:
            level = record.levelno
        bound = {key: value for key, value in vars(record).items() if key not in _OF_EVERY_RECORD}
        if record.stack_info:
            bound["stack_info"] = record.stack_info
        bound["logger"] = record.name
        logger.bind(**bound).opt(exception=record.exc_info).log(level, "{}", message)


def log_what_nobody_catches() -> None:
    """Log warnings and uncaught exceptions of this process, where Python would print them; but not that of Ctrl-C."""
    sys.excepthook = _on_uncaught
    threading.excepthook = _on_uncaught_in_thread
    sys.unraisablehook = _on_unraisable
    warnings.showwarning = _on_warning


def log_what_a_loop_meets(loop: asyncio.AbstractEventLoop) -> None:
    """Log the exceptions of tasks and callbacks that nobody takes, in their own context: with the ids of their call."""
    loop.set_exception_handler(_on_loop_error)


def _on_uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, trace)
        return
    to_log = logger.bind(logger="sys").opt(exception=error)
    to_log.critical("the process ends by an uncaught {}: {}", kind.__qualname__, told(error))


def _on_uncaught_in_thread(args: threading.ExceptHookArgs) -> None:
    if issubclass(args.exc_type, SystemExit):
        return  # that is how a thread ends itself
    to_log = logger.bind(logger="threading", thread=args.thread.name if args.thread is not None else "")
    to_log.opt(exception=args.exc_value).error(
        "a thread ends by an uncaught {}: {}", args.exc_type.__qualname__, told(args.exc_value)
    )


def _on_unraisable(args: sys.UnraisableHookArgs) -> None:
    # The collector may run in any call, which has nothing to do with it.
    contextvars.Context().run(_log_unraisable, args)


def _log_unraisable(args: sys.UnraisableHookArgs) -> None:
    to_log = logger.bind(logger="sys", object=told(args.object)).opt(exception=args.exc_value)
    to_log.error("{}: {}", args.err_msg or "Exception ignored in", args.exc_type.__qualname__)


def _on_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    if file is not None:
        file.write(warnings.formatwarning(message, category, filename, lineno, line))
        return
    to_log = logger.bind(logger="py.warnings", category=category.__qualname__, where=f"{filename}:{lineno}")
    to_log.warning("{}", message)


def _on_loop_error(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    for culprit in ("task", "future", "handle"):
        own = _context_of(context.get(culprit))
        if own is not None:
            own.run(_log_loop_error, context)
            return
    contextvars.Context().run(_log_loop_error, context)


def _log_loop_error(context: dict[str, Any]) -> None:
    fields = {key: repr(value) for key, value in context.items() if key not in _TOLD_OTHERWISE}
    if created := context.get("source_traceback"):
        fields["created_at"] = "".join(traceback.format_list(created))
    to_log = logger.bind(**fields, logger="asyncio").opt(exception=context.get("exception"))
    to_log.error("{}", context.get("message") or "Unhandled exception in event loop")


def _context_of(culprit: object) -> contextvars.Context | None:
    """Return a copy of the context that a task or a callback ran in: Python tells it of tasks since 3.12, the collector of all."""
    if culprit is None:
        return None
    found = (each for each in gc.get_referents(culprit) if isinstance(each, contextvars.Context))
    context = next(found, None)
    return context.copy() if context is not None else None
