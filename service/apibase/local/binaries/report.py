"""What a search for tools tells the person: lines while something is slow, and one clear error."""

from __future__ import annotations

import sys
from collections.abc import Callable

from apibase.local.errors import StackError

Progress = Callable[[str], None]
"""Takes one human line. Called at least every few seconds while something is slow; what it raises ends the work."""

EVERY_SECONDS = 5.0
"""How long a slow step may go on without a line."""


class ToolMissing(StackError):
    """An executable is neither there nor to be had; the first line says which, and the way to get it.

    After a failed build or download, the last lines of its output and the place of the whole log follow.
    """


def to_stderr(line: str) -> None:
    """Write the line to standard error: the progress of a caller that wants nothing special."""
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()
