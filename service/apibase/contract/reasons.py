"""Reasons of errors: each is a value of an enum of a contract, so that callers can list, compare and document them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Generic, TypeVar

from apibase.contract.positions import line_of
from dapr_contract.v1 import errors_pb2

if TYPE_CHECKING:
    from google.protobuf.internal.enum_type_wrapper import _EnumTypeWrapper

V = TypeVar("V", bound=int)

_WORDS = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


class Reason(str):
    """The constant of an `ErrorInfo`, such as `ORDER_NOT_FOUND`."""

    __slots__ = ("domain",)

    domain: str
    """The proto package of the enum that the reason is a value of. Domain and reason together name one value."""


class ErrorReasons(Generic[V]):
    """The reasons of an enum of a contract. Called with one of its values, it returns the constant for a `ServiceError`.

    ```python
    reason = ErrorReasons(OrderErrorReason)
    ServiceError(grpc.StatusCode.NOT_FOUND, reason(ORDER_ERROR_REASON_ORDER_NOT_FOUND), "there is no such order")
    ```

    The constant is the value's name without the enum's own (`ORDER_ERROR_REASON_`). A type checker knows which values the
    enum has, and takes neither another enum's nor a number.
    """

    def __init__(self, enum: _EnumTypeWrapper[V]) -> None:
        self._enum = enum.DESCRIPTOR
        prefix = _WORDS.sub("_", self._enum.name).upper() + "_"
        self._reasons: dict[int, Reason] = {}
        for value in self._enum.values:
            reason = Reason(value.name.removeprefix(prefix))
            reason.domain = self._enum.file.package
            self._reasons[value.number] = reason

    def __call__(self, value: V) -> Reason:
        """Return the constant of a value. Raises `ValueError` for a number that the enum has not, and for 0, which says nothing."""
        if not value or value not in self._reasons:
            known = ", ".join(f"{number} {reason}" for number, reason in self._reasons.items() if number)
            raise ValueError(f"{self._place()} has no reason {value!r}; it has {known}")
        return self._reasons[value]

    def _place(self) -> str:
        file = self._enum.file
        line = line_of(file, self._enum.full_name)
        return f"{file.name}{f':{line}' if line else ''}: {self._enum.full_name}"


chassis_reason = ErrorReasons(errors_pb2.ErrorReason)
"""The reasons of the chassis itself."""
