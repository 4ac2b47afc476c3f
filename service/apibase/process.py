"""The life of an app's process: until a signal ends it, and how it ends."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import sys
from typing import TYPE_CHECKING, NoReturn

from loguru import logger

from apibase.contract import ContractError
from apibase.errors import SidecarError
from apibase.grpc_threads import spare_the_loop
from apibase.observability import configure_logging, flush_logs, prepare_loop
from apibase.threads import at_work

if TYPE_CHECKING:
    from apibase.app import App

_FAILED = 1
_MISCONFIGURED = 2
_COLLECT_AFTER = 10_000  # objects


def run(app: App) -> NoReturn:
    """Set logging up, serve until a signal ends it, and exit the process with its code."""
    configure_logging(app.settings)
    _spare_the_collector()
    if sys.platform == "win32":
        _exit(asyncio.run(app.serve()))
    import uvloop  # noqa: PLC0415 - only where it is needed

    _exit(uvloop.run(app.serve()))


async def serve(app: App) -> int:
    """Start, run until SIGTERM or SIGINT, drain, and return the exit code; see `App.serve`."""
    loop = asyncio.get_running_loop()
    prepare_loop(loop, app.settings)
    app_id = app.settings.app_id
    ended = asyncio.Event()
    received: list[signal.Signals] = []

    def on_signal(number: signal.Signals) -> None:
        received.append(number)
        ended.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal, number)
    starting = asyncio.ensure_future(app.start())
    waiting = asyncio.ensure_future(ended.wait())
    try:
        await asyncio.wait({starting, waiting}, return_when=asyncio.FIRST_COMPLETED)
        if starting.done():
            starting.result()
            if app.settings.grpc_threads == "batch":
                spare_the_loop()
        await waiting
    except (SidecarError, OSError) as error:
        logger.error("{} could not start: {}", app_id, error)
        return _FAILED
    except ContractError as error:
        logger.error("{} could not start: wrong contract: {}", app_id, error)
        return _MISCONFIGURED
    except Exception as error:  # noqa: BLE001 - a hook's, mostly
        logger.opt(exception=error).error("{} could not start: {}", app_id, type(error).__name__)
        return _FAILED
    finally:
        starting.cancel()
        waiting.cancel()
        await asyncio.gather(starting, waiting, return_exceptions=True)
        if received:
            name = received[0].name
            logger.info("{} received {}: draining for at most {:.0f} s", app_id, name, app.settings.drain_timeout)
        await app.stop()
        logger.info("{} stopped", app_id)
        flush_logs()
        await logger.complete()
    return 0


def _exit(code: int) -> NoReturn:
    """End the process, with what still runs in threads: the interpreter would wait for those, for as long as they take."""
    left = at_work()
    if left:
        logger.warning("ended while functions ran in threads, which can't be cancelled: {}", ", ".join(sorted(left)))
        sys.stdout.flush()
        os._exit(code)
    sys.exit(code)


def _spare_the_collector() -> None:
    """Keep what is loaded at the start out of garbage collections, and have fewer of them.

    The calls in flight outnumber the default threshold of 700 objects; each collection that they set off would in time walk
    through every module that was ever imported: tens of milliseconds, in which nobody is answered.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_COLLECT_AFTER, 50, 50)
