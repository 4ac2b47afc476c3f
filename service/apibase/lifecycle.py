"""What an app does of its own at its start and at its end."""

from __future__ import annotations

from typing import TYPE_CHECKING

from loguru import logger

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


class LifecycleHooks:
    """The hooks of an app; see `App.before_ready` and `App.after_drain`."""

    def __init__(self) -> None:
        self.before_ready: list[Callable[[], Awaitable[object]]] = []
        self.after_drain: list[Callable[[], Awaitable[object]]] = []

    async def run_after_drain(self) -> None:
        """Run what is to run at the end, once, the last registered first."""
        while self.after_drain:
            hook = self.after_drain.pop()
            try:
                await hook()
            except Exception as error:  # noqa: BLE001 - the others run nevertheless
                logger.opt(exception=error).error(
                    "the hook {} failed with {}", getattr(hook, "__qualname__", repr(hook)), type(error).__name__
                )
