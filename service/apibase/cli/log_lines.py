"""Log lines for a person: JSON lines as time, level, app, message and trace; anything else as it is."""

from __future__ import annotations

import json
from datetime import datetime
from typing import TYPE_CHECKING

from rich.text import Text

from apibase.local.events import Event, Role
from apibase.local.log_fields import LEVEL, MESSAGE, QUIET_LEVELS, TIME, TRACE, level, parse, pick

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.console import Console

    from apibase.local.topology import Topology

_COLOURS = ("cyan", "green", "magenta", "yellow", "blue", "bright_cyan", "bright_green", "bright_magenta")
_LEVELS = {"WARNING": "yellow", "WARN": "yellow", "ERROR": "red", "CRITICAL": "bold red", "FATAL": "bold red"}
_NOISE = {"app", "app_id", "service", "instance", "scope", "type", "ver", "span_id", "pid", "logger"}
_SHOWN = {*TIME, *LEVEL, *MESSAGE, *TRACE, *_NOISE}
_QUIET_WHILE_CHANGING = {*QUIET_LEVELS, "WARNING", "WARN", "ERROR"}


class LogPrinter:
    """Prints processes' lines, each after its app's name in a colour of its own.

    A sidecar's are printed from warnings upwards, and only fatal ones while the stack starts or stops, when daprd
    complains of what is normal then; all of them, if they are asked for here or by the topology's `daprdLogDestination`. Nothing of an
    app whose `appLogDestination` is a file alone; nothing of backends and control plane.
    """

    def __init__(self, console: Console, topology: Topology, *, raw: bool, sidecar_logs: bool) -> None:
        self._console = console
        self._raw = raw
        self.steady = False
        """Whether the stack is up: neither starting nor stopping."""
        self._apps = {app.app_id for app in topology.apps if app.app_log != "file"}
        self._sidecars = {app.app_id for app in topology.apps if sidecar_logs or app.sidecar_log != "file"}
        self._width = max((len(app.app_id) for app in topology.apps), default=0)
        ids = [app.app_id for app in topology.apps]
        self._colour = {app_id: _COLOURS[index % len(_COLOURS)] for index, app_id in enumerate(ids)}

    def show(self, event: Event) -> None:
        """Print a line, if it is one to be printed."""
        if event.role == Role.PLATFORM or (event.role == Role.APP and event.app_id not in self._apps):
            return
        fields = parse(event.text)
        if event.role == Role.SIDECAR and event.app_id not in self._sidecars and not self._is_loud(fields, event.text):
            return
        if self._raw:
            self._console.print(Text(event.text))
            return
        name = event.subject if event.role == Role.APP else f"{event.app_id}/daprd"
        line = Text.assemble((f"{name:<{self._width}} ", self._colour.get(event.app_id, "")))
        self._console.print(line.append_text(human(fields) if fields else Text(event.text)))

    def _is_loud(self, fields: Mapping[str, object], line: str) -> bool:
        if not fields:
            return bool(line.strip())
        quiet = QUIET_LEVELS if self.steady else _QUIET_WHILE_CHANGING
        return level(fields) not in quiet


def human(fields: Mapping[str, object]) -> Text:
    """A JSON line's fields: time, level, message, what else it says, and the trace."""
    grade = level(fields)
    text = Text()
    if clock := _clock(pick(fields, TIME)):
        text.append(f"{clock} ", "dim")
    text.append(f"{grade:<7} ", _LEVELS.get(grade, "")).append(str(pick(fields, MESSAGE)))
    others = {
        key: value for key, value in fields.items() if key not in _SHOWN and not _is_said(value, text.plain, fields)
    }
    if isinstance(error := others.pop("error", None), dict):
        others.update({"stack": error.get("stack", error)})
    long = {key: value for key, value in others.items() if isinstance(value, str) and "\n" in value}
    for key, value in others.items():
        if key not in long:
            text.append(f"  {key}={_short(value)}", "dim")
    if trace := pick(fields, TRACE):
        text.append(f"  trace={trace}", "dim")
    for value in long.values():  # A traceback, say.
        text.append(f"\n{value.rstrip()}")
    return text


def _is_said(value: object, line: str, fields: Mapping[str, object]) -> bool:
    """Whether a field says nothing that the line does not say already, as a method's name or the trace may."""
    return value in ("", None) or (isinstance(value, str) and (value in line.split() or value == pick(fields, TRACE)))


def _clock(value: object) -> str:
    """The time of day, in local time, to the millisecond; what can't be read is shown as it is."""
    try:
        moment = datetime.fromisoformat(str(value))
    except ValueError:
        return str(value)
    return moment.astimezone().strftime("%H:%M:%S.%f")[:-3]


def _short(value: object) -> str:
    return value if isinstance(value, str) and " " not in value else json.dumps(value, ensure_ascii=False, default=str)
