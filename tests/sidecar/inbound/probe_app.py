"""An app that has every way in, does what an event asks for, and logs what came."""

from __future__ import annotations

import collections
from typing import Any

import grpc
from google.protobuf.empty_pb2 import Empty
from loguru import logger
from probe.v1 import probe_pb2_grpc

from apibase import App, Drop, EventContext, Retry, ServiceError


class Probe(probe_pb2_grpc.ProbeEventsServicer):
    def __init__(self) -> None:
        self.seen: collections.Counter[tuple[str, str]] = collections.Counter()

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
        ).info("took {}", id_)
        if wish == "drop":
            raise Drop("the task asked for it", code="ASKED_FOR")
        if wish == "refuse":
            raise ServiceError(grpc.StatusCode.FAILED_PRECONDITION, "NEVER", "this can never be done")
        if wish == "retry once" and first:
            raise Retry
        if wish == "break once" and first:
            raise RuntimeError("inner text")
        return Empty()

    async def OnTask(self, request: Any, context: EventContext) -> Empty:
        return self.take("OnTask", context, request)

    async def OnNote(self, request: Any, context: EventContext) -> Empty:
        return self.take("OnNote", context, request)

    async def OnUrgentTask(self, request: Any, context: EventContext) -> Empty:
        return self.take("OnUrgentTask", context, request)

    async def OnHopelessTask(self, request: Any, context: EventContext) -> Empty:
        return self.take("OnHopelessTask", context, request)

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


app = App()
app.add_servicer(Probe())
app.run()
