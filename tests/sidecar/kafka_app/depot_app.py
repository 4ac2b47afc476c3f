"""An app that Kafka feeds in every way, does what a parcel asks for, and logs what came and from where."""

from __future__ import annotations

import collections
from typing import Any

import grpc
from depot.v1 import depot_pb2_grpc
from google.protobuf.empty_pb2 import Empty
from loguru import logger

from apibase import App, Drop, EventContext, Retry, ServiceError


class Depot(depot_pb2_grpc.DepotEventsServicer):
    def __init__(self) -> None:
        self.seen: collections.Counter[tuple[str, str]] = collections.Counter()

    def take(self, handler: str, parcel: Any, context: EventContext) -> Empty:
        self.seen[handler, parcel.id] += 1
        turn = self.seen[handler, parcel.id]
        kafka = context.kafka
        logger.bind(
            logger="depot",
            handler=handler,
            id=parcel.id,
            turn=turn,
            kafka=kafka
            and {
                "topic": kafka.topic,
                "partition": kafka.partition,
                "offset": kafka.offset,
                "timestamp": kafka.timestamp and kafka.timestamp.isoformat(),
                "key": kafka.key,
                "headers": kafka.headers,
            },
            metadata=dict(context.metadata),
            pubsub_name=context.pubsub_name,
            event_topic=context.topic,
        ).info("took {}", parcel.id)
        match getattr(parcel, "wish", ""):
            case "drop":
                raise Drop("the parcel asked for it", code="ASKED_FOR")
            case "drop once" if turn == 1:
                raise Drop("the parcel asked for it", code="ASKED_FOR")
            case "refuse":
                raise ServiceError(grpc.StatusCode.FAILED_PRECONDITION, "NEVER", "this can never be done")
            case "lack":
                raise ServiceError(grpc.StatusCode.UNIMPLEMENTED, "NEVER", "nobody has written that")
            case "retry once" if turn == 1:
                raise Retry
            case "break once" if turn == 1:
                raise RuntimeError("inner text")
            case "always retry":
                raise Retry
        return Empty()

    async def OnParcel(self, request: Any, context: EventContext) -> Empty:
        return self.take("OnParcel", request, context)

    async def OnHeavyParcel(self, request: Any, context: EventContext) -> Empty:
        return self.take("OnHeavyParcel", request, context)

    async def OnReturn(self, request: Any, context: EventContext) -> Empty:
        return self.take("OnReturn", request, context)

    async def OnLooseParcel(self, request: Any, context: EventContext) -> Empty:
        return self.take("OnLooseParcel", request, context)

    async def OnLockedParcel(self, request: Any, context: EventContext) -> Empty:
        return self.take("OnLockedParcel", request, context)

    async def OnBatch(self, request: Any, context: EventContext) -> Empty:
        return self.take("OnBatch", request, context)

    async def OnRaw(self, request: Any, context: EventContext) -> Empty:
        return self.take("OnRaw", request, context)

    async def OnBareParcel(self, request: Any, context: EventContext) -> Empty:
        return self.take("OnBareParcel", request, context)

    async def OnArrival(self, request: Any, context: EventContext) -> Empty:
        return self.take("OnArrival", request, context)


app = App()
app.add_servicer(Depot())
app.run()
