"""What is wrong with a request's JSON, in the contract's own names: protobuf's parser tells it in those of its own code."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from google.protobuf import json_format
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message_factory import GetMessageClass

if TYPE_CHECKING:
    from google.protobuf.descriptor import Descriptor
    from google.protobuf.descriptor_pool import DescriptorPool

_LONGEST = 60
_NUMBER, _COUNT = "a whole number", "a positive whole number"
_EXPECTED = {
    FieldDescriptor.TYPE_BOOL: "true or false",
    FieldDescriptor.TYPE_STRING: "text",
    FieldDescriptor.TYPE_BYTES: "text in Base64",
    FieldDescriptor.TYPE_DOUBLE: "a number",
    FieldDescriptor.TYPE_FLOAT: "a number",
    **dict.fromkeys((FieldDescriptor.TYPE_UINT32, FieldDescriptor.TYPE_FIXED32), f"{_COUNT} of 32 bits"),
    **dict.fromkeys((FieldDescriptor.TYPE_UINT64, FieldDescriptor.TYPE_FIXED64), f"{_COUNT} of 64 bits"),
    **dict.fromkeys(
        (FieldDescriptor.TYPE_INT32, FieldDescriptor.TYPE_SINT32, FieldDescriptor.TYPE_SFIXED32),
        f"{_NUMBER} of 32 bits",
    ),
    **dict.fromkeys(
        (FieldDescriptor.TYPE_INT64, FieldDescriptor.TYPE_SINT64, FieldDescriptor.TYPE_SFIXED64),
        f"{_NUMBER} of 64 bits",
    ),
}
# Their JSON is not that of their fields.
_WELL_KNOWN = {
    "Any": 'an object with "@type"',
    "BoolValue": "true or false",
    "BytesValue": "text in Base64",
    "DoubleValue": "a number",
    "Duration": 'a duration such as "1.5s"',
    "FieldMask": 'names of fields such as "a,b.c"',
    "FloatValue": "a number",
    "Int32Value": f"{_NUMBER} of 32 bits",
    "Int64Value": f"{_NUMBER} of 64 bits",
    "ListValue": "a list",
    "StringValue": "text",
    "Struct": "an object",
    "Timestamp": 'a time such as "2026-01-31T12:00:00Z"',
    "UInt32Value": f"{_COUNT} of 32 bits",
    "UInt64Value": f"{_COUNT} of 64 bits",
    "Value": "any JSON",
}


class Explainer:
    """Looks for the first thing in a message's JSON that does not fit."""

    def __init__(self, pool: DescriptorPool) -> None:
        self._pool = pool

    def explain(self, name: str, text: str) -> str:
        """The problem in words, for a message type by its full name; "" where it is none of those that are looked for."""
        kind = self._pool.FindMessageTypeByName(name)
        try:
            value = json.loads(text)
        except ValueError as error:
            return f"the request is no {name}: it is no JSON: {error}"
        return self._message(kind, kind, value, "")

    def _message(self, root: Descriptor, kind: Descriptor, value: object, where: str) -> str:
        if kind.file.package == "google.protobuf" and kind.name in _WELL_KNOWN:
            return "" if self._fits(kind, value) else _wrong(root, where, _WELL_KNOWN[kind.name], value)
        if not isinstance(value, dict):
            return _wrong(root, where, "an object", value)
        fields = {name: field for field in kind.fields for name in (field.json_name, field.name)}
        for name, item in value.items():
            if name not in fields:
                return _unknown(kind, name, where)
            field = fields[name]
            problem = "" if item is None else self._field(root, field, item, f"{where}.{field.name}".lstrip("."))
            if problem:
                return problem
        return ""

    def _field(self, root: Descriptor, field: FieldDescriptor, value: object, where: str) -> str:
        items: list[tuple[str, object]]
        if field.message_type and field.message_type.GetOptions().map_entry:
            if not isinstance(value, dict):
                return _wrong(root, where, "an object", value)
            items = [(f"{where}[{json.dumps(key)}]", item) for key, item in value.items()]
            field = field.message_type.fields_by_name["value"]
        elif field.is_repeated:
            if not isinstance(value, list):
                return _wrong(root, where, "a list", value)
            items = [(f"{where}[{index}]", item) for index, item in enumerate(value)]
        else:
            items = [(where, value)]
        problems = (self._value(root, field, item, place) for place, item in items)
        return next((problem for problem in problems if problem), "")

    def _value(self, root: Descriptor, field: FieldDescriptor, value: object, where: str) -> str:
        if field.message_type:
            return self._message(root, field.message_type, value, where)
        if field.containing_type and self._fits(
            field.containing_type, {field.name: [value] if field.is_repeated else value}
        ):
            return ""
        if field.enum_type:
            names = ", ".join(member.name for member in field.enum_type.values)
            return _wrong(root, where, f"one of {names}", value)
        return _wrong(root, where, _EXPECTED.get(field.type, "something else"), value)

    def _fits(self, kind: Descriptor, value: object) -> bool:
        try:
            json_format.Parse(json.dumps(value), GetMessageClass(kind)(), descriptor_pool=self._pool)
        except json_format.ParseError:
            return False
        return True


def _unknown(kind: Descriptor, name: str, where: str) -> str:
    known = ", ".join(field.name for field in kind.fields)
    place = f" ({where})" if where else ""
    return f"no field {name!r} in {kind.full_name}{place}; there {f'are {known}' if known else 'is none'}"


def _wrong(root: Descriptor, where: str, expected: str, value: object) -> str:
    found = json.dumps(value, ensure_ascii=False)
    found = found if len(found) <= _LONGEST else f"{found[:_LONGEST]}…"
    place = f"{where}: " if where else ""
    return f"the request is no {root.full_name}: {place}expected {expected}, found {found}"
