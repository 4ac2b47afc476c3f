"""An app whose handlers write what they do into a journal, which outlives the app, and wait where a test asks for it."""

from __future__ import annotations

import asyncio
import json
import os
import time
from pathlib import Path
from typing import Any

from cellar.v1 import cellar_pb2_grpc
from google.protobuf.empty_pb2 import Empty

from apibase import App, Drop, EventContext, Retry

FOLDER = Path(os.environ["CELLAR_FOLDER"])


def write(what: str, cask: Any, context: EventContext) -> None:
    """Add a line to the journal: one write, so that replicas can share it."""
    line = {"what": what, "number": cask.number, "event": context.id, "pid": os.getpid(), "time": time.time()}
    with (FOLDER / "journal").open("ab", buffering=0) as journal:
        journal.write(json.dumps(line).encode() + b"\n")


def first_time(cask: Any) -> bool:
    """Whether no process has asked this of the cask before."""
    try:
        (FOLDER / f"{cask.number}.seen").touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


async def take(cask: Any, context: EventContext) -> Empty:
    write("began", cask, context)
    if cask.wish == "retry once" and first_time(cask):
        raise Retry
    if cask.wish == "drop once" and first_time(cask):
        raise Drop("the test asked for it", code="ASKED_FOR")
    if cask.wish == "book and hold":
        write("booked", cask, context)
    if "hold" in cask.wish:
        while not (FOLDER / f"{cask.number}.go").exists():
            await asyncio.sleep(0.02)
    if cask.wish != "book and hold":
        write("booked", cask, context)
    return Empty()


class Cellar(cellar_pb2_grpc.CellarEventsServicer):
    async def OnCask(self, request: Any, context: EventContext) -> Empty:
        return await take(request, context)

    async def OnBottle(self, request: Any, context: EventContext) -> Empty:
        return await take(request, context)

    async def OnCrate(self, request: Any, context: EventContext) -> Empty:
        return await take(request, context)

    async def OnPallet(self, request: Any, context: EventContext) -> Empty:
        return await take(request, context)

    async def OnRecord(self, request: Any, context: EventContext) -> Empty:
        return await take(request, context)


app = App()
app.add_servicer(Cellar())
app.run()
