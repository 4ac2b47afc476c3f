"""Read, change, save, and again where somebody else was faster."""

from __future__ import annotations

import asyncio
import inspect
import random
from typing import TYPE_CHECKING, TypeVar, cast

from apibase.clients.state_items import StateItem
from apibase.deadline import deadline
from apibase.errors import Conflict

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from datetime import timedelta

    from apibase.clients._values import Value
    from apibase.clients.state import StateManager

V = TypeVar("V")

_FIRST_PAUSE_SECONDS = 0.005
_LONGEST_PAUSE_SECONDS = 0.5


async def update(
    state: StateManager,
    key: str,
    kind: type[V],
    change: Callable[[V | None], V | Awaitable[V]],
    *,
    ttl: timedelta | None,
    within: float,
) -> StateItem[V]:
    """Change what is under a key, with at most `within` seconds for all tries together."""
    pause = _FIRST_PAUSE_SECONDS
    token = deadline.set_remaining(deadline.bound(within))
    try:
        while True:
            item = await state.get(key, kind)
            changed = change(None if item is None else item.value)
            value = cast("V", await changed if inspect.isawaitable(changed) else changed)
            try:
                await state.save(
                    key,
                    cast("Value", value),
                    etag=None if item is None else item.etag,
                    first_write=item is None,
                    ttl=ttl,
                )
            except Conflict:
                # Anywhere within the pause, so that those who met don't meet again.
                wait = random.uniform(0, pause)  # noqa: S311 - no secret
                if (deadline.bound(None) or 0.0) <= wait:
                    raise
                await asyncio.sleep(wait)
                pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)
            else:
                return StateItem(key, value, "")
    finally:
        deadline.reset(token)
