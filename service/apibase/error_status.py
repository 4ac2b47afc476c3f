"""The one table that turns errors into a gRPC status with `google.rpc` details."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc import code_pb2, error_details_pb2, status_pb2

from apibase.contract.reasons import Reason, chassis_reason
from apibase.errors import RETRYABLE_CODES, ServiceError, SidecarError
from dapr_contract.v1 import errors_pb2

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from google.protobuf.message import Message

    from apibase.errors import FieldViolation

_MESSAGE_LENGTH = 1000
_DETAILS_SIZE = 4000


def public_error(error: BaseException) -> ServiceError:
    """Return what a caller is told of `error`.

    A service's own `ServiceError` goes out as it is. What failed behind the service (the sidecar, a component, another
    app) keeps its code only where that says that another try is worth it; all else is INTERNAL. Neither carries inner
    text: metadata and message have an id, under which the service's log has it.
    """
    if isinstance(error, ServiceError) and not isinstance(error, SidecarError):
        return error
    error_id = uuid.uuid4().hex[:16]
    log = f"the service's log has the details under {error_id}"
    metadata = {"error_id": error_id}
    internal = chassis_reason(errors_pb2.ERROR_REASON_INTERNAL)
    code = grpc.StatusCode.INTERNAL
    reason: str = internal
    if isinstance(error, SidecarError):
        code, reason = error.code, error.reason
    elif isinstance(error, grpc.aio.AioRpcError):
        code, reason = error.code(), chassis_reason(errors_pb2.ERROR_REASON_UPSTREAM_ERROR)
    if code in RETRYABLE_CODES:
        return ServiceError(code, reason, f"something that the service needs failed; {log}", metadata=metadata)
    return ServiceError(grpc.StatusCode.INTERNAL, internal, f"internal error; {log}", metadata=metadata)


def to_status(error: ServiceError, *, domain: str) -> status_pb2.Status:
    """Return the `google.rpc.Status` of an error.

    The `ErrorInfo`'s domain is the proto package of the enum that the reason is of, so domain and reason name one value,
    whichever service was called. `domain`, by habit the service's package, is that of a reason which is plain text.

    A status travels in HTTP/2 headers, which peers limit (gRPC to 8 KiB by default, and kills the call beyond): the
    message is cut at 1,000 bytes as gRPC writes it, and of metadata and violations those are told that fit into 4,000 bytes.
    """
    if isinstance(error.reason, Reason):
        domain = error.reason.domain
    metadata = _metadata(error.metadata)
    info = error_details_pb2.ErrorInfo(reason=error.reason, domain=domain, metadata=metadata)
    details: list[Message] = [info]
    if error.retry_after is not None:
        wait = error_details_pb2.RetryInfo()
        wait.retry_delay.FromNanoseconds(max(round(error.retry_after * 1e9), 0))
        details.append(wait)
    if error.violations:
        details.append(_bad_request(error.violations, _DETAILS_SIZE - _size(metadata)))
    packed = []
    for detail in details:
        any_message = AnyMessage()
        any_message.Pack(detail)
        packed.append(any_message)
    return status_pb2.Status(code=code_pb2.Code.Value(error.code.name), message=_cut(error.message), details=packed)


def _cut(message: str) -> str:
    """Return as much of a message as takes 1,000 bytes of a header, where any but ASCII is written as %XX."""
    message = _encodable(message)
    size = 0
    for index, character in enumerate(message):
        size += 1 if " " <= character <= "~" and character != "%" else 3 * len(character.encode())
        if size > _MESSAGE_LENGTH:
            return f"{message[: index - 1]}…"
    return message


def _encodable(value: object) -> str:
    """Return a text without halves of characters, which no message can have."""
    return str(value).encode(errors="replace").decode()


def _metadata(given: Mapping[str, str]) -> dict[str, str]:
    """Return the pairs that fit."""
    fitting: dict[str, str] = {}
    for key, value in given.items():
        pair = {_encodable(key): _encodable(value)}
        if _size(fitting | pair) <= _DETAILS_SIZE:
            fitting |= pair
    return fitting


def _size(metadata: Mapping[str, str]) -> int:
    return sum(len(key.encode()) + len(value.encode()) for key, value in metadata.items())


def _bad_request(violations: Sequence[FieldViolation], most: int) -> error_details_pb2.BadRequest:
    """Return the violations, as many as fit into `most` bytes."""
    bad_request = error_details_pb2.BadRequest()
    size = 0
    for violation in violations:
        told = error_details_pb2.BadRequest.FieldViolation(
            field=_encodable(violation.field),
            description=_encodable(violation.description),
            reason=_encodable(violation.rule),
        )
        size += told.ByteSize()
        if size > most:
            break
        bad_request.field_violations.append(told)
    return bad_request
