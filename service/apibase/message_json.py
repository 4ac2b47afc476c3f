"""JSON from outside, read as a message of a contract."""

from __future__ import annotations

from typing import TypeVar

from google.protobuf import json_format
from google.protobuf.message import Message

M = TypeVar("M", bound=Message)


class NoObject(ValueError):
    """There is no data, or it is no JSON object; says nothing of what it is."""


def from_json(data: bytes, message: type[M]) -> M:
    """Return the message that `data` holds; fields that this version of the contract doesn't know are passed over.

    Raises `ValueError` when it holds none, in json_format's words, which quote it, or `NoObject`. A list or a string is none:
    json_format, told to ignore unknown fields, would take it for an empty message.
    """
    if not data.lstrip().startswith(b"{") and not message.DESCRIPTOR.full_name.startswith("google.protobuf."):
        raise NoObject("the JSON is no object" if data else "there is no data")
    try:
        return json_format.Parse(data, message(), ignore_unknown_fields=True)
    except json_format.ParseError as error:
        raise ValueError(str(error)) from error
