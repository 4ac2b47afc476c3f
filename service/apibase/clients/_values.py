"""Values of a building block as they are kept: messages of a contract and pydantic models as JSON, text and bytes as they are."""

from __future__ import annotations

from functools import cache
from typing import Any, TypeAlias, TypeVar

from google.protobuf import json_format
from google.protobuf.message import Message
from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic_core import to_json

from apibase.message_json import from_json

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
    """Return the value of `kind` that `data` holds. Raises `ValueError` where it holds none."""
    if kind is bytes:
        return data  # type: ignore[return-value]
    if kind is str:
        return data.decode()  # type: ignore[return-value]
    if isinstance(kind, type) and issubclass(kind, Message):
        return from_json(data, kind)
    try:
        value: V = _adapter(kind).validate_json(data)  # type: ignore[arg-type]
    except ValidationError as error:
        # Not pydantic's own text, which quotes what it was given.
        problems = (f"{'.'.join(map(str, each['loc'])) or '(value)'}: {each['msg']}" for each in error.errors())
        raise ValueError("; ".join(problems)) from None
    return value


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:  # noqa: ANN401 - whatever pydantic reads
    return TypeAdapter(kind)
