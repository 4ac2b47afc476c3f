"""An app that can't handle some events until a file says that its bug is fixed. It runs as the depot or as the audit."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from depot.v1 import depot_pb2_grpc
from google.protobuf.empty_pb2 import Empty
from loguru import logger

from apibase import App, Drop, EventContext, Retry

FIXED = Path(os.environ["DEPOT_FIXED"])


def take(handler: str, parcel: Any, context: EventContext) -> Empty:
    logger.bind(logger="depot", handler=handler, id=parcel.id, token=bool(getattr(parcel, "token", ""))).info(
        "took {}", parcel.id
    )
    if parcel.wish == "drop for good" or (parcel.wish == "drop" and not FIXED.exists()):
        raise Drop(f"parcel {parcel.id} has no address", code="NO_ADDRESS")
    if parcel.wish == "retry" and not FIXED.exists():
        raise Retry
    return Empty()


class Depot(depot_pb2_grpc.DepotEventsServicer):
    async def OnParcel(self, request: Any, context: EventContext) -> Empty:
        return take("OnParcel", request, context)

    async def OnHeavyParcel(self, request: Any, context: EventContext) -> Empty:
        return take("OnHeavyParcel", request, context)

    async def OnCrate(self, request: Any, context: EventContext) -> Empty:
        return take("OnCrate", request, context)


class Audit(depot_pb2_grpc.AuditEventsServicer):
    async def OnAudited(self, request: Any, context: EventContext) -> Empty:
        logger.bind(logger="depot", handler="OnAudited", id=request.id).info("saw {}", request.id)
        return Empty()


app = App()
app.add_servicer(Audit() if app.settings.app_id == "audit" else Depot())
app.run()
