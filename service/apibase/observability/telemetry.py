"""An app's telemetry beside its log: the tracer, the metrics and their endpoint, and when they begin and end."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from loguru import logger

from apibase.observability.metrics import Metrics
from apibase.observability.tracing import configure_tracing

if TYPE_CHECKING:
    from http.server import HTTPServer
    from threading import Thread

    from apibase.observability.tracing import Tracer
    from apibase.settings import Settings

_LAG_SECONDS = 0.25


class Telemetry:
    """Tracer and metrics of one app."""

    def __init__(self, settings: Settings) -> None:
        self.metrics = Metrics()
        self.tracer: Tracer | None = None
        self.metrics_port = 0
        """Where `/metrics` is served; 0 where it is not."""
        self._settings = settings
        self._configured = False
        self._server: tuple[HTTPServer, Thread] | None = None
        self._watching: asyncio.Task[None] | None = None

    def start_tracing(self) -> None:
        """Make the tracer as the settings say, once."""
        if not self._configured:
            self._configured = True
            self.tracer = configure_tracing(self._settings)

    def start_metrics(self) -> None:
        """Serve `/metrics` where the settings name a port, and watch the event loop. Raises `OSError` where the port is taken."""
        settings = self._settings
        self.metrics.say_build(settings.app_id)
        if settings.metrics_port is not None:
            try:
                self._server = self.metrics.serve(settings.metrics_host, settings.metrics_port)
            except OSError as error:
                address = f"{settings.metrics_host}:{settings.metrics_port}"
                message = f"cannot serve metrics on {address} (APIBASE_METRICS_HOST, APIBASE_METRICS_PORT): {error}"
                raise OSError(message) from error
            self.metrics_port = self._server[0].server_port
            logger.info("{} serves metrics on {}:{}", settings.app_id, settings.metrics_host, self.metrics_port)
        self._watching = asyncio.create_task(self._watch_loop())

    async def stop(self) -> None:
        """Send what waits to be sent, in some seconds at most, and stop serving."""
        if self._watching is not None:
            self._watching.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._watching
            self._watching = None
        if self._server is not None:
            server, thread = self._server
            self._server = None
            await asyncio.to_thread(_close, server, thread)
        if self.tracer is not None:
            await asyncio.to_thread(self.tracer.flush)
            self.tracer = None

    async def _watch_loop(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + _LAG_SECONDS
            await asyncio.sleep(_LAG_SECONDS)
            self.metrics.loop_lag.observe(max(loop.time() - due, 0.0))


def _close(server: HTTPServer, thread: Thread) -> None:
    server.shutdown()
    server.server_close()
    thread.join()
