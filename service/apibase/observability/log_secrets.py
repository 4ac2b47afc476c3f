"""Secrets that must not get into the log, wherever in a line they would stand."""

from __future__ import annotations

import json
import os
from functools import cache
from typing import TYPE_CHECKING
from urllib.parse import quote

import orjson
from pydantic import SecretStr

from apibase.observability.log_line import Line, plain
from apibase.observability.log_text import message_text

if TYPE_CHECKING:
    from collections.abc import Iterable

    from apibase.settings import Settings

HIDDEN = "***"
_SHORTEST = 4  # what is shorter is no secret, and in every other word
_IDS = ("trace_id", "span_id")  # in their hexadecimal digits, a short secret of digits is found by chance
_VARIABLES = ("APP_API_TOKEN", "DAPR_API_TOKEN")

_given: set[str] = set()


def hide_in_logs(secret: str | SecretStr) -> None:
    """Have `***` written in the log for this secret, from now on: a password of a database, a key of another service.

    The tokens of the settings need no such call. A secret of fewer than 4 characters can't be told from other text: it is not
    hidden.
    """
    _given.add(secret.get_secret_value() if isinstance(secret, SecretStr) else secret)


def without_secrets(text: str) -> str:
    """Return a text with `***` for every secret that `hide_in_logs` was told of: for what leaves the process beside the log."""
    return _everywhere().hidden(text)


@cache
def _everywhere() -> Secrets:
    return Secrets(os.environ.get(name, "") for name in _VARIABLES)


def secrets_of(settings: Settings) -> set[str]:
    """Return every secret of the settings, and the tokens that the environment holds."""
    values = (getattr(settings, name) for name in type(settings).model_fields)
    found = {value.get_secret_value() for value in values if isinstance(value, SecretStr)}
    return found | {os.environ.get(name, "") for name in _VARIABLES}


class Secrets:
    """Finds and hides secrets, in the forms that they have within other text: as they are, in Python's repr, in a URL."""

    def __init__(self, values: Iterable[str]) -> None:
        self._own = frozenset(values)
        self._known = 0
        self._forms: tuple[str, ...] = ()
        self._written: tuple[str, ...] = ()
        self._learn()

    def in_text(self, text: str) -> bool:
        """Whether lines that are ready to be written have a secret in them. It is asked of every line: a search, and no more."""
        if len(_given) != self._known:
            self._learn()
        return any([form in text for form in self._written])  # noqa: C419 - a list is faster for the two that there are

    def without(self, line: Line) -> Line:
        """Return a line with its secrets hidden."""
        fields = plain(dict(line.fields), self._hide)
        error = {key: self._hide(text) for key, text in line.error.items()} if line.error is not None else None
        assert isinstance(fields, dict)  # noqa: S101 - for the type checker
        fields |= {name: line.fields[name] for name in _IDS if name in line.fields}
        return line._replace(
            logger=self._hide(line.logger), message=self._hide(line.message), fields=fields, error=error
        )

    def hidden(self, text: str) -> str:
        """Return a text with its secrets hidden."""
        if len(_given) != self._known:
            self._learn()
        return self._hide(text)

    def _hide(self, text: str) -> str:
        for form in self._forms:
            text = text.replace(form, HIDDEN)
        return text

    def _learn(self) -> None:
        self._known = len(_given)
        secrets = [each for each in {*self._own, *_given} if len(each) >= _SHORTEST]
        forms = {form for each in secrets for form in (each, repr(each)[1:-1], quote(each), quote(each, safe=""))}
        self._forms = tuple(sorted(forms, key=len, reverse=True))  # one that is part of another comes later
        written = {text for form in forms for text in (form, message_text(form), *_as_json(form))}
        self._written = tuple(sorted(written, key=len))


def _as_json(text: str) -> list[str]:
    """Return a text as it may stand in JSON: orjson's way, and the standard library's."""
    try:
        fast = [orjson.dumps(text).decode()[1:-1]]
    except TypeError:  # half of a character
        fast = []
    return [*fast, json.dumps(text)[1:-1]]
