"""The schema of log lines, as an independent validator reads it."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any

import fastjsonschema

SCHEMA: dict[str, Any] = json.loads(
    (files("apibase.observability") / "log_line.schema.json").read_text(encoding="utf-8")
)
_validate = fastjsonschema.compile(SCHEMA)


def valid_line(text: str) -> dict[str, Any]:
    """Return a line that the schema allows; raise `JsonSchemaException` for any other."""
    return _validate(json.loads(text))
