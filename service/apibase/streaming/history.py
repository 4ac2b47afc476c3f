"""What a streaming subscription asks for, and what it met since: told once when its stream goes, and once when one is back."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import grpc
from loguru import logger

from apibase.contract.reasons import chassis_reason
from apibase.errors import SidecarError, SidecarUnavailable
from apibase.streaming.stream import StreamEnded
from dapr_contract.v1 import errors_pb2

if TYPE_CHECKING:
    from collections.abc import Mapping

_SIDECAR_ERROR = chassis_reason(errors_pb2.ERROR_REASON_SIDECAR_ERROR)
_FINAL_CODES = frozenset(
    {
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.NOT_FOUND,
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.UNAUTHENTICATED,
        grpc.StatusCode.UNIMPLEMENTED,
    }
)


@dataclass(frozen=True, slots=True)
class StreamRequest:
    """What daprd is asked for. `concurrency` is the most handlers at once, `handler_timeout` what each has, in seconds."""

    pubsub_name: str
    topic: str
    dead_letter_topic: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)
    concurrency: int = 16
    handler_timeout: float | None = None

    def __post_init__(self) -> None:
        if not self.pubsub_name or not self.topic:
            raise ValueError(f"{self} has no {'topic' if self.pubsub_name else 'pub/sub'}: its name is empty")
        if self.concurrency < 1:
            raise ValueError(f"{self} has concurrency {self.concurrency}, so that nothing would be handled")
        if self.handler_timeout is not None and not self.handler_timeout > 0:
            raise ValueError(f"{self} has handler timeout {self.handler_timeout:g} s, so that nothing would be handled")

    def __str__(self) -> str:
        return f"the streaming subscription to topic {self.topic!r} of {self.pubsub_name!r}"


class StreamHistory:
    """Remembers a subscription's streams."""

    def __init__(self, request: StreamRequest) -> None:
        self.was_open = False
        self.reconnects = 0
        self.last_error: SidecarError | None = None
        self._request = request
        self._away_since = 0.0
        self._told: set[grpc.StatusCode] = set()

    @property
    def is_away(self) -> bool:
        """Whether a stream was lost, or could not be opened, since one was open."""
        return bool(self._told)

    def opened(self) -> None:
        """Remember and tell that a stream is open."""
        if self.is_away:
            logger.info("{} is {} after {:.1f} s", self._request, self._back, time.monotonic() - self._away_since)
        else:
            logger.info("{} is open", self._request)
        self.reconnects += self.was_open
        self.was_open = True
        self._told.clear()

    def lost(self, error: SidecarError) -> None:
        """Remember and tell why there is no stream: once, and once more where it turns out that waiting does not mend it."""
        self.last_error = error
        if not self.is_away:
            self._away_since = time.monotonic()
        if not self.is_away or (is_final(error) and error.code not in self._told):
            logger.warning(
                "{} {}, and is tried again until it is {}: {}",
                self._request,
                "is lost" if self.was_open else "can't be opened",
                self._back,
                error.message,
            )
        self._told.add(error.code)

    def named(self, error: SidecarError, what: str) -> SidecarError:
        """Return an error that says which subscription it concerns."""
        message = f"{self._request} {what}: {error.message}"
        if isinstance(error, SidecarUnavailable):
            return SidecarUnavailable(message)
        return SidecarError(error.code, error.reason, message, component=self._request.pubsub_name)

    @property
    def _back(self) -> str:
        return "back" if self.was_open else "open"


def is_final(error: SidecarError) -> bool:
    """Whether it is for somebody to mend, not for time."""
    # daprd answers INVALID_ARGUMENT also while it shuts down, and UNKNOWN where scopes forbid the topic.
    if "subscriber is closed" in error.message:
        return False
    return error.code in _FINAL_CODES or "is not allowed" in error.message


def as_sidecar_error(error: grpc.aio.AioRpcError | StreamEnded, *, component: str) -> SidecarError:
    """Return why there is no stream, as the rest of the chassis has it."""
    if isinstance(error, StreamEnded):
        return SidecarUnavailable(str(error))
    details = error.details() or error.code().name
    if error.code() is grpc.StatusCode.UNAVAILABLE:
        return SidecarUnavailable(details)
    if error.code() is grpc.StatusCode.UNIMPLEMENTED:
        details = f"the sidecar has no streaming subscriptions, which came with Dapr 1.14 ({details})"
    return SidecarError(error.code(), _SIDECAR_ERROR, details, component=component)
