"""Requests and responses that are changed on their way."""

from __future__ import annotations

from typing import TYPE_CHECKING

from apibase.middleware.base import Middleware
from apibase.middleware.call import EVERY

if TYPE_CHECKING:
    from collections.abc import Collection

    from apibase.middleware.call import Kind, MessageHook, Target


class Transformation(Middleware):
    """Passes each message of a request through `request`, and each of an answer through `response`.

    Both are functions that take a message and return it, or another of its type. `methods` names those that it is for, by their
    full names or the ends of such (`OrderService`, `PlaceOrder`); all without it. Where it stands in the order says whether a
    request is validated before or after.
    """

    def __init__(
        self,
        *,
        request: MessageHook | None = None,
        response: MessageHook | None = None,
        methods: Collection[str] = (),
        kinds: Collection[Kind] = EVERY,
        name: str = "transformation",
    ) -> None:
        self.name = name
        self.kinds = kinds
        self._request = request
        self._response = response
        self._methods = tuple(methods)

    def on_request(self, target: Target) -> MessageHook | None:
        """Return the function for requests, where the method is meant."""
        return self._request if self._is_for(target.name) else None

    def on_response(self, target: Target) -> MessageHook | None:
        """Return the function for answers, where the method is meant."""
        return self._response if self._is_for(target.name) else None

    def _is_for(self, name: str) -> bool:
        whole = f".{name}."
        return not self._methods or any(f".{each}." in whole for each in self._methods)
