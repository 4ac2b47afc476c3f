"""HTTP statuses as gRPC's, and back from what daprd says of a call that did not get through."""

from __future__ import annotations

import json
import re

import grpc

from apibase.contract.reasons import chassis_reason
from apibase.errors import SidecarError
from dapr_contract.v1 import errors_pb2

_OK_BELOW = 400
_SERVER_ERRORS = 500
_CODES = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    408: grpc.StatusCode.DEADLINE_EXCEEDED,
    409: grpc.StatusCode.ALREADY_EXISTS,
    412: grpc.StatusCode.FAILED_PRECONDITION,
    416: grpc.StatusCode.OUT_OF_RANGE,
    422: grpc.StatusCode.INVALID_ARGUMENT,
    425: grpc.StatusCode.UNAVAILABLE,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    499: grpc.StatusCode.CANCELLED,
    500: grpc.StatusCode.INTERNAL,
    501: grpc.StatusCode.UNIMPLEMENTED,
    502: grpc.StatusCode.UNAVAILABLE,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
}
_INNER_CODE = re.compile(r"rpc error: code = (\w+) desc = ")
_INNER_CODES = {
    "PermissionDenied": grpc.StatusCode.PERMISSION_DENIED,
    "InvalidArgument": grpc.StatusCode.INVALID_ARGUMENT,
    "DeadlineExceeded": grpc.StatusCode.DEADLINE_EXCEEDED,
    "ResourceExhausted": grpc.StatusCode.RESOURCE_EXHAUSTED,
}
_DIRECT_INVOKE = "ERR_DIRECT_INVOKE"
_TOKEN_REFUSED = "invalid api token"  # noqa: S105 - what daprd says


def code_of(status: int) -> grpc.StatusCode:
    """Return the gRPC status that an HTTP status means; OK for all that is no error, redirects included."""
    if status < _OK_BELOW:
        return grpc.StatusCode.OK
    general = grpc.StatusCode.FAILED_PRECONDITION if status < _SERVER_ERRORS else grpc.StatusCode.UNKNOWN
    return _CODES.get(status, general)


def not_through(app_id: str, message: str) -> SidecarError | None:
    """Return the error of a call that daprd could not take to the app, by what it says; None where that is the app's own word.

    It is UNAVAILABLE, unless daprd names a cause that no waiting mends: such as an access control policy.
    """
    start = f"failed to invoke, id: {app_id}, err: "
    if not message.startswith(start) and message != "invoke API is not ready":
        return None
    inner = _INNER_CODE.search(message)
    code = _INNER_CODES.get(inner[1] if inner else "", grpc.StatusCode.UNAVAILABLE)
    if message.endswith("context deadline exceeded"):
        code = grpc.StatusCode.DEADLINE_EXCEEDED
    return SidecarError(
        code,
        chassis_reason(errors_pb2.ERROR_REASON_SIDECAR_ERROR),
        f"the call did not get through to {app_id!r}: {message.removeprefix(start)}",
        component=app_id,
        dapr_code=_DIRECT_INVOKE,
    )


def sidecar_said(app_id: str, status: int, content_type: str, body: bytes) -> SidecarError | None:
    """Return the error where an answer over HTTP is daprd's own and not the app's: the app was not reached, or the token is refused."""
    if status == 401 and body.strip() == _TOKEN_REFUSED.encode():  # noqa: PLR2004 - as in the table
        return SidecarError(
            grpc.StatusCode.UNAUTHENTICATED,
            chassis_reason(errors_pb2.ERROR_REASON_SIDECAR_TOKEN_REFUSED),
            "the sidecar refused the call; is DAPR_API_TOKEN the sidecar's?",
        )
    if content_type.partition(";")[0].strip() != "application/json":
        return None
    try:
        told = json.loads(body)
    except ValueError:
        return None
    if not isinstance(told, dict) or told.get("errorCode") != _DIRECT_INVOKE:
        return None
    return not_through(app_id, str(told.get("message")))
