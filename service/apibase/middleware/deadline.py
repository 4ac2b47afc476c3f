"""The time that a call still has, which its outbound calls inherit."""

from __future__ import annotations

from typing import TYPE_CHECKING

from apibase.deadline import deadline
from apibase.middleware.base import Middleware
from apibase.middleware.call import CALLS

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from apibase.middleware.call import Call, Proceed, Target


class Deadline(Middleware):
    """Gives what is called on behalf of a call no more time than its caller still waits."""

    built_in = True

    def wrap(self, target: Target, proceed: Proceed) -> Proceed:
        """Set the budget for the rest of the chain."""
        if target.kind in CALLS:  # Each has a task of its own, from which nothing has to be taken back.

            def bound(call: Call) -> Awaitable[object]:
                deadline.set_remaining(call.remaining)
                return proceed(call)

            return bound

        async def bounded(call: Call) -> object:
            token = deadline.set_remaining(call.remaining)
            try:
                return await proceed(call)
            finally:
                deadline.reset(token)

        return bounded
