"""An app that has every way in, does what an event asks for, and logs what came."""

from __future__ import annotations

import asyncio
import collections
from typing import Any

import grpc
from google.protobuf.empty_pb2 import Empty
from loguru import logger
from probe.v1 import probe_pb2_grpc

from apibase import App, Drop, EventContext, InvokeMethodRequest, Retry, ServiceError


class Probe(probe_pb2_grpc.ProbeEventsServicer):
    def __init__(self) -> None:
        self.seen: collections.Counter[tuple[str, str]] = collections.Counter()
        self.well = True

    def take(self, handler: str, context: EventContext, task: Any = None) -> Empty:
        id_ = task.id if task is not None else context.source
        wish = getattr(task, "wish", "")
        self.seen[handler, id_] += 1
        first = self.seen[handler, id_] == 1
        logger.bind(
            logger="probe",
            handler=handler,
            id=id_,
            turn=self.seen[handler, id_],
            event_type=context.type,
            topic=context.topic,
            well=self.well,
        ).info("took {}", id_)
        if wish == "drop" or (wish == "drop once" and first):
            raise Drop("the task asked for it", code="ASKED_FOR")
        if wish == "refuse":
            raise ServiceError(grpc.StatusCode.FAILED_PRECONDITION, "NEVER", "this can never be done")
        if wish == "always retry" or (wish == "retry once" and first):
            raise Retry
        if wish == "break once" and first:
            raise RuntimeError("inner text")
        if wish == "be unavailable once" and first:
            raise ServiceError(grpc.StatusCode.UNAVAILABLE, "LATER", "not now")
        return Empty()

    async def OnTask(self, request: Any, context: EventContext) -> Empty:
        taken = self.take("OnTask", context, request)
        if request.wish == "lack a component once" and self.seen["OnTask", request.id] == 1:
            await app.state("nowhere").get("key")
        return taken

    async def OnNote(self, request: Any, context: EventContext) -> Empty:
        return self.take("OnNote", context, request)

    async def OnUrgentTask(self, request: Any, context: EventContext) -> Empty:
        return self.take("OnUrgentTask", context, request)

    async def OnHopelessTask(self, request: Any, context: EventContext) -> Empty:
        return self.take("OnHopelessTask", context, request)

    async def OnLockedTask(self, request: Any, context: EventContext) -> Empty:
        return self.take("OnLockedTask", context, request)

    async def OnBatch(self, request: Any, context: EventContext) -> Empty:
        return self.take("OnBatch", context, request)

    async def OnRaw(self, request: Any, context: EventContext) -> Empty:
        return self.take("OnRaw", context, request)

    async def OnTick(self, request: Any, context: EventContext) -> Empty:
        return self.take("OnTick", context)

    async def Nightly(self, request: Any, context: EventContext) -> Empty:
        return self.take("Nightly", context)

    async def Once(self, request: Any, context: EventContext) -> Empty:
        self.take("Once", context)
        if self.seen["Once", context.source] == 1:
            raise RuntimeError("the first run fails")
        return Empty()

    async def Hopeless(self, request: Any, context: EventContext) -> Empty:
        self.take("Hopeless", context)
        raise Drop("never")


app = App()
servicer = Probe()
app.add_servicer(servicer)


@app.method("wish")
async def wish(request: InvokeMethodRequest) -> str:
    match request.text():
        case "refuse":
            raise ServiceError(grpc.StatusCode.FAILED_PRECONDITION, "NEVER", "this can never be done")
        case "break once":
            raise RuntimeError("inner text")
    return "granted"


@app.method("be-unwell")
async def be_unwell(request: InvokeMethodRequest) -> None:
    def recover() -> None:
        servicer.well = True

    servicer.well = False
    asyncio.get_running_loop().call_later(float(request.text()), recover)


@app.register_health_check
async def check() -> None:
    if not servicer.well:
        raise RuntimeError("unwell, as asked for")


app.run()
