"""What stands in the details of a gRPC status, `google.rpc.Status`, read leniently: they come from whoever answered."""

from __future__ import annotations

from typing import TYPE_CHECKING

from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

if TYPE_CHECKING:
    import grpc

_DETAILS = "grpc-status-details-bin"


def details_of(error: grpc.aio.AioRpcError) -> status_pb2.Status | None:
    """Return the details, or None where there are none, or none that can be read.

    That they say another code or text than the status is passed over: the status holds.
    """
    for key, value in error.trailing_metadata() or ():
        if key == _DETAILS and isinstance(value, bytes):
            try:
                return status_pb2.Status.FromString(value)
            except DecodeError:
                return None
    return None


def reason_of(status: status_pb2.Status | None) -> str:
    """Return the reason of the first `ErrorInfo` that can be read; empty where there is none."""
    info = error_details_pb2.ErrorInfo()
    for detail in status.details if status is not None else ():
        try:
            if detail.Unpack(info):
                return str(info.reason)
        except DecodeError:
            continue
    return ""
