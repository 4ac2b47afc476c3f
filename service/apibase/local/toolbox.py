"""The programs that a stack needs, found or made in a thread, so that signals are heard meanwhile."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from apibase.local import binaries

if TYPE_CHECKING:
    from collections.abc import Callable

_T = TypeVar("_T")


class _Stopped(Exception):
    """The stack does not want the programs any more."""


@dataclass(frozen=True)
class Toolbox:
    """Programs by kind; what is not needed is None."""

    dapr: binaries.DaprBinaries
    postgres: binaries.PostgresBinaries | None = None
    redis: binaries.RedisBinaries | None = None
    kafka: binaries.KafkaBinaries | None = None
    zipkin: binaries.ZipkinBinaries | None = None


async def find_tools(
    *,
    postgres: bool,
    redis: bool,
    progress: Callable[[str], None],
    kafka: bool = False,
    zipkin: bool = False,
    series: str = binaries.SERIES,
) -> Toolbox:
    """Find the programs, or make them, which takes minutes the first time; `ToolMissing` names what can't be had.

    `series` is Dapr's.

    `progress` is called on the event loop. When the caller is cancelled, a build that runs is ended first.
    """
    return Toolbox(
        dapr=await _in_thread(partial(binaries.dapr_binaries, series), progress),
        postgres=await _in_thread(binaries.postgres_binaries, progress) if postgres else None,
        redis=await _in_thread(binaries.redis_binaries, progress) if redis else None,
        kafka=await _in_thread(binaries.kafka_binaries, progress) if kafka else None,
        zipkin=await _in_thread(binaries.zipkin_binaries, progress) if zipkin else None,
    )


async def _in_thread(find: Callable[..., _T], progress: Callable[[str], None]) -> _T:
    loop = asyncio.get_running_loop()
    stopped = threading.Event()

    def tell(text: str) -> None:
        if stopped.is_set():
            raise _Stopped
        loop.call_soon_threadsafe(progress, text)

    task = asyncio.ensure_future(asyncio.to_thread(partial(find, progress=tell)))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        stopped.set()
        await asyncio.wait([task])
        if not task.cancelled():
            task.exception()  # Seen: it is how the thread came back.
        raise
