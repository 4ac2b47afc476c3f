"""What can stop a local stack, said so that a person can act on it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


QUOTE = "  | "
"""Before each line of a log that is quoted in a message."""


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
        super().__init__(with_tail(f"{name} ended: {how}", log_path, tail))


def with_tail(message: str, log_path: Path | None, tail: list[str]) -> str:
    """Add the last lines of a log, and where the whole log is, to a message."""
    if not tail:
        return f"{message}\nIt wrote nothing to its log." if log_path else message
    lines = "\n".join(f"{QUOTE}{line}" for line in tail)
    return f"{message}\nThe last lines of its log:\n{lines}\nAll of it: {log_path}"
