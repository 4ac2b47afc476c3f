"""What the app of the contract suite listens to, and what it does with an event: what the event asks for."""

from __future__ import annotations

import collections
import importlib
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from google.protobuf.empty_pb2 import Empty

from apibase import App, Drop, EventContext, Retry, SubscriptionMessage
from apibase.contract.codegen import generate
from tests.sidecar.shop import eventually

PROTOS = Path(__file__).parent / "protos"
TOPICS = ("delivery", "delivery.lone", "delivery.batch", "delivery.raw", "delivery.dead", "delivery.batch.dead")


@dataclass(frozen=True)
class Taken:
    """One time that a handler was called."""

    handler: str
    mark: str
    parcel: Any
    context: EventContext


@dataclass
class Listeners:
    """Every time that one was called, and every dead letter."""

    pb2: Any = None
    taken: list[Taken] = field(default_factory=list)
    letters: list[SubscriptionMessage] = field(default_factory=list)
    turns: collections.Counter[str] = field(default_factory=collections.Counter)

    def of(self, mark: str) -> list[Taken]:
        """Return the times that an event with this mark was brought."""
        return [taken for taken in self.taken if taken.mark == mark]

    async def brought(self, mark: str, times: int = 1, within: float = 10) -> list[Taken]:
        """Return them when they are so many."""

        async def found() -> list[Taken] | None:
            return self.of(mark) if len(self.of(mark)) >= times else None

        return await eventually(found, within=within, what=f"{mark} is brought {times} times")

    async def letter(self, event_id: str) -> SubscriptionMessage:
        """Return the dead letter of an event."""

        async def found() -> Any:
            return next((letter for letter in self.letters if letter.id() == event_id), None)

        return await eventually(found, within=10, what=f"the dead letter of {event_id}")

    def _take(self, handler: str, parcel: Any, context: EventContext) -> Empty:
        self.taken.append(Taken(handler, parcel.mark, parcel, context))
        self.turns[parcel.mark] += 1
        again = not parcel.times or self.turns[parcel.mark] <= parcel.times
        if parcel.wish == "drop":
            raise Drop("the parcel asked for it", code="ASKED_FOR")
        if parcel.wish == "retry" and again:
            raise Retry
        if parcel.wish == "break" and again:
            raise RuntimeError("inner text")
        return Empty()


def add_listeners(app: App, listeners: Listeners, folder: Path) -> None:
    """Have the app listen, by a contract that is generated into a folder."""
    generate([PROTOS], folder)
    sys.path.insert(0, str(folder))
    try:
        listeners.pb2 = importlib.import_module("delivery.v1.delivery_pb2")
        stubs = importlib.import_module("delivery.v1.delivery_pb2_grpc")
    finally:
        sys.path.remove(str(folder))

    class Events(stubs.DeliveryEventsServicer):  # type: ignore[name-defined,misc]
        async def OnTick(self, request: Empty, context: EventContext) -> Empty:
            listeners.taken.append(Taken("OnTick", "tick", request, context))
            return Empty()

    def handler(name: str) -> Any:
        async def handle(_self: Any, request: Any, context: EventContext) -> Empty:
            return listeners._take(name, request, context)

        return handle

    for name in ("OnHeavy", "OnFragile", "OnParcel", "OnLone", "OnBatch", "OnRaw"):
        setattr(Events, name, handler(name))
    app.add_servicer(Events())

    @app.subscribe("events", "delivery.dead")
    async def on_letter(message: SubscriptionMessage) -> None:
        listeners.letters.append(message)

    @app.subscribe("events", "delivery.batch.dead")
    async def on_letter_of_a_batch(message: SubscriptionMessage) -> None:
        listeners.letters.append(message)
