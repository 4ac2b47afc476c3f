"""What the built-in middleware do before and after a call, as plain functions: several of them in a row share one coroutine.

A coroutine of its own costs each middleware more than most of them do. So the chain folds neighbours that need none into a single one
around the rest.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from apibase.middleware.call import Call, Proceed


@dataclass(frozen=True, slots=True)
class Hooks:
    """What a middleware does around calls of one handler.

    `before` may refuse the call by returning true, or by raising. `after` runs at the end of each call that `before` let pass, however it
    ended; `failed` before that, where it raised. `caught` takes the place of an error: it notes what the caller is told, or
    raises what is to go on; `answered` notes how a call ended that did not raise. One with these two is `errors`.
    """

    before: Callable[[Call], object] | None = None
    after: Callable[[Call], object] | None = None
    failed: Callable[[Call, BaseException], object] | None = None
    caught: Callable[[Call, Exception | asyncio.CancelledError], object] | None = None
    answered: Callable[[Call], object] | None = None


def around(hooks: Sequence[Hooks], proceed: Proceed) -> Proceed:
    """Return the rest of the chain with these around it, the outermost first; at most one of them is `errors`."""
    if not hooks:
        return proceed
    place = next((place for place, each in enumerate(hooks) if each.caught is not None), None)
    if place is None:
        return _observed(hooks, proceed)
    return around(hooks[:place], _settled(hooks[place], around(hooks[place + 1 :], proceed)))


def _observed(hooks: Sequence[Hooks], proceed: Proceed) -> Proceed:
    """Return the rest of the chain with hooks before and after it; the last ones to begin have the first turn at the end."""
    befores = tuple(each.before for each in hooks if each.before is not None)
    ends: list[tuple[Callable[[Call], object], ...]] = []
    failures: list[tuple[Callable[[Call, BaseException], object], ...]] = []
    for begun in _begun(hooks):
        ends.append(tuple(each.after for each in reversed(begun) if each.after is not None))
        failures.append(tuple(each.failed for each in reversed(begun) if each.failed is not None))

    async def observed(call: Call) -> object:
        passed = 0
        try:
            for before in befores:
                if before(call):
                    return None
                passed += 1
            return await proceed(call)
        except BaseException as error:
            for failed in failures[passed]:
                failed(call, error)
            raise
        finally:
            left = iter(ends[passed])
            try:
                for after in left:
                    after(call)
            except BaseException:
                _rest(left, call)
                raise

    return observed


def _begun(hooks: Sequence[Hooks]) -> list[list[Hooks]]:
    """Return which have begun when none of those with a `before` has let a call pass, when the first has, and so on."""
    found: list[list[Hooks]] = []
    begun: list[Hooks] = []
    for each in hooks:
        if each.before is not None:
            found.append(list(begun))
        begun.append(each)
    return [*found, begun]


def _rest(left: Iterator[Callable[[Call], object]], call: Call) -> None:
    """Run what is left for the end of a call when one of it has raised, each of it."""
    try:
        for after in left:
            after(call)
    except BaseException:
        _rest(left, call)
        raise


def _settled(errors: Hooks, proceed: Proceed) -> Proceed:
    caught, answered = errors.caught, errors.answered
    assert caught is not None  # noqa: S101 - for the type checker
    assert answered is not None  # noqa: S101

    async def settled(call: Call) -> object:
        try:
            answer = await proceed(call)
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - the border, which `caught` is
            caught(call, error)
            return None
        if call.outcome:  # refused behind it
            return None
        answered(call)
        return answer

    return settled
