"""Reading what Go's linker writes into every executable: which program it is and of which version, without running it.

Dapr's placement, scheduler and sentry have no `--version`, and names so plain that other programs may have them too.
"""

from __future__ import annotations

import mmap
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_MAGIC = b"\xff Go buildinf:"
_HEADER_BYTES = 32
_ALIGNED_TO = 16
_FLAGS_AT = 15
_STRINGS_INLINE = 2  # Go 1.18 and later
_SENTINEL_BYTES = 16  # around the module text, on both sides
_LINKED_VERSION = re.compile(r"buildinfo\.version=v?([^\s\"']+)")


@dataclass(frozen=True)
class GoProgram:
    """A Go executable's main package, and its version: the one set by the linker, else its module's; "" if unknown."""

    package: str
    version: str


def go_program(file: Path) -> GoProgram | None:
    """Return which program `file` is; None if it isn't a Go executable or can't be read."""
    try:
        with file.open("rb") as handle, mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as image:
            text = _module_text(image)
    except (OSError, ValueError):  # ValueError: an empty file can't be mapped.
        return None
    return _parse(text) if text else None


def _module_text(image: mmap.mmap) -> str:
    at = image.find(_MAGIC)
    while at >= 0:
        if at % _ALIGNED_TO == 0 and image[at + _FLAGS_AT] & _STRINGS_INLINE:
            _, after = _string(image, at + _HEADER_BYTES)
            text, _ = _string(image, after)
            return text[_SENTINEL_BYTES:-_SENTINEL_BYTES].decode(errors="replace")
        at = image.find(_MAGIC, at + 1)
    return ""


def _string(image: mmap.mmap, at: int) -> tuple[bytes, int]:
    """Read a length (seven bits a byte, lowest first) and as many bytes; return them and where they end."""
    length = shift = 0
    while True:
        byte = image[at]
        length |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:  # noqa: PLR2004 - the top bit says that more follows
            return image[at : at + length], at + length


def _parse(text: str) -> GoProgram | None:
    package = version = linked = ""
    for line in text.splitlines():
        match line.split("\t"):
            case ["path", path]:
                package = path
            case ["mod", _, module_version, *_] if module_version.startswith("v"):
                version = module_version.removeprefix("v").partition("+")[0]
            case ["build", setting] if setting.startswith("-ldflags=") and (found := _LINKED_VERSION.search(setting)):
                linked = found[1]
    return GoProgram(package, linked or version) if package else None
