"""Tells a call that was cancelled from a handler that let somebody else's cancellation out."""

from __future__ import annotations

import asyncio


def is_cancelled() -> bool:
    """Whether the current task is asked to end: its caller is gone, its deadline has passed, or the server stops.

    A `CancelledError` without that comes from within the handler (a task or call that it cancelled itself). gRPC would
    answer nothing then, and leave the caller waiting.
    """
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
