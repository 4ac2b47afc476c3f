"""Values of a building block as they are kept: messages of a contract and pydantic models as JSON, text and bytes as they are."""

from __future__ import annotations

import re
from functools import cache
from typing import Any, TypeAlias, TypeVar

from google.protobuf import json_format
from google.protobuf.message import Message
from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic_core import to_json

from apibase.message_json import NoObject, from_json

JSON = "application/json"
TEXT = "text/plain; charset=utf-8"
BYTES = "application/octet-stream"

Value: TypeAlias = Message | BaseModel | dict[str, Any] | list[Any] | str | bytes | int | float | bool | None
"""What can be kept. A `str` is text, not JSON's string; everything else but `bytes` is JSON."""

V = TypeVar("V")


def encode(value: Value) -> tuple[bytes, str]:
    """Return a value's bytes and their content type. Raises `TypeError` for what is none."""
    match value:
        case bytes():
            return value, BYTES
        case str():
            return value.encode(), TEXT
        case Message():
            return json_format.MessageToJson(value, indent=None).encode(), JSON
        case BaseModel():
            return value.model_dump_json().encode(), JSON
        case None | bool() | int() | float() | dict() | list():
            return to_json(value), JSON
        case _:
            raise TypeError(
                f"{type(value).__name__} can't be kept; give a message of a contract, a pydantic model, text, bytes or JSON"
            )


def decode(data: bytes, kind: type[V]) -> V:
    """Return the value of `kind` that `data` holds. Raises `ValueError`, which quotes nothing of it, where it holds none."""
    if kind is bytes:
        return data  # type: ignore[return-value]
    try:
        if kind is str:
            return data.decode()  # type: ignore[return-value]
        if isinstance(kind, type) and issubclass(kind, Message):
            return from_json(data, kind)
        value: V = _adapter(kind).validate_json(data)  # type: ignore[arg-type]
    except ValueError as error:
        problem = _problem(error)
    else:
        return value
    # Out here, so that not even its context is the parser's error, which has the data.
    raise ValueError(problem)


def name_of(kind: object) -> str:
    """Return what a kind of value is called, for messages: a contract's message by its full name."""
    if isinstance(kind, type) and issubclass(kind, Message):
        return str(kind.DESCRIPTOR.full_name)
    return getattr(kind, "__name__", str(kind))


def _problem(error: ValueError) -> str:
    """Return what a parser's error says, without what it quotes."""
    match error:
        case ValidationError():
            found = error.errors(include_input=False)
            return "; ".join(f"{'.'.join(map(str, each['loc'])) or '(value)'}: {each['msg']}" for each in found)
        case NoObject():
            return str(error)
        case UnicodeDecodeError():
            return "no UTF-8"
        case _:
            path, text = [], str(error)
            while (field := _FIELD.match(text)) is not None:
                path.append(field[1])
                text = text[field.end() :]
            return f"{'.'.join(path)}: not of the field's type" if path else "no JSON of it"


_FIELD = re.compile(r"Failed to parse (\S+) field: ")  # of protobuf's own text, which goes on with the value


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:  # noqa: ANN401 - whatever pydantic reads
    return TypeAdapter(kind)
