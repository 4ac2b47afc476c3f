"""The app beside the sidecar under test: what is called, published to and scheduled arrives here."""

from __future__ import annotations

import importlib
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc

from apibase import App, InvokeMethodRequest, InvokeMethodResponse, JobEvent, ServiceError, SubscriptionMessage
from apibase.contract.codegen import generate
from tests.contract.listeners import TOPICS as LISTENED
from tests.contract.listeners import Listeners, add_listeners
from tests.contract.sides import Side
from tests.sidecar.shop import eventually
from tests.unit.conftest import CONTRACTS, Desk

TOPICS = ("desk", "contract.plain", "contract.raw")
JOBS = ("contract-text", "contract-message", "contract-again", "contract-due")


@dataclass
class Beside:
    """What has arrived at the app."""

    desk: Desk
    events: list[SubscriptionMessage] = field(default_factory=list)
    jobs: list[JobEvent] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    listeners: Listeners = field(default_factory=Listeners)
    """What the contract's listeners were brought."""

    async def event(self, is_it: Callable[[SubscriptionMessage], object]) -> SubscriptionMessage:
        """Wait for an event."""
        return await self._wait(self.events, is_it, "event")

    async def job(self, name: str) -> JobEvent:
        """Wait for a job to be due."""
        return await self._wait(self.jobs, lambda job: job.name == name, f"job {name}")

    async def _wait(self, arrived: list[Any], is_it: Callable[[Any], object], what: str) -> Any:
        async def found() -> Any:
            return next((each for each in arrived if is_it(each)), None)

        return await eventually(found, within=10, what=what)


def generated(folder: Path) -> Desk:
    """Return the code of the tests' own contract."""
    generate([CONTRACTS], folder)
    sys.path.insert(0, str(folder))
    try:
        return Desk(importlib.import_module("desk.v1.desk_pb2"), importlib.import_module("desk.v1.desk_pb2_grpc"))
    finally:
        sys.path.remove(str(folder))


def desk_of(beside: Beside) -> Any:
    """Return a service with an rpc of each kind."""
    pb2 = beside.desk.pb2

    class Asked(beside.desk.grpc.DeskServicer):
        async def Ask(self, request: Any, context: Any) -> Any:
            beside.headers.append(
                {key: value for key, value in context.invocation_metadata() if isinstance(value, str)}
            )
            if request.text == "fail":
                raise ServiceError(grpc.StatusCode.FAILED_PRECONDITION, "DESK_CLOSED", "the desk is closed")
            return pb2.Answer(text=request.text)

        async def Listen(self, request: Any, context: Any) -> AsyncIterator[Any]:
            for word in request.text.split():
                yield pb2.Answer(text=word)

        async def Tell(self, request_iterator: Any, context: Any) -> Any:
            return pb2.Answer(text=" ".join([request.text async for request in request_iterator]))

        async def Talk(self, request_iterator: Any, context: Any) -> AsyncIterator[Any]:
            async for request in request_iterator:
                yield pb2.Answer(text=request.text)

    return Asked()


def app_of(beside: Beside, settings: Any) -> App:
    """Return the app."""
    pb2 = beside.desk.pb2
    app = App(settings)

    app.add_servicer(desk_of(beside))

    @app.method("echo")
    async def echo(request: InvokeMethodRequest) -> InvokeMethodResponse:
        beside.headers.append(dict(request.get_metadata()))
        return InvokeMethodResponse(request.data, request.content_type)

    @app.method("swap")
    async def swap(request: InvokeMethodRequest) -> Any:
        question = pb2.Question()
        request.unpack(question)
        return pb2.Answer(text=question.text[::-1])

    @app.method("closed")
    async def closed(_request: InvokeMethodRequest) -> None:
        raise ServiceError(grpc.StatusCode.FAILED_PRECONDITION, "DESK_CLOSED", "the desk is closed")

    @app.method("busy")
    async def busy(_request: InvokeMethodRequest) -> None:
        raise ServiceError(grpc.StatusCode.UNAVAILABLE, "DESK_BUSY", "the desk is busy")

    async def take_event(message: SubscriptionMessage) -> None:
        beside.events.append(message)

    async def take_job(job: JobEvent) -> None:
        beside.jobs.append(job)

    app.subscribe("events", "desk")(take_event)
    app.subscribe("events", "contract.plain")(take_event)
    app.subscribe("events", "contract.raw", metadata={"rawPayload": "true"})(take_event)
    for name in JOBS:
        app.job_event(name)(take_job)
    return app


@asynccontextmanager
async def running_beside(side: Side, folder: Path) -> AsyncIterator[Beside]:
    """Run the app until the block ends; it can be called through the sidecar."""
    beside = Beside(generated(folder))
    app = app_of(beside, side.settings)
    add_listeners(app, beside.listeners, folder / "delivery")
    stub = beside.desk.grpc.DeskStub(side.sidecar.channel(app_id="contract"))

    async def called() -> bool:
        try:
            await stub.Ask(beside.desk.pb2.Question(text="there"))
        except grpc.aio.AioRpcError:
            return False
        return True

    async def subscribed() -> bool:
        found = await app.metadata.get()
        return {*TOPICS, *LISTENED} <= {each.topic for each in found.subscriptions}

    await app.start()
    try:
        await eventually(called, within=20, what="the app can be called")
        await eventually(subscribed, within=20, what="the sidecar is subscribed")
        yield beside
    finally:
        await app.stop()
