"""The lowest level that is logged, of everything and by module, and its change while the process runs."""

from __future__ import annotations

import logging
import re
import threading
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

LEVELS = {
    "TRACE": 5,
    "DEBUG": 10,
    "INFO": 20,
    "SUCCESS": 25,
    "WARNING": 30,
    "ERROR": 40,
    "CRITICAL": 50,
    "OFF": 1000,
}
EVERYTHING = ""
"""The name that stands for all modules."""

Layer = Literal["settings", "code", "file"]
"""Who set a level; a later one wins over an earlier one for the same module."""

_ALIASES = {"WARN": "WARNING", "FATAL": "CRITICAL", "NONE": "OFF"}
_CHATTER = ("grpc", "asyncio", "urllib3")
_MODULE = re.compile(r"[^\s=,#]+")
_MOST_NAMES = 10_000


def level_named(text: str) -> str:
    """Return the level that a text names, as `LEVELS` has it. Raises `ValueError` for what is none."""
    name = text.strip().upper()
    name = _ALIASES.get(name, name)
    if name not in LEVELS:
        raise ValueError(f"{text.strip()!r} is no level; there is {', '.join(LEVELS)}")
    return name


def parse_levels(text: str) -> dict[str, str]:
    """Return levels by module: `apibase.delivery=DEBUG,grpc=INFO`, with commas or lines between.

    A level alone is that of everything; what follows a `#` is a comment. Raises `ValueError` for anything else.
    """
    found: dict[str, str] = {}
    for part in re.split(r"[,\n]", re.sub(r"#.*", "", text)):
        if not part.strip():
            continue
        module, equals, level = (each.strip() for each in part.rpartition("="))
        if equals and not _MODULE.fullmatch(module):
            raise ValueError(f"expected MODULE=LEVEL or a level, found {part.strip()!r}")
        found[module] = level_named(level)
    return found


def levels_text(levels: Mapping[str, str]) -> str:
    """Return levels as `parse_levels` reads them."""
    return ",".join(f"{module}={level}" if module else level for module, level in levels.items())


class LogLevels:
    """Levels by the name of a logger: that of the longest dotted beginning which has one.

    Libraries that tell every little thing (gRPC's Python parts, asyncio, urllib3) are logged from WARNING on unless they are named.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._layers: dict[Layer, dict[str, str]] = {"settings": {}, "code": {}, "file": {}}
        self._numbers: dict[str, int] = {EVERYTHING: LEVELS["INFO"]}
        self._known: dict[str, int] = {}
        self._set: set[str] = set()
        self.on_change: Callable[[], None] = _nothing

    @property
    def lowest(self) -> int:
        """The lowest level that anything is logged from."""
        return min(self._numbers.values())

    def of(self, name: str) -> int:
        """Return the level that a logger is logged from."""
        known = self._known.get(name)
        return self._find(name) if known is None else known

    def given(self, layer: Layer) -> Mapping[str, str]:
        """Return what was set in a layer."""
        return self._layers[layer]

    def change(self, layer: Layer, levels: Mapping[str, str]) -> None:
        """Replace what was set in a layer."""
        with self._lock:
            self._layers[layer] = dict(levels)
            numbers = {name: LEVELS[level] for each in self._layers.values() for name, level in each.items()}
            numbers.setdefault(EVERYTHING, LEVELS["INFO"])
            self._numbers, self._known = numbers, {}
            self._tell_standard_library()
            self.on_change()

    def _find(self, name: str) -> int:
        numbers, known = self._numbers, self._known
        beginning = name
        while beginning and beginning not in numbers:
            beginning = beginning.rpartition(".")[0]
        if len(known) < _MOST_NAMES:
            known[name] = numbers[beginning]
        return numbers[beginning]

    def _tell_standard_library(self) -> None:
        """Have libraries ask `isEnabledFor` in vain, instead of making lines that are thrown away."""
        chatter = dict.fromkeys(_CHATTER, max(LEVELS["WARNING"], self._numbers[EVERYTHING]))
        numbers = {**chatter, **self._numbers}
        for name in self._set - numbers.keys():
            logging.getLogger(name).setLevel(logging.NOTSET)
        for name, number in numbers.items():
            logging.getLogger(name or None).setLevel(number)
        self._set = numbers.keys() - {EVERYTHING}


def _nothing() -> None:
    """Do nothing."""


levels = LogLevels()
"""Those of this process."""


def set_log_level(module: str, level: str | None) -> None:
    """Log a module, and those within it, from `level` on, from now on; None takes that back.

    `module` is the name of a logger, which is that of the module that logs; "" is everything. `level` is one of TRACE, DEBUG, INFO,
    SUCCESS, WARNING, ERROR, CRITICAL and OFF. It wins over the settings, and what an operator writes into `APIBASE_LOG_LEVELS_FILE`
    wins over it. It may be called from any thread, before and after logging is set up. Raises `ValueError` for what is no level.
    """
    changed = dict(levels.given("code"))
    if level is None:
        changed.pop(module, None)
    else:
        changed[module] = level_named(level)
    levels.change("code", changed)
