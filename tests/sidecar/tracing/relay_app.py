"""An app that hands a call on to the next one, and logs in a task and in a thread of its own."""

from __future__ import annotations

import asyncio
from typing import Any

from loguru import logger
from opentelemetry import baggage, trace
from relay.v1 import relay_pb2, relay_pb2_grpc

from apibase import App

app = App()


def note(where: str) -> None:
    logger.bind(logger="relay", where=where).info("passing")


class Relay(relay_pb2_grpc.RelayServiceServicer):
    async def Pass(self, request: Any, context: Any) -> Any:
        async def in_a_task() -> None:
            await asyncio.sleep(0)
            note("task")

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(in_a_task())
            tasks.create_task(asyncio.to_thread(note, "thread"))
        state = trace.get_current_span().get_span_context().trace_state
        here = relay_pb2.Stop(
            app_id=app.settings.app_id, tenant=str(baggage.get_baggage("tenant")), tracestate=state.to_header()
        )
        if not request.route:
            if request.fail:
                raise RuntimeError("inner text")
            return relay_pb2.PassResponse(stops=[here])
        stub = app.invocation.client(relay_pb2_grpc.RelayServiceStub, app_id=request.route[0])
        rest = await stub.Pass(relay_pb2.PassRequest(route=request.route[1:], fail=request.fail))
        return relay_pb2.PassResponse(stops=[here, *rest.stops])


app.add_servicer(Relay())
app.run()
