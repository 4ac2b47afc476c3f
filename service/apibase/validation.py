"""The contract's own rules (`buf.validate`), checked on every message that comes in."""

from __future__ import annotations

from typing import TYPE_CHECKING

from protovalidate import Validator

from apibase.errors import FieldViolation, InvalidRequest

if TYPE_CHECKING:
    from google.protobuf.message import Message
    from protovalidate import FieldPathPb

_validator = Validator()


def validate(message: Message) -> None:
    """Raise `InvalidRequest` with every violation when `message` breaks a rule of its contract."""
    violations = _validator.collect_violations(message)
    if violations:
        raise InvalidRequest(
            [
                FieldViolation(
                    field=_path(violation.proto.field),
                    description=violation.proto.message or f"breaks the rule {violation.proto.rule_id}",
                    rule=violation.proto.rule_id,
                )
                for violation in violations
            ]
        )


def _path(path: FieldPathPb | None) -> str:
    """Return a field path as people write it: `lines[0].quantity`, `labels["a"]`."""
    text = ""
    for element in path.elements if path is not None else ():
        text += f".{element.field_name}" if text else element.field_name
        subscript = element.subscript
        if subscript is None:
            continue
        text += f'["{subscript.value}"]' if isinstance(subscript.value, str) else f"[{subscript.value}]"
    return text or "(message)"
