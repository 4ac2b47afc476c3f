"""Output bindings: operations of a system outside, by the name of the component that speaks to it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

import grpc
from dapr.proto import api_v1

from apibase.clients._values import decode, encode, name_of
from apibase.contract.reasons import chassis_reason
from apibase.errors import NotSupported, SidecarError
from dapr_contract.v1 import errors_pb2

if TYPE_CHECKING:
    from collections.abc import Mapping

    from apibase.clients._transport import Sidecar
    from apibase.clients._values import Value

V = TypeVar("V")


@dataclass(frozen=True, slots=True)
class BindingResponse:
    """What an operation answered: its data as it came, and the component's metadata."""

    name: str
    data: bytes = field(repr=False)
    metadata: Mapping[str, str]

    def decode(self, kind: type[V]) -> V:
        """Return the data as a message, model, text or JSON. Raises `SidecarError` (DATA_LOSS) where it is none."""
        try:
            return decode(self.data, kind)
        except ValueError as error:
            raise SidecarError(
                grpc.StatusCode.DATA_LOSS,
                chassis_reason(errors_pb2.ERROR_REASON_SIDECAR_ERROR),
                f"the answer of the binding is no {name_of(kind)}: {error}",
                component=self.name,
            ) from error


class BindingsClient:
    """One output binding. Which operations it has, and which metadata they take, is the component's: Dapr's reference lists them."""

    def __init__(self, sidecar: Sidecar, name: str) -> None:
        self._sidecar = sidecar
        self.name = name

    async def invoke(
        self, operation: str, data: Value = b"", *, metadata: Mapping[str, str] | None = None
    ) -> BindingResponse:
        """Have the binding do an operation (`create`, `get`, `delete`, `list` with most; `post` and others with `bindings.http`).

        Bytes and text go out as they are, everything else as JSON. It is not tried again: an operation may not be made twice, and
        after `SidecarUnavailable` or a deadline it may have been. Raises `NotSupported` for an operation that the component doesn't
        have, `SidecarError` for a component that is not loaded (COMPONENT_NOT_FOUND) or fails.
        """
        request = api_v1.InvokeBindingRequest(
            name=self.name, operation=operation, data=encode(data)[0], metadata=dict(metadata or {})
        )
        try:
            answer = await self._sidecar.call(lambda: self._sidecar.stub.InvokeBinding(request), component=self.name)
        except SidecarError as error:
            # daprd says all that goes wrong with a binding as INTERNAL.
            if f"binding {self.name} does not support operation" in error.message:
                raise NotSupported(self.name, f"the operation {operation!r}") from error
            if f"couldn't find output binding {self.name}" in error.message:
                await self._sidecar.component(self.name)
                raise NotSupported(self.name, "output", "it is an input binding") from error
            raise
        return BindingResponse(self.name, answer.data, dict(answer.metadata))
