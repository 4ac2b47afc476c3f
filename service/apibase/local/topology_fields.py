"""Reading a YAML mapping field by field, with errors that name the file, the field and what is wrong with it."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import TYPE_CHECKING, TypeGuard

from apibase.local.errors import TopologyError

if TYPE_CHECKING:
    from collections.abc import Iterable

Mapping = dict[str, object]


class Fields:
    """One mapping of a file. Every reader takes a field's name and returns its value, or None where it is absent."""

    def __init__(self, file: Path, where: str, value: object, known: Iterable[str]) -> None:
        self._file = file
        self._where = where
        if value is None:
            value = {}
        if not is_mapping(value):
            raise self.error("", f"expected a mapping, found {_kind(value)}")
        self._values = value
        known = set(known)
        for name in value:
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
                raise self.error(name, "unknown field" + (f"; did you mean {near[0]}?" if near else ""))

    def error(self, name: str, problem: str) -> TopologyError:
        """The error for a field."""
        path = ".".join(part for part in (self._where, name) if part)
        return TopologyError(f"{self._file}: {path}: {problem}" if path else f"{self._file}: {problem}")

    def text(self, name: str) -> str | None:
        """A string."""
        value = self._values.get(name)
        if value is None or isinstance(value, str):
            return value
        raise self.error(name, f"expected a string, found {_kind(value)}")

    def number(self, name: str) -> int | None:
        """A whole number."""
        value = self._values.get(name)
        if value is None or (isinstance(value, int) and not isinstance(value, bool)):
            return value
        raise self.error(name, f"expected a whole number, found {_kind(value)}")

    def port(self, name: str) -> int | None:
        """A port number; Dapr's CLI takes 0 and -1 for "none"."""
        value = self.number(name)
        if value is None or value in {0, -1}:
            return None
        if not 1 <= value <= 65_535:  # noqa: PLR2004
            raise self.error(name, f"expected a port between 1 and 65535, found {value}")
        return value

    def flag(self, name: str) -> bool | None:
        """A truth value."""
        value = self._values.get(name)
        if value is None or isinstance(value, bool):
            return value
        raise self.error(name, f"expected true or false, found {_kind(value)}")

    def choice(self, name: str, allowed: tuple[str, ...]) -> str | None:
        """One of some strings, in lower or upper case."""
        value = self.text(name)
        if value is None:
            return None
        for candidate in allowed:
            if candidate.lower() == value.lower():
                return candidate
        raise self.error(name, f"expected one of {', '.join(allowed)}, found {value!r}")

    def texts(self, name: str) -> tuple[str, ...]:
        """A list of strings; numbers are taken as they are written, because a command line has some."""
        value = self._values.get(name)
        if value is None:
            return ()
        if not isinstance(value, list):
            raise self.error(name, f"expected a list, found {_kind(value)}")
        return tuple(self._scalar(f"{name}[{index}]", item) for index, item in enumerate(value))

    def variables(self, name: str) -> dict[str, str]:
        """A mapping of environment variables."""
        value = self._values.get(name)
        if value is None:
            return {}
        if not is_mapping(value):
            raise self.error(name, f"expected a mapping of variables, found {_kind(value)}")
        return {key: self._scalar(f"{name}.{key}", item) for key, item in value.items()}

    def path(self, name: str, base: Path, *, folder: bool = False) -> Path | None:
        """An existing file or folder; a relative one starts at `base`."""
        value = self.text(name)
        return self._existing(name, value, base, folder=folder) if value else None

    def folders(self, name: str, base: Path) -> tuple[Path, ...]:
        """A list of existing folders."""
        values = self.texts(name)
        return tuple(self._existing(f"{name}[{i}]", value, base, folder=True) for i, value in enumerate(values))

    def _existing(self, name: str, value: str, base: Path, *, folder: bool) -> Path:
        path = (base / Path(value).expanduser()).resolve()
        if folder and not path.is_dir():
            raise self.error(name, f"{path} is not a folder")
        if not path.exists():
            raise self.error(name, f"{path} does not exist")
        return path

    def _scalar(self, name: str, value: object) -> str:
        if isinstance(value, bool):
            return str(value).lower()
        if isinstance(value, str | int | float):
            return str(value)
        raise self.error(name, f"expected a string, found {_kind(value)}")


def is_mapping(value: object) -> TypeGuard[Mapping]:
    """A YAML mapping whose keys are strings."""
    return isinstance(value, dict) and all(isinstance(key, str) for key in value)


def _kind(value: object) -> str:
    match value:
        case None:
            return "nothing"
        case dict():
            return "a mapping"
        case list():
            return "a list"
        case _:
            return repr(value)
