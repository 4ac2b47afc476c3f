"""Tells when the sidecar takes leave of a connection: it goes away and waits, among others, for the streams that run over it.

gRPC says so by a GOAWAY frame, which ends no stream. daprd 1.18 then stays as it is, its API closed, until the streams with
events in flight are ended by the app: at a SIGTERM, and also when it reloads a Resiliency.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import grpc

if TYPE_CHECKING:
    from collections.abc import Callable

_LOOK_SECONDS = 0.25
_READY = grpc.ChannelConnectivity.READY


class ConnectionWatch:
    """Watches a channel while somebody wants to know.

    It looks at its state now and then: gRPC's own way of waiting for a change can't be taken back, and outlives its loop.
    """

    def __init__(self, channel: Callable[[], grpc.aio.Channel]) -> None:
        self._channel = channel
        self._leave = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def leave(self) -> asyncio.Event:
        """Return what is set when the connection in use, or the next one if there is none, is left.

        To be asked for before a stream is opened. A stream that is opened just then may be told of the connection before its
        own: better once too often than never.
        """
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._watch())
        return self._leave

    def stop(self) -> None:
        """Watch no more, until somebody asks again."""
        if self._task is not None:
            self._task.cancel()
            self._task = None

    async def _watch(self) -> None:
        before: grpc.ChannelConnectivity | None = None
        while True:
            state = self._channel().get_state()
            if before is _READY and state is not _READY:
                self._leave.set()
                self._leave = asyncio.Event()
            before = state
            await asyncio.sleep(_LOOK_SECONDS)
