"""The last good configuration in a file, for a start at which a store can't be read."""

from __future__ import annotations

import json
import os
import tempfile
from datetime import datetime
from pathlib import Path
from typing import TypeAlias

from loguru import logger

from apibase.clients.configuration_key import Item

Known: TypeAlias = dict[str, dict[str, Item]]
"""Items by store and key."""


class ConfigurationFile:
    """A JSON file that only its owner may read. A write replaces it whole: whoever reads it finds the old or the new."""

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)

    def read(self) -> Known:
        """Return what was written last; nothing where there is no file, or one that can't be read, which is logged."""
        try:
            content = json.loads(self._path.read_text(encoding="utf-8"))
            return {
                store: {
                    key: Item(str(item["value"]), str(item["version"]), datetime.fromisoformat(item["at"]))
                    for key, item in items.items()
                }
                for store, items in content.items()
            }
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            logger.warning("the configuration kept in {} can't be read: {}", self._path, type(error).__name__)
            return {}

    def write(self, known: Known) -> None:
        """Write what is known; what stands in the way is logged."""
        content = {
            store: {
                key: {"value": item.text, "version": item.version, "at": item.at.isoformat()}
                for key, item in items.items()
            }
            for store, items in known.items()
        }
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            # For its owner only, as mkstemp makes it: configuration may have what is nobody else's business.
            handle, scratch = tempfile.mkstemp(prefix=f".{self._path.name}.", dir=self._path.parent)
            try:
                with os.fdopen(handle, "w", encoding="utf-8") as file:
                    json.dump(content, file)
                    file.flush()
                    os.fsync(file.fileno())
                Path(scratch).replace(self._path)
            except BaseException:
                Path(scratch).unlink(missing_ok=True)
                raise
        except OSError as error:
            logger.warning("the configuration can't be kept in {}: {}", self._path, error.strerror)
