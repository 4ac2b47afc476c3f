"""What the built-in middleware do before and after a call, as plain functions: several of them in a row share one coroutine.

A coroutine of its own costs each middleware more than most of them do. So the chain folds neighbours that need none, and the place where
errors become a status, into a single one around the rest.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

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
        return _observed(_Steps(hooks), proceed)
    errors = hooks[place]
    assert errors.caught is not None  # noqa: S101 - for the type checker
    assert errors.answered is not None  # noqa: S101
    return _settled(_Steps(hooks[:place]), errors.caught, errors.answered, _Steps(hooks[place + 1 :]), proceed)


class _Steps:
    """Hooks by step. `ends[n]` are those of `after` that have a turn when `n` of `befores` have let the call pass, the innermost first."""

    def __init__(self, hooks: Sequence[Hooks]) -> None:
        self.befores = tuple(each.before for each in hooks if each.before is not None)
        self.ends: list[tuple[Callable[[Call], object], ...]] = []
        self.failures: list[tuple[Callable[[Call, BaseException], object], ...]] = []
        begun: list[Hooks] = []
        for each in hooks:
            if each.before is not None:
                self._note(begun)
            begun.append(each)
        self._note(begun)

    def _note(self, begun: list[Hooks]) -> None:
        self.ends.append(tuple(each.after for each in reversed(begun) if each.after is not None))
        self.failures.append(tuple(each.failed for each in reversed(begun) if each.failed is not None))


def _observed(steps: _Steps, proceed: Proceed) -> Proceed:
    befores, ends, failures = steps.befores, steps.ends, steps.failures

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
            for after in ends[passed]:
                after(call)

    return observed


def _settled(
    outer: _Steps,
    caught: Callable[[Call, Exception | asyncio.CancelledError], object],
    answered: Callable[[Call], object],
    inner: _Steps,
    proceed: Proceed,
) -> Proceed:
    befores, ends, failures = outer.befores, outer.ends, outer.failures
    within = _observed(inner, proceed) if any(inner.failures) else None
    inner_befores, inner_ends = inner.befores, inner.ends

    async def settled(call: Call) -> object:
        passed = 0
        try:
            for before in befores:
                if before(call):
                    return None
                passed += 1
            try:
                if within is not None:
                    answer = await within(call)
                else:
                    entered = 0
                    try:
                        for before in inner_befores:
                            before(call)
                            entered += 1
                        answer = await proceed(call)
                    finally:
                        for after in inner_ends[entered]:
                            after(call)
            except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - the border, which `caught` is
                caught(call, error)
                return None
            answered(call)
            return answer  # noqa: TRY300 - as above
        except BaseException as error:
            for failed in failures[passed]:
                failed(call, error)
            raise
        finally:
            for after in ends[passed]:
                after(call)

    return settled
