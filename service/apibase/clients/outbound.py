"""The one ordered list that every call of the app's own passes on its way out.

Outbound middleware are plain functions around the start of a call, not coroutines around the whole of it, and no interceptors
of gRPC's: all four kinds of rpc are started alike, what is returned is gRPC's own call object, and no task is made per call.
What is to be done at a call's end is done by the call object's `add_done_callback`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from apibase.contract import ContractError
from apibase.middleware.call import RPCS, Kind, MessageHook

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    import grpc

    Start = Callable[["OutboundCall"], grpc.aio.Call]
    """The rest of the chain, which ends at gRPC. Returns the call, which has begun."""

IDENTITY = "identity"


@dataclass(frozen=True, slots=True)
class OutboundTarget:
    """A method as it is known before any call of it."""

    kind: Kind
    method: str
    """Its full name: `shop.orders.v1.OrderService/GetOrder`."""
    app_id: str = ""
    """The app that it is called at; empty for the sidecar's own API."""


@dataclass(slots=True)
class OutboundCall:
    """One call on its way out. Middleware may change all of it before it goes on."""

    target: OutboundTarget
    request: Any = None
    """The message, or the iterator of messages; None where they are written to the call."""
    timeout: float | None = None
    """Seconds; None for as long as it takes."""
    metadata: list[tuple[str, str | bytes]] = field(default_factory=list)
    options: dict[str, Any] = field(default_factory=dict)
    """What else gRPC takes: `wait_for_ready`, `compression`, `credentials`."""

    def set_header(self, name: str, value: str | bytes) -> None:
        """Set a header unless the caller has."""
        if all(given != name for given, _ in self.metadata):
            self.metadata.append((name, value))


class OutboundMiddleware:
    """One concern of every outbound call, or of calls of some `kinds`."""

    name: str = ""
    """By which the order names it; the class's own in lower_snake_case, unless it says otherwise."""
    kinds: Collection[Kind] = RPCS

    def __init_subclass__(cls) -> None:
        cls.name = cls.__dict__.get("name") or re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", cls.__name__).lower()

    def wrap(self, target: OutboundTarget, start: Start) -> Start:  # noqa: ARG002
        """Return what is called instead of `start`, the rest of the chain; `start` itself where there is nothing to do."""
        return start

    def on_response(self, target: OutboundTarget) -> MessageHook | None:  # noqa: ARG002
        """Return what each message of an answer passes when it is decoded; None where there is nothing to do."""
        return None


class _Function(OutboundMiddleware):
    def __init__(self, function: Callable[[OutboundCall, Start], Any], kinds: Collection[Kind], name: str) -> None:
        self.function = function
        self.kinds = kinds
        self.name = name

    def wrap(self, target: OutboundTarget, start: Start) -> Start:  # noqa: ARG002
        function = self.function
        return lambda call: function(call, start)


def outbound_middleware(
    *kinds: Kind, name: str = ""
) -> Callable[[Callable[[OutboundCall, Start], Any]], OutboundMiddleware]:
    """Make an outbound middleware of a function `(call, start)`, for calls of these kinds, or of all four.

    It is no coroutine: it returns what `start(call)` returns, the call that has begun.
    """

    def make(function: Callable[[OutboundCall, Start], Any]) -> OutboundMiddleware:
        return _Function(function, frozenset(kinds) or RPCS, name or function.__name__)

    return make


class OutboundChain:
    """Outbound middleware in order, the outermost first. `names` is the order where the settings have one."""

    def __init__(self, built_in: Sequence[OutboundMiddleware], names: Sequence[str] = ()) -> None:
        self._known = list(built_in)
        self._given = tuple(names)
        self._order: list[OutboundMiddleware] | None = None

    def add(self, *middleware: OutboundMiddleware) -> None:
        """Add middleware innermost. Raises `RuntimeError` when calls have been made."""
        if self._order is not None:
            raise RuntimeError("calls have been made; add outbound middleware before that")
        self._known += middleware

    def order(self) -> list[OutboundMiddleware]:
        """Return the middleware, and take no more from now on. Raises `ContractError` for an order that can't be."""
        if self._order is None:
            self._order = _ordered(self._known, self._given)
        return self._order

    def start_of(self, target: OutboundTarget, start: Start) -> Start:
        """Return what starts a method's calls behind the middleware of its kind."""
        for each in reversed(self.order()):
            if target.kind in each.kinds:
                start = each.wrap(target, start)
        return start

    def response_hook(self, target: OutboundTarget) -> MessageHook | None:
        """Return what each message of an answer passes, if anything: the innermost comes first."""
        found = [each.on_response(target) for each in reversed(self.order()) if target.kind in each.kinds]
        hooks = [hook for hook in found if hook is not None]
        if not hooks:
            return None

        def all_of_them(message: object) -> object:
            for hook in hooks:
                message = hook(message)
            return message

        return all_of_them


def _ordered(known: Sequence[OutboundMiddleware], names: Sequence[str]) -> list[OutboundMiddleware]:
    by_name = {each.name: each for each in known}
    if len(by_name) < len(known):
        twice = sorted({each.name for each in known if by_name[each.name] is not each})
        raise ContractError(f"there are two outbound middleware called {', '.join(map(repr, twice))}; rename one")
    if not names:
        return list(known)
    setting = "APIBASE_OUTBOUND_MIDDLEWARE"
    unknown = [name for name in names if name not in by_name]
    if unknown:
        raise ContractError(f"{setting} names {', '.join(map(repr, unknown))}; there is {', '.join(by_name)}")
    if len(set(names)) < len(names):
        raise ContractError(f"{setting} names one twice; every call passes once")
    if IDENTITY not in names:
        raise ContractError(f"{setting} leaves out {IDENTITY!r}, without which no call arrives; name it")
    return [by_name[name] for name in names]
