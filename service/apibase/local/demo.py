"""What a project's demo gets: the function that `[tool.apibase] demo` names is awaited with one of these."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

    from apibase.local.stack import Stack


@dataclass(frozen=True)
class DemoContext:
    """A stack that is up, a console to report on, and the words that followed `apibase demo`.

    The function may have an attribute `prepare`, a callable `(arguments, app_ids)`, both tuples of str. It is called before
    anything is started; what it raises, `ValueError` with a message or `SystemExit` as argparse does, ends the command.
    """

    stack: Stack
    console: Console
    arguments: tuple[str, ...] = ()
