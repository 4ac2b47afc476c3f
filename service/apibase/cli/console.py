"""What a person sees: progress while a stack starts, the table of what runs where, and the processes' lines."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Self

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from apibase.cli.log_lines import human, parse
from apibase.local.errors import QUOTE
from apibase.local.events import Event, EventKind

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from rich.status import Status

    from apibase.local.stack import Stack
    from apibase.local.state_file import InstanceState


_WIDTH = 160  # Where there is no terminal to ask.


def stdout_console() -> Console:
    """A console on standard output, for results."""
    return _console(stderr=False)


def stderr_console() -> Console:
    """A console on standard error, for progress and errors."""
    return _console(stderr=True)


def fail(message: str) -> None:
    """Say why the command ends."""
    console = stderr_console()
    first, *rest = message.splitlines() or [""]
    console.print(Text.assemble(("apibase: ", "bold red"), first))
    for line in rest:
        console.print(_readable(line))


def _console(*, stderr: bool) -> Console:
    stream = sys.stderr if stderr else sys.stdout
    return Console(stderr=stderr, highlight=False, soft_wrap=True, width=None if stream.isatty() else _WIDTH)


def _readable(line: str) -> Text:
    """A log's last lines, as they stand in an error, are shown as they would be on the console."""
    mark, _, text = line.partition(QUOTE)
    fields = parse(text)
    return Text.assemble(mark, QUOTE, human(fields)) if fields and not mark else Text(line)


class Progress:
    """Shows what a stack does: on a terminal one line that lives, elsewhere a line for each thing that got ready.

    Only what is true is shown: what is waited for, and for how long it took.
    """

    def __init__(self, console: Console, show_line: Callable[[Event], None] | None = None) -> None:
        self._console = console
        self._show_line = show_line
        self._waiting: dict[str, str] = {}
        self._ready = 0
        self._status: Status | None = None

    def __enter__(self) -> Self:
        """Begin to show."""
        if self._console.is_terminal:
            self._status = self._console.status("starting")
            self._status.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Take the living line away."""
        self.settle()

    def settle(self) -> None:
        """Stop the living line: everything is ready, or over."""
        if self._status:
            self._status.stop()
            self._status = None

    def on_event(self, event: Event) -> None:
        """Show an event."""
        match event.kind:
            case EventKind.LINE:
                if self._show_line:
                    self._show_line(event)
                return
            case EventKind.PROGRESS:
                self._say(event.text)
            case EventKind.WAITING:
                self._waiting[event.subject] = event.text
            case EventKind.READY:
                self._waiting.pop(event.subject, None)
                self._ready += 1
                self._say(f"{event.subject} ready after {event.text}")
            case EventKind.DIED:
                self._console.print(f"[bold red]{escape(event.subject)} ended:[/] {escape(event.text)}")
            case EventKind.STOPPING:
                self.settle()
                self._console.print(f"[dim]stopping {escape(event.text)}[/]")
        self._update()

    def _say(self, text: str) -> None:
        if self._status:
            self._status.update(escape(text))
        else:
            self._console.print(f"[dim]{escape(text)}[/]")

    def _update(self) -> None:
        if self._status and self._waiting:
            (name, reason), *others = self._waiting.items()
            more = f" (and {len(others)} more)" if others else ""
            self._status.update(escape(f"{self._ready} ready; waiting for {name}{more}: {reason}"))


def stack_table(stack: Stack) -> Table:
    """What runs where."""
    table = Table(title=f"{stack.topology.file.name} is up on 127.0.0.1", title_justify="left", pad_edge=False)
    for heading in ("app", "port", "dapr gRPC", "HTTP", "metrics", "pid", "daprd pid", "log"):
        table.add_column(heading, justify="left" if heading in {"app", "log"} else "right", overflow="fold")
    for instance in stack.instances:
        state: InstanceState = instance.state()
        log = state.app_log if state.app_pid else state.sidecar_log
        table.add_row(
            instance.label,
            *(str(number or "-") for number in (state.app_port, state.grpc_port, state.http_port, state.metrics_port)),
            *(str(number or "-") for number in (state.app_pid, state.sidecar_pid)),
            log.rpartition("/")[2],
        )
    return table
