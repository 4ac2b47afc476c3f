"""What a middleware is."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, ClassVar

import grpc
from loguru import logger

from apibase.cancellation import is_cancelled
from apibase.errors import Drop, Retry, ServiceError, SidecarError
from apibase.middleware.call import EVERY, Call, Kind, MessageHook, Proceed, Target
from apibase.middleware.hooks import around

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection
    from typing import Any

    from apibase.middleware.hooks import Hooks


class Middleware:
    """One concern of every call, or of calls of some `kinds`.

    Whatever can be known before a call is worked out once for each handler, by `wrap` and the hooks, when the app starts.
    """

    name: str = ""
    """By which the order names it; the class's own in lower_snake_case, unless it says otherwise."""
    kinds: Collection[Kind] = EVERY
    built_in: ClassVar[bool] = False

    def __init_subclass__(cls) -> None:
        cls.name = cls.__dict__.get("name") or re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", cls.__name__).lower()

    def wrap(self, target: Target, proceed: Proceed) -> Proceed:
        """Return what is called instead of `proceed`, the rest of the chain; `proceed` itself where there is nothing to do."""
        hooks = self.hooks(target)
        return proceed if hooks is None else around([hooks], proceed)

    def hooks(self, target: Target) -> Hooks | None:
        """Return what a built-in middleware does before and after calls, where plain functions are enough; None otherwise."""
        return None

    def on_request(self, target: Target) -> MessageHook | None:
        """Return what each message of a request passes when it is decoded; None where there is nothing to do."""
        return None

    def on_response(self, target: Target) -> MessageHook | None:
        """Return what each message of an answer passes before it is sent; None where there is nothing to do."""
        return None


class _Function(Middleware):
    def __init__(self, function: Callable[[Call, Proceed], Awaitable[Any]], kinds: Collection[Kind], name: str) -> None:
        self.function = function
        self.kinds = kinds
        self.name = name

    def wrap(self, target: Target, proceed: Proceed) -> Proceed:
        function = self.function

        def through(call: Call) -> Awaitable[Any]:
            return function(call, proceed)

        return through


def middleware(*kinds: Kind, name: str = "") -> Callable[[Callable[[Call, Proceed], Awaitable[Any]]], Middleware]:
    """Make a middleware of an `async def (call, proceed)`, for calls of these kinds, or of every kind.

    It awaits `proceed(call)` once, or not at all, and returns what that returns, or another answer.
    """

    def make(function: Callable[[Call, Proceed], Awaitable[Any]]) -> Middleware:
        return _Function(function, frozenset(kinds) or EVERY, name or function.__name__)

    return make


def guarded(each: Middleware, target: Target, proceed: Proceed) -> Proceed:
    """Return a middleware of the app's around the rest of the chain, such that its own failure says whose it is.

    What it raises on purpose (an error of the family) stands for what it met. Anything else is its own failure: where the call
    had failed already, the first error goes on, and the second is logged with it.
    """

    async def within(call: Call) -> object:
        try:
            answer = await proceed(call)
        except BaseException as error:
            call.raised = error
            raise
        call.raised = None
        return answer

    layer = each.wrap(target, within)
    if layer is within:
        return proceed

    async def guarding(call: Call) -> object:
        try:
            return await layer(call)
        except (Exception, asyncio.CancelledError) as error:
            first = call.raised
            if error is first or _is_meant(error) or is_cancelled():
                raise
            error.add_note(f"raised by the middleware {each.name!r} of {target.name}")
            if first is None:
                raise
            logger.opt(exception=error).error(
                "the middleware {!r} of {} failed with {} while it handled {}, which goes on",
                each.name,
                target.name,
                type(error).__name__,
                type(first).__name__,
            )
        raise first  # Not in the handler above: there it would lose what it came from.

    return guarding


def _is_meant(error: BaseException) -> bool:
    meant = isinstance(error, (ServiceError, Retry, Drop, grpc.aio.AbortError))
    return meant and not isinstance(error, SidecarError)
