"""The one ordered list that every call passes on its way in."""

from __future__ import annotations

from typing import TYPE_CHECKING

from apibase.contract import ContractError
from apibase.middleware.base import Middleware, guarded
from apibase.middleware.hooks import around

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from apibase.middleware.call import MessageHook, Proceed, Target
    from apibase.middleware.hooks import Hooks

ERRORS = "errors"
"""Where errors become the status or the verdict: what stands before it sees how a call ended, what stands after it sees the error."""

CHAIN_ATTRIBUTE = "apibase.chain"
"""The sidecar's metadata attribute that has the names of an app's chain, with commas between."""

_BEFORE_ERRORS = ("app_token", "callers")
"""What decides who may call: where an event is claimed (`deduplicate_for`) that is settled already."""


class Chain:
    """Middleware in order, the outermost first."""

    def __init__(self, order: Sequence[Middleware]) -> None:
        self._order = tuple(order)

    @property
    def names(self) -> tuple[str, ...]:
        """The names, the outermost first."""
        return tuple(each.name for each in self._order)

    def compile(self, target: Target, handler: Proceed) -> Proceed:
        """Return a handler behind the middleware of its kind."""
        proceed = handler
        folded: list[Hooks] = []
        for each in reversed(self._of(target)):
            hooks = each.hooks(target) if each.built_in else None
            if hooks is not None:
                folded.insert(0, hooks)
                continue
            proceed = around(folded, proceed)
            folded = []
            proceed = each.wrap(target, proceed) if each.built_in else guarded(each, target, proceed)
        return around(folded, proceed)

    def request_hook(self, target: Target) -> MessageHook | None:
        """Return what each message of a request passes, if anything."""
        return _in_turn([hook for each in self._of(target) if (hook := each.on_request(target))])

    def response_hook(self, target: Target) -> MessageHook | None:
        """Return what each message of an answer passes, if anything: the innermost comes first."""
        return _in_turn([hook for each in reversed(self._of(target)) if (hook := each.on_response(target))])

    def _of(self, target: Target) -> list[Middleware]:
        return [each for each in self._order if target.kind in each.kinds]


def ordered(known: Sequence[Middleware], names: Sequence[str]) -> list[Middleware]:
    """Return the middleware of these names; all that is known, as it comes, where none are given.

    Raises `ContractError` for a name that is unknown or there twice, and where `errors` is missing.
    """
    by_name: dict[str, Middleware] = {}
    for each in known:
        if each.name in by_name:
            raise ContractError(f"there are two middleware called {each.name!r}; give one another name")
        by_name[each.name] = each
    if not names:
        return list(known)
    unknown = [name for name in names if name not in by_name]
    if unknown:
        raise ContractError(f"APIBASE_MIDDLEWARE names {', '.join(map(repr, unknown))}; there is {', '.join(by_name)}")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ContractError(f"APIBASE_MIDDLEWARE names {', '.join(map(repr, twice))} twice; every call passes once")
    if ERRORS not in names:
        raise ContractError(f"APIBASE_MIDDLEWARE leaves out {ERRORS!r}, which no app can do without; name it")
    late = [name for name in _BEFORE_ERRORS if name in names[names.index(ERRORS) :]]
    if late:
        raise ContractError(
            f"APIBASE_MIDDLEWARE has {' and '.join(map(repr, late))} after {ERRORS!r}; put that before it"
        )
    return [by_name[name] for name in names]


def _in_turn(hooks: list[Callable[[object], object]]) -> MessageHook | None:
    if len(hooks) <= 1:
        return hooks[0] if hooks else None

    def all_of_them(message: object) -> object:
        for hook in hooks:
            message = hook(message)
        return message

    return all_of_them
