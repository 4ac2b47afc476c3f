"""The command line. Each command is a module here, listed below, and knows no domain: apps come from the topology file."""

from __future__ import annotations

import io
import sys

COMMANDS = {
    "up": "apibase.cli.up:up",
    "run": "apibase.cli.run:run",
    "call": "apibase.cli.call:call",
    "demo": "apibase.cli.demo:demo",
    "gen": "apibase.cli.gen:gen",
    "routes": "apibase.cli.routes:routes",
    "dlq": "apibase.cli.dlq:dlq",
    "log-level": "apibase.cli.log_level:log_level",
    "breaking": "apibase.cli.breaking:breaking",
    "fake": "apibase.cli.fake:fake",
}
"""Every command: its name, and the function that is it, or the `typer.Typer` of a group. Adding one is a line here."""

_NEEDED = {"typer", "rich", "yaml", "click"}
_INTERRUPTED = 130


def main() -> None:
    """Run the command line; what `apibase` starts."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # A terminal that lacks a character is no reason to end.
            stream.reconfigure(errors="backslashreplace")
    try:
        from apibase.cli.program import program  # noqa: PLC0415  (its absence is to be explained, not to be a traceback)

        program(COMMANDS)()
    except ModuleNotFoundError as error:
        if error.name not in _NEEDED:
            raise
        sys.exit(f"apibase: the command line needs {error.name}; install it with: pip install 'apibase[local]'")
    except KeyboardInterrupt:
        sys.exit(_INTERRUPTED)
