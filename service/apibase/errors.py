"""The one family of errors, and the one table that turns them into gRPC status and topic status.

Whatever a handler raises ends here. Retryability is data on the error: callers, topics and clients all read the same flag.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc import code_pb2, error_details_pb2, status_pb2

from apibase.contract.reasons import Reason, chassis_reason
from dapr_contract.v1 import errors_pb2

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from google.protobuf.message import Message

_RETRYABLE_CODES = frozenset(
    {
        grpc.StatusCode.ABORTED,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.UNAVAILABLE,
    }
)
_MESSAGE_LENGTH = 1000
_DETAILS_SIZE = 4000
_INVALID_REQUEST = chassis_reason(errors_pb2.ERROR_REASON_INVALID_REQUEST)
_DROPPED = chassis_reason(errors_pb2.ERROR_REASON_DROPPED)


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """One field of a request that is wrong: its path (`lines[0].quantity`), what is wrong, and the rule's name."""

    field: str
    description: str
    rule: str = ""


class ServiceError(Exception):
    """An error that its caller may know of: it goes out as `code`, with `google.rpc` details.

    `reason` is the UPPER_SNAKE_CASE constant of the `ErrorInfo`, by contract one of an enum of reasons (`ErrorReasons` makes
    it of the enum's value); `metadata` its key-value pairs; `violations` become a `BadRequest`. `retryable` defaults to what
    the code means: ABORTED, DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED and UNAVAILABLE are worth another try; `retry_after`, in
    seconds, becomes a `RetryInfo`.

    Raises `TypeError` for the enum's value itself, which is a number.
    """

    def __init__(
        self,
        code: grpc.StatusCode,
        reason: str,
        message: str,
        *,
        metadata: Mapping[str, str] | None = None,
        violations: Sequence[FieldViolation] = (),
        retryable: bool | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        if not isinstance(reason, str):
            raise TypeError(f"the reason {reason!r} is no text; make it of the enum's value with ErrorReasons")
        self.code = code
        self.reason = reason
        self.message = message
        self.metadata = dict(metadata or {})
        self.violations = tuple(violations)
        self.retryable = code in _RETRYABLE_CODES if retryable is None else retryable
        self.retry_after = retry_after

    def __str__(self) -> str:
        return f"{self.code.name} {self.reason}: {self.message}"


class InvalidRequest(ServiceError):
    """A request that breaks the contract's rules: INVALID_ARGUMENT with every violation."""

    def __init__(self, violations: Sequence[FieldViolation], *, reason: str = _INVALID_REQUEST) -> None:
        summary = "; ".join(f"{violation.field}: {violation.description}" for violation in violations[:3])
        more = f" (and {len(violations) - 3} more)" if len(violations) > 3 else ""  # noqa: PLR2004 - as in the slice above
        super().__init__(grpc.StatusCode.INVALID_ARGUMENT, reason, f"{summary}{more}", violations=violations)


class SidecarError(ServiceError):
    """The sidecar answered a building-block call with an error; `component` names the component that it concerns."""

    def __init__(
        self, code: grpc.StatusCode, reason: str, message: str, *, component: str = "", retryable: bool | None = None
    ) -> None:
        super().__init__(
            code, reason, message, metadata={"component": component} if component else None, retryable=retryable
        )
        self.component = component


class SidecarUnavailable(SidecarError):
    """The sidecar can't be reached. Retryable: it may be starting or restarting."""

    def __init__(self, message: str) -> None:
        reason = chassis_reason(errors_pb2.ERROR_REASON_SIDECAR_UNAVAILABLE)
        super().__init__(grpc.StatusCode.UNAVAILABLE, reason, message, retryable=True)


class Conflict(SidecarError):
    """Somebody else wrote the key first: the etag given is stale, or the key exists already. Read again, then retry."""

    def __init__(self, key: str, *, component: str = "") -> None:
        super().__init__(
            grpc.StatusCode.ABORTED,
            chassis_reason(errors_pb2.ERROR_REASON_STATE_CONFLICT),
            f"the state under {key!r} has changed",
            component=component,
        )
        self.key = key


class Retry(Exception):
    """Raised by a listener: the event is to be delivered again. Becomes RETRY."""


class Drop(Exception):
    """Raised by a listener: the event can never be handled, and `reason` says why.

    It goes to the dead-letter topic with the reason and `code`, an UPPER_SNAKE_CASE constant for machines to count.
    """

    def __init__(self, reason: str, *, code: str = _DROPPED) -> None:
        super().__init__(reason)
        self.reason = reason
        self.code = code


class LeftToSidecar(Drop):
    """An event whose dead letter only daprd can write whole, as it came: one of the chassis would have a reason and no data."""


class TooLarge(LeftToSidecar):
    """The data of an event is more than the app takes, so more than it could publish."""

    def __init__(self, size: int) -> None:
        code = chassis_reason(errors_pb2.ERROR_REASON_TOO_LARGE)
        super().__init__(f"the data has {size} bytes, more than APIBASE_MAX_MESSAGE_BYTES allows", code=code)


def too_large_request(size: int, limit: int) -> ServiceError:
    """Return what the caller of a request is told that has more bytes than the limit; the same one would never pass."""
    return ServiceError(
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        chassis_reason(errors_pb2.ERROR_REASON_MESSAGE_TOO_LARGE),
        f"the message has {size} bytes, this app takes {limit}",
        retryable=False,
    )


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
    if code in _RETRYABLE_CODES:
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
