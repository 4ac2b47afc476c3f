"""The time that a call still has, which its outbound calls inherit."""

from __future__ import annotations

from typing import TYPE_CHECKING

from apibase.deadline import deadline
from apibase.middleware.base import Middleware

if TYPE_CHECKING:
    from apibase.middleware.call import Call, Proceed, Target


class Deadline(Middleware):
    """Gives what is called on behalf of a call no more time than its caller still waits."""

    built_in = True

    def wrap(self, target: Target, proceed: Proceed) -> Proceed:
        """Set the budget for the rest of the chain."""

        async def bounded(call: Call) -> object:
            token = deadline.set_remaining(call.remaining)
            try:
                return await proceed(call)
            finally:
                deadline.reset(token)

        return bounded
