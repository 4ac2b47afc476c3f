"""What a person sees: progress while a stack starts, the table of what runs where, and the processes' lines."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Self

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from apibase.cli.log_lines import human
from apibase.local.errors import QUOTE, ended
from apibase.local.events import Event, EventKind
from apibase.local.log_fields import parse

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from rich.status import Status

    from apibase.local.stack import Stack
    from apibase.local.state_file import InstanceState


_WIDTH = 160  # Where there is no terminal to ask.
_WIDE = 100


def stdout_console() -> Console:
    """A console on standard output, for results."""
    return _console(stderr=False)


def stderr_console() -> Console:
    """A console on standard error, for progress and errors."""
    return _console(stderr=True)


def beside(results: Console) -> Console:
    """Where progress goes while results go to this console: on a terminal that shows both, through the same one.

    rich keeps its living line below what is printed by the same console only.
    """
    return results if sys.stdout.isatty() and sys.stderr.isatty() else stderr_console()


def fail(message: str) -> None:
    """Say why the command ends."""
    console = stderr_console()
    first, *rest = message.splitlines() or [""]
    console.print(Text.assemble(("apibase: ", "bold red"), first))
    for line in rest:
        console.print(_readable(line))


def _console(*, stderr: bool) -> Console:
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else _WIDTH
    # `:id:` in an urn is no emoji.
    return Console(stderr=stderr, highlight=False, emoji=False, soft_wrap=True, width=width)


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
        self._death = ""
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
        """Take the living line away; tell of a death that the error on its way out, if any, does not tell of."""
        self.settle()
        told = "\n".join((str(error), *getattr(error, "__notes__", ()))) if isinstance(error, Exception) else ""
        if self._death not in told:
            self._say_death(self._death)

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
                if self._death:
                    self._say_death(f"{ended(event.subject, event.text)} too")
                else:  # It ends the stack, and is told, with what its log says, once all is stopped.
                    self._death = ended(event.subject, event.text)
            case EventKind.STOPPING:
                self.settle()
                self._console.print(f"[dim]stopping {escape(event.text)}[/]")
        self._update()

    def _say(self, text: str) -> None:
        if self._status:
            self._status.update(escape(text))
        else:
            self._console.print(f"[dim]{escape(text)}[/]")

    def _say_death(self, text: str) -> None:
        self._console.print(Text(text, "bold red"))

    def _update(self) -> None:
        if self._status and self._waiting:
            (name, reason), *others = self._waiting.items()
            more = f" (and {len(others)} more)" if others else ""
            self._status.update(escape(f"{self._ready} ready; waiting for {name}{more}: {reason}"))


def stack_table(stack: Stack, width: int) -> Table:
    """What runs where; the ports of metrics, which people ask for least, only if there is room for them."""
    table = Table(title=f"{stack.topology.file.name} is up on 127.0.0.1", title_justify="left")
    table.add_column("app", no_wrap=True)
    wide = width >= _WIDE
    for heading in ("port", *["metrics"] * wide, "dapr gRPC", "HTTP", *["dapr metrics"] * wide, "pid", "daprd pid"):
        table.add_column(heading, justify="right")
    for instance in stack.instances:
        state: InstanceState = instance.state()
        of_app = (state.app_port, *[state.app_metrics_port] * wide)
        of_sidecar = (state.grpc_port, state.http_port, *[state.metrics_port] * wide)
        numbers = (*of_app, *of_sidecar, state.app_pid, state.sidecar_pid)
        table.add_row(instance.label, *(str(number or "-") for number in numbers))
    return table
