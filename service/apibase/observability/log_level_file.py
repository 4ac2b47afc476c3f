"""Levels that an operator writes into a file while the process runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from loguru import logger

from apibase.observability.log_levels import levels, levels_text, parse_levels
from apibase.observability.logging import log_always

if TYPE_CHECKING:
    import asyncio
    from pathlib import Path

LOGGER = "apibase.log_levels"
_SECONDS = 1.0
_MOST_CHARACTERS = 65_536


class LevelsFile:
    """A file whose levels hold while they stand in it; it need not exist.

    A change is heeded within a second or so. What can't be read is said in the log, and changes nothing.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: tuple[int, ...] = ()

    def watch(self, loop: asyncio.AbstractEventLoop) -> None:
        """Read the file now, and again whenever it has changed, for as long as the loop runs."""
        loop.call_later(_SECONDS, self.watch, loop)
        self.read()

    def read(self) -> None:
        """Read the file, if it is another than at the last time."""
        try:
            now = self._path.stat()
            state: tuple[int, ...] = (now.st_mtime_ns, now.st_size, now.st_ino)
        except OSError:
            state = ()
        if state == self._seen:
            return
        self._seen = state
        try:
            found = parse_levels(self._text()) if state else {}
        except (OSError, ValueError) as error:
            logger.bind(logger=LOGGER).warning("{} is not heeded: {}", self._path, error)
            return
        if found != levels.given("file"):
            levels.change("file", found)
            told = levels_text(found)
            log_always(LOGGER, f"log levels: {told or 'those of the settings'}", {"levels": told})

    def _text(self) -> str:
        with self._path.open(encoding="utf-8") as file:
            return file.read(_MOST_CHARACTERS)
