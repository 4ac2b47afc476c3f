"""What passes the chain: a call, and what is known of it before there is one."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping
    from contextvars import Token

    import grpc
    from google.protobuf.descriptor import MethodDescriptor
    from google.protobuf.message import Message
    from opentelemetry.trace import Span

    from apibase.deadline import At, Budget
    from apibase.errors import ServiceError
    from apibase.events import EventContext
    from apibase.observability.context import Scope
    from apibase.observability.series import Count as Counts
    from apibase.routes import Headers, Incoming, Route

    Context = grpc.aio.ServicerContext[Any, Any]


TOKEN_HEADER = "dapr-api-token"  # noqa: S105 - a header's name


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

    Middleware may read all of it, and replace `request` before the handler is called. `headers` has gRPC's metadata by name, of
    which the last counts, without the app's token, which is `token`. `context` is gRPC's own, for an rpc; `event` says where
    a delivery comes from.
    """

    # What most calls never have stands here once for all: a call is made for every request.
    _request: Any = None
    _until: float | None = None
    incoming: Incoming | None = None
    event: EventContext | None = None
    outcome: str = ""
    """How it ended, once it has: the name of the gRPC status, or the verdict on an event."""
    reason: str = ""
    """Why, where it did not end well."""
    failure: ServiceError | None = None
    """What its caller is told, where that is an error."""
    repeated: bool = False
    """Whether an event was handled before."""
    error: BaseException | None = None
    """What made it end so, where its handler or a middleware raised something."""
    raised: BaseException | None = None
    """What comes from within at the moment; see `guarded`."""
    trace: tuple[Span | None, Scope] | None = None
    """The call's span, if it has one, and what `leave` takes back at its end; None where nothing is to be taken back."""
    budget: Budget | None = None
    """Its time, which what it calls inherits."""
    following: Token[At] | None = None
    """What takes that back."""
    came: float = 0.0
    """When a delivery came, in seconds since 1970."""
    received: Counts | None = None
    """Where the messages of a stream of requests are counted, if they are."""
    sent: Counts | None = None
    """Where the messages of a stream of answers are counted, if they are."""

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
        self.all_metadata = metadata
        self.headers = headers
        self.context = context
        if remaining is not None:
            self._until = time.monotonic() + remaining
        if incoming is not None:
            self.incoming = incoming
        if event is not None:
            self.event = event
        self.token = token
        self.data = data
        """The request as it came, where it is a single one."""
        self.started = time.perf_counter()
        self.read = read

    @property
    def remaining(self) -> float | None:
        """The seconds that its caller still waits; None for as long as it takes."""
        return self.time_left() if self.context is None else self.context.time_remaining()

    def time_left(self) -> float | None:
        """Return the same of a call that is no rpc."""
        return None if self._until is None else max(self._until - time.monotonic(), 0.0)

    @property
    def metadata(self) -> Headers:
        """GRPC's metadata as it came, binary and repeated entries too, without the app's token."""
        given = self.all_metadata
        return tuple(header for header in given if header[0] != TOKEN_HEADER) if self.token else given

    @property
    def repeats_headers(self) -> bool:
        """Whether a name is there more than once, or the app's token among the headers of a delivery."""
        return len(self.all_metadata) != len(self.headers) + bool(self.token)

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
