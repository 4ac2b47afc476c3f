"""A secret's text, in a value that shows itself to nobody but who asks for it by `reveal()`."""

from __future__ import annotations

import hmac
from typing import TYPE_CHECKING, Any, NoReturn, Self, final

from pydantic_core import core_schema

from apibase.observability.log_secrets import HIDDEN, hide_in_logs

if TYPE_CHECKING:
    from pydantic import GetCoreSchemaHandler


@final
class SecretValue:
    """A secret. `reveal()` gives its text; whatever else is done with the value gives `***` or raises `TypeError`.

    Printed, formatted, logged or in a traceback it is `***`, and so it is in the JSON of a pydantic model, which can have it as a field and
    reads it from text. It can't be pickled or written by `json`; a copy of it is itself. Two are compared in constant time, and a
    secret is never equal to a text. From when it is made, the log has `***` where its text would stand, even if somebody logs that.
    """

    __slots__ = ("__text",)

    def __init__(self, text: str) -> None:
        if not isinstance(text, str):
            raise TypeError(f"a secret is text, not {type(text).__name__}")
        hide_in_logs(text)
        self.__text = text

    def reveal(self) -> str:
        """Return the text: keep it no longer than it takes to use it."""
        return self.__text

    def __repr__(self) -> str:
        return f"SecretValue({HIDDEN})"

    def __str__(self) -> str:
        return HIDDEN

    def __format__(self, spec: str) -> str:
        return HIDDEN

    def __bool__(self) -> bool:
        return bool(self.__text)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, SecretValue):
            return NotImplemented
        return hmac.compare_digest(_bytes(self.__text), _bytes(other.__text))

    def __hash__(self) -> int:
        return hash((SecretValue, self.__text))

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, _memo: dict[int, Any]) -> Self:
        return self

    def __getstate__(self) -> NoReturn:
        raise TypeError("a secret is not pickled; reveal() gives its text")

    def __reduce_ex__(self, _protocol: object) -> NoReturn:
        self.__getstate__()

    @classmethod
    def __get_pydantic_core_schema__(cls, _source: object, _handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        from_text = core_schema.no_info_after_validator_function(cls, core_schema.str_schema())
        return core_schema.json_or_python_schema(
            json_schema=from_text,
            python_schema=core_schema.union_schema([core_schema.is_instance_schema(cls), from_text]),
            serialization=core_schema.plain_serializer_function_ser_schema(str, when_used="json"),
        )


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
