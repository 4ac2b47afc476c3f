"""What passes the chain: a call, and what is known of it before there is one."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    import grpc
    from google.protobuf.descriptor import MethodDescriptor
    from google.protobuf.message import Message

    from apibase.errors import ServiceError
    from apibase.events import EventContext
    from apibase.routes import Headers, Incoming, Route

    Context = grpc.aio.ServicerContext[Any, Any]


class Kind(StrEnum):
    """What kind of call it is: the four of gRPC, and those that daprd makes of its own."""

    UNARY = "unary"
    SERVER_STREAM = "server_stream"
    CLIENT_STREAM = "client_stream"
    BIDI_STREAM = "bidi_stream"
    INVOKE = "invoke"
    """A method that is invoked by its name, without a contract."""
    EVENT = "event"
    """An event on a topic: alone, an entry of a batch, or from a streaming subscription."""
    BINDING = "binding"
    JOB = "job"


RPCS = frozenset({Kind.UNARY, Kind.SERVER_STREAM, Kind.CLIENT_STREAM, Kind.BIDI_STREAM})
"""What other apps call by a contract."""

CALLS = RPCS | {Kind.INVOKE}
"""What other apps call."""

DELIVERIES = frozenset({Kind.EVENT, Kind.BINDING, Kind.JOB})
"""What the sidecar brings."""

EVERY = frozenset(Kind)


@dataclass(frozen=True, slots=True)
class Target:
    """A handler as it is known before any call. `name` is the contract's method, `domain` the proto package of its errors' reasons."""

    kind: Kind
    name: str
    domain: str = "apibase"
    request: type[Message] | None = None
    """The contract's message; None where there is no contract."""
    response: type[Message] | None = None
    """The contract's message, for an rpc."""
    descriptor: MethodDescriptor | None = None
    """The contract's method, for an rpc."""
    route: Route | None = None
    """What is known of a delivery's handler."""
    source: str = ""
    """The topic, or the name of the binding or the job, that a delivery comes from."""
    unhandled: bool = False
    """Whether it stands for deliveries that no handler takes, of which a line in the log says why."""
    own: bool = False
    """Whether it comes down a connection that the app itself has made, so that nobody else can have sent it."""


class Call:
    """One call on its way to its handler.

    Middleware may read all of it, and replace `request` before the handler is called. `metadata` is gRPC's as it came,
    binary and repeated entries too; `headers` has it by name, of which the last counts, without the app's token, which is
    `token`. `context` is gRPC's own, for an rpc; `event` says where a delivery comes from. `remaining` is the seconds that
    its caller still waits; None for as long as it takes.
    """

    __slots__ = (
        "_request",
        "context",
        "data",
        "error",
        "event",
        "failure",
        "headers",
        "incoming",
        "metadata",
        "outcome",
        "raised",
        "read",
        "reason",
        "remaining",
        "repeated",
        "started",
        "target",
        "token",
    )

    def __init__(  # noqa: PLR0913 - made in few places, once for each call
        self,
        target: Target,
        metadata: Headers,
        headers: Mapping[str, str],
        read: Callable[[Call], Any],
        *,
        context: Context | None = None,
        remaining: float | None = None,
        incoming: Incoming | None = None,
        event: EventContext | None = None,
        token: str = "",
        data: bytes = b"",
    ) -> None:
        self.target = target
        self.metadata = metadata
        self.headers = headers
        self.context = context
        self.remaining = remaining
        self.incoming = incoming
        self.event = event
        self.token = token
        self.data = data
        """The request as it came, where it is a single one."""
        self.started = time.perf_counter()
        self.outcome = ""
        """How it ended, once it has: the name of the gRPC status, or the verdict on an event."""
        self.reason = ""
        """Why, where it did not end well."""
        self.failure: ServiceError | None = None
        """What its caller is told, where that is an error."""
        self.repeated = False
        """Whether an event was handled before."""
        self.error: BaseException | None = None
        """What made it end so, where its handler or a middleware raised something."""
        self.raised: BaseException | None = None
        """What comes from within at the moment; see `guarded`."""
        self.read = read
        self._request: Any = None

    @property
    def request(self) -> Any:  # noqa: ANN401 - whatever the contract says
        """The request, or an event's data, decoded and valid; where requests stream, their iterator.

        Raises for what no handler is called with: `InvalidRequest`, `Drop`.
        """
        if self._request is None:
            self._request = self.read(self)
        return self._request

    @request.setter
    def request(self, request: Any) -> None:  # noqa: ANN401
        self._request = request

    def refuse(self, error: ServiceError, verdict: str = "") -> None:
        """End the call before it reaches its handler: its caller is told `error`, or daprd the verdict on an event."""
        self.error, self.reason = error, error.reason
        self.outcome = verdict or error.code.name
        self.failure = None if verdict else error


Proceed = Callable[[Call], Awaitable[Any]]
"""The rest of the chain, which ends at the handler. Returns the handler's answer; None where answers stream, and for deliveries."""

MessageHook = Callable[[Any], Any]
"""Takes a message and returns it, or another one to go on with; what it raises refuses the call."""
