"""The pinned sources that ship with the package: a Go module per Dapr series, a locked requirement per PyPI tool."""

from __future__ import annotations

import hashlib
import platform
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from apibase.local.binaries.report import ToolMissing

if TYPE_CHECKING:
    from collections.abc import Iterable

_MACHINES = {"x86_64": "amd64", "aarch64": "arm64"}
_DIGEST_LENGTH = 12


def tools_folder() -> Path:
    """Return the folder of pinned sources: package data of an installed wheel, `tools/` of a checkout."""
    package = Path(__file__).resolve().parents[2]
    places = (package / "_data" / "tools", package.parents[1] / "tools")
    for place in places:
        if (place / "dapr").is_dir():
            return place
    raise ToolMissing(f"the package's own tools folder is missing ({places[0]}): install apibase again")


def digest(files: Iterable[Path], recipe: str = "") -> str:
    """Return what names this very content and the recipe applied to it: twelve hexadecimal digits."""
    total = hashlib.sha256(recipe.encode())
    for file in files:
        total.update(hashlib.sha256(file.read_bytes()).digest())
    return total.hexdigest()[:_DIGEST_LENGTH]


def host_platform() -> tuple[str, str]:
    """Return this machine's operating system and processor by Go's names: ("linux", "amd64")."""
    machine = platform.machine().lower()
    return sys.platform, _MACHINES.get(machine, machine)
