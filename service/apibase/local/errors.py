"""What can stop a local stack, said so that a person can act on it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from apibase.local.last_words import reason, worth_showing

if TYPE_CHECKING:
    from pathlib import Path


QUOTE = "  | "
"""Before each line of a log that is quoted in a message."""
KILLED = "killed by "
"""Before the signal that ended a process."""


class StackError(RuntimeError):
    """The local stack can't start or go on; the message says who, why and what to do."""


class TopologyError(StackError):
    """A topology file, a component file or the project's settings can't be used; the message names file and field."""


class StackAlreadyUp(StackError):
    """Another process holds this project's stack."""


class NoStack(StackError):
    """No stack is up in this project."""


class NotReady(StackError):
    """A process lives but was not ready in time."""


class ChildDied(StackError):
    """A process of the stack ended when nobody asked it to."""

    def __init__(self, name: str, how: str, log_path: Path | None, tail: list[str]) -> None:
        self.name = name
        self.how = how
        self.log_path = log_path
        self.tail = tail
        # What a signal ended has no last words; whatever it said before was about something else.
        why = "" if how.startswith(KILLED) else reason(tail)
        headline = f"{ended(name, how)}: {why}" if why else ended(name, how)
        super().__init__(with_tail(headline, log_path, tail, worth_showing(tail)))


def ended(name: str, how: str) -> str:
    """Say that a process ended, and how."""
    return f"{name} was {how}" if how.startswith(KILLED) else f"{name} ended with {how}"


def with_tail(message: str, log_path: Path | None, tail: list[str], shown: list[str] | None = None) -> str:
    """Add the last lines of a log, or those of them that are to be `shown`, and where the whole log is, to a message."""
    if not tail:
        return f"{message}\nIt wrote nothing to its log." if log_path else message
    if shown == []:
        return f"{message}\nIts log ends without a warning: {log_path}"
    lines = "\n".join(f"{QUOTE}{line}" for line in shown or tail)
    return f"{message}\nThe last lines of its log:\n{lines}\nAll of it: {log_path}"
