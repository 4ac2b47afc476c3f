"""How Dapr's API fails: a status, and the `ErrorInfo` that daprd sends with it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc import code_pb2, error_details_pb2, status_pb2

if TYPE_CHECKING:
    from collections.abc import Mapping

    import grpc

_DOMAIN = "dapr.io"
_DETAILS = "grpc-status-details-bin"


class ApiError(Exception):
    """Raised by an operation: its caller gets this status. `reason` is Dapr's constant; without one there are no details."""

    def __init__(
        self, code: grpc.StatusCode, message: str, reason: str = "", metadata: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.reason = reason
        self.metadata = dict(metadata or {})

    @property
    def trailing_metadata(self) -> tuple[tuple[str, bytes], ...]:
        """The details, as gRPC carries them."""
        if not self.reason:
            return ()
        info = AnyMessage()
        info.Pack(error_details_pb2.ErrorInfo(reason=self.reason, domain=_DOMAIN, metadata=self.metadata))
        status = status_pb2.Status(code=code_pb2.Code.Value(self.code.name), message=self.message, details=[info])
        return ((_DETAILS, status.SerializeToString()),)
