"""A `go` that only pretends, for tests of what is built with it."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

DEADLINE_SECONDS = 20.0

# It notes each build, waits while the file `hold` exists, fails if `fail` does, and else writes what it was asked for.
_PROGRAM = f"""#!{sys.executable}
import json, os, pathlib, sys, time
here = pathlib.Path(__file__).parent
command = sys.argv[1]
if command == "version":
    print("go version go" + (here / "version").read_text() + " linux/amd64")
elif command == "env":
    print(os.environ.get("GOFLAGS", ""))
else:
    out = pathlib.Path(sys.argv[sys.argv.index("-o") + 1])
    note = {{"pid": os.getpid(), "name": out.name, "arguments": sys.argv[1:], "env": dict(os.environ)}}
    with (here / "builds").open("a") as builds:
        builds.write(json.dumps(note) + "\\n")
    while (here / "hold").exists():
        time.sleep(0.01)
    if (here / "fail").exists():
        print("\\n".join(f"line {{number}}" for number in range(100)), file=sys.stderr)
        sys.exit("undefined: everything")
    out.write_text("#!/bin/sh\\necho 1.18.2\\n")
    out.chmod(0o755)
"""


class Go:
    """The pretended toolchain and what it was asked to do."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.folder = folder
        self.hold = folder / "hold"
        (folder / "version").write_text("1.26.5")
        (folder / "go").write_text(_PROGRAM)
        (folder / "go").chmod(0o755)

    @property
    def builds(self) -> list[dict[str, Any]]:
        notes = self.folder / "builds"
        return [json.loads(line) for line in notes.read_text().splitlines()] if notes.exists() else []

    @property
    def built(self) -> list[str]:
        return [build["name"] for build in self.builds]


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.01)


def is_gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    status = Path(f"/proc/{pid}/stat")
    return status.exists() and status.read_text().rpartition(")")[2].split()[0] == "Z"


def leftovers(cache: Path) -> list[str]:
    return [path.name for path in cache.iterdir() if ".part-" in path.name]
