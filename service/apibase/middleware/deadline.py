"""The time that a call still has, which its outbound calls inherit."""

from __future__ import annotations

from typing import TYPE_CHECKING

from apibase.deadline import deadline
from apibase.middleware.base import Middleware
from apibase.middleware.call import CALLS
from apibase.middleware.hooks import Hooks

if TYPE_CHECKING:
    from apibase.middleware.call import Call, Target


class Deadline(Middleware):
    """Gives what is called on behalf of a call no more time than its caller still waits."""

    built_in = True

    def hooks(self, target: Target) -> Hooks:
        """Set the budget for the rest of the chain."""
        set_remaining = deadline.set_remaining
        if target.kind in CALLS:
            follow = deadline.follow

            def bound(call: Call) -> None:
                context = call.context
                if context is None:
                    set_remaining(call.remaining)
                else:
                    follow(context.time_remaining)

            return Hooks(before=bound)  # Each has a task of its own, from which nothing has to be taken back.

        def begin(call: Call) -> None:
            call.budget = set_remaining(call.remaining)

        def end(call: Call) -> None:
            if call.budget is not None:
                deadline.reset(call.budget)

        return Hooks(before=begin, after=end)
