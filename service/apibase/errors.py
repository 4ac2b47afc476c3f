"""The one family of errors.

Whatever a handler or a client raises is of it. Retryability is data on the error: callers, topics and clients all read the same flag.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import grpc

from apibase.contract.reasons import chassis_reason
from dapr_contract.v1 import errors_pb2

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

RETRYABLE_CODES = frozenset(
    {
        grpc.StatusCode.ABORTED,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.UNAVAILABLE,
    }
)
"""What another try is worth it for."""
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
        self.retryable = code in RETRYABLE_CODES if retryable is None else retryable
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
    """The sidecar answered a building-block call with an error.

    `component` names the component that it concerns; `dapr_code` is Dapr's own error code, such as DAPR_STATE_NOT_FOUND, where it gives one
    (https://docs.dapr.io/reference/errors/).
    """

    def __init__(
        self,
        code: grpc.StatusCode,
        reason: str,
        message: str,
        *,
        component: str = "",
        retryable: bool | None = None,
        dapr_code: str = "",
    ) -> None:
        super().__init__(
            code, reason, message, metadata={"component": component} if component else None, retryable=retryable
        )
        self.component = component
        self.dapr_code = dapr_code


class SidecarUnavailable(SidecarError):
    """The sidecar can't be reached. Retryable: it may be starting or restarting."""

    def __init__(self, message: str) -> None:
        reason = chassis_reason(errors_pb2.ERROR_REASON_SIDECAR_UNAVAILABLE)
        super().__init__(grpc.StatusCode.UNAVAILABLE, reason, message, retryable=True)


class NotSupported(SidecarError):
    """A component can't do what was asked for, such as a query, or not as it was asked for, such as a transaction that rolls back."""

    def __init__(self, component: str, feature: str, why: str = "") -> None:
        super().__init__(
            grpc.StatusCode.UNIMPLEMENTED,
            chassis_reason(errors_pb2.ERROR_REASON_NOT_SUPPORTED),
            f"{component!r} does not support {feature}{f': {why}' if why else ''}",
            component=component,
        )
        self.feature = feature


class Conflict(SidecarError):
    """Somebody else wrote the key first: the etag given is stale, or the key exists already. Read again, then retry.

    `key` is empty for a transaction of which can't be told whose key it was.
    """

    def __init__(self, key: str, *, component: str = "") -> None:
        super().__init__(
            grpc.StatusCode.ABORTED,
            chassis_reason(errors_pb2.ERROR_REASON_STATE_CONFLICT),
            f"the state under {key!r} has changed" if key else "the state under one of the keys has changed",
            component=component,
        )
        self.key = key


class LockNotAcquired(SidecarError):
    """Somebody else holds the lock on `resource`."""

    def __init__(self, resource: str, *, component: str = "") -> None:
        super().__init__(
            grpc.StatusCode.ABORTED,
            chassis_reason(errors_pb2.ERROR_REASON_LOCK_NOT_ACQUIRED),
            f"somebody else holds the lock on {resource!r}",
            component=component,
        )
        self.resource = resource


class LockLost(SidecarError):
    """The lock on `resource` was held, and is not any more: what was done under it may have met what others did."""

    def __init__(self, resource: str, *, component: str = "") -> None:
        super().__init__(
            grpc.StatusCode.ABORTED,
            chassis_reason(errors_pb2.ERROR_REASON_LOCK_LOST),
            f"the lease of the lock on {resource!r} is over",
            component=component,
        )
        self.resource = resource


class CalleeError(SidecarError):
    """The app `app_id` answered a call with an error: `code` is its gRPC status, or what its HTTP status means.

    `http_status` is None for gRPC; `callee_reason` is the reason of the `ErrorInfo` that it gave, if it did.
    """

    def __init__(
        self,
        app_id: str,
        code: grpc.StatusCode,
        message: str,
        *,
        http_status: int | None = None,
        callee_reason: str = "",
        retry_after: float | None = None,
    ) -> None:
        super().__init__(code, chassis_reason(errors_pb2.ERROR_REASON_UPSTREAM_ERROR), message, component=app_id)
        self.app_id = app_id
        self.http_status = http_status
        self.callee_reason = callee_reason
        self.retry_after = retry_after


class SecretNotFoundError(SidecarError):
    """The secret store has no secret `name`, or the secret has no `key`."""

    def __init__(self, name: str, *, component: str = "", key: str | None = None) -> None:
        what = f"no secret {name!r}" if key is None else f"no key {key!r} in the secret {name!r}"
        super().__init__(
            grpc.StatusCode.NOT_FOUND,
            chassis_reason(errors_pb2.ERROR_REASON_SECRET_NOT_FOUND),
            f"the secret store {component!r} has {what}",
            component=component,
        )
        self.name = name
        self.key = key


class SecretStoreUnavailable(SidecarError):
    """The sidecar answers, the secret store behind it does not. Retryable; the sidecar's resiliency policies had their tries already."""

    def __init__(self, component: str, why: str) -> None:
        reason = chassis_reason(errors_pb2.ERROR_REASON_SECRET_STORE_UNAVAILABLE)
        text = f"the secret store {component!r} does not answer: {why}"
        super().__init__(grpc.StatusCode.UNAVAILABLE, reason, text, component=component, retryable=True)


class ConfigurationMissing(SidecarError):
    """No configuration store has a value for `key`, and it has no default. `why` says which stores could not be read."""

    def __init__(self, key: str, stores: Sequence[str], why: str = "") -> None:
        super().__init__(
            grpc.StatusCode.FAILED_PRECONDITION,
            chassis_reason(errors_pb2.ERROR_REASON_CONFIGURATION_MISSING),
            f"the configuration key {key!r} has no default and no value in {', '.join(stores) or 'any store'}{f': {why}' if why else ''}",
            component=", ".join(stores),
        )
        self.key = key


class ConfigurationInvalid(SidecarError):
    """The value of `key` in a configuration store is not of the key's type; `problem` says why, without the value."""

    def __init__(self, key: str, store: str, problem: str) -> None:
        super().__init__(
            grpc.StatusCode.FAILED_PRECONDITION,
            chassis_reason(errors_pb2.ERROR_REASON_CONFIGURATION_INVALID),
            f"the configuration key {key!r} in {store!r} is invalid: {problem}",
            component=store,
        )
        self.key = key
        self.problem = problem


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
