"""The time that a call still has, which its outbound calls inherit."""

from __future__ import annotations

from typing import TYPE_CHECKING

from apibase.deadline import Budget, deadline
from apibase.middleware.base import Middleware
from apibase.middleware.call import CALLS
from apibase.middleware.hooks import Hooks

if TYPE_CHECKING:
    from apibase.middleware.call import Call, Target


class Deadline(Middleware):
    """Gives what is called on behalf of a call no more time than its caller still waits."""

    built_in = True

    def hooks(self, target: Target) -> Hooks:
        """Set the budget for the rest of the chain, and what it starts, until the call is over."""
        follow = deadline.follow

        def begin(call: Call) -> None:
            context = call.context
            call.budget = budget = Budget(call.time_left if context is None else context.time_remaining)
            call.following = follow(budget)

        def end(call: Call) -> None:
            if call.budget is not None:
                call.budget.end()

        if target.kind in CALLS:
            return Hooks(
                before=begin, after=end
            )  # Each has a task of its own, from which nothing has to be taken back.

        def take_back(call: Call) -> None:
            end(call)
            if call.following is not None:
                deadline.reset(call.following)

        return Hooks(before=begin, after=take_back)
