"""What Go's own packages say of broken input, in their words: callers of daprd see them."""

from __future__ import annotations

import json


def json_problem(text: str | bytes) -> str:
    """Return what `encoding/json` says of a text that is no JSON."""
    given = text.decode(errors="replace") if isinstance(text, bytes) else text
    try:
        json.loads(given)
    except json.JSONDecodeError as error:
        if error.pos >= len(given.rstrip()):
            return "unexpected end of JSON input"
        character = given[error.pos]
        if "property name" in error.msg:
            return f"invalid character '{character}' looking for beginning of object key string"
        if "Extra data" in error.msg:
            return f"invalid character '{character}' after top-level value"
        if "delimiter" in error.msg:
            return f"invalid character '{character}' after object key:value pair"
        return f"invalid character '{character}' looking for beginning of value"
    return ""
