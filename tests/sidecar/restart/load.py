"""A program that calls its sidecar at an even rate, whatever becomes of it, and says at the end what became of each call.

`python load.py RATE DEADLINE` calls until a line comes on its standard input, and prints one line of JSON: the calls, and how late
the event loop was.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import sys
import time
from dataclasses import asdict, dataclass

import uvloop

from apibase import PubSubPublisher, Settings, Sidecar, SidecarError, StateManager
from apibase.deadline import deadline
from shop.orders.v1 import events_pb2, order_pb2

TICK = 0.005


@dataclass
class Made:
    """A call: when it began and how long it took, in seconds of the clock that all processes share, and how it ended."""

    kind: str
    began: float
    took: float
    outcome: str
    retryable: bool = True


@dataclass
class Late:
    """By how many seconds the loop was late, and when."""

    at: float
    seconds: float


async def call(kind: str, number: int, state: StateManager, publisher: PubSubPublisher) -> None:
    if kind == "get":
        await state.get(f"row-{number % 50}", order_pb2.Order)
    elif kind == "save":
        await state.save(f"row-{number % 50}", order_pb2.Order(order_id=str(number)))
    else:
        await publisher.publish(events_pb2.OrderPlaced(order=order_pb2.Order(order_id=str(number))))


async def one(kind: str, number: int, within: float, clients: tuple[StateManager, PubSubPublisher]) -> Made:
    deadline.set_remaining(within)  # of this task alone
    began = time.monotonic()
    try:
        await call(kind, number, *clients)
    except SidecarError as error:
        return Made(
            kind, began, time.monotonic() - began, type(error).__name__ + " " + error.code.name, error.retryable
        )
    return Made(kind, began, time.monotonic() - began, "OK")


async def lags(found: list[Late]) -> None:
    due = time.monotonic() + TICK
    while True:
        await asyncio.sleep(max(due - time.monotonic(), 0))
        now = time.monotonic()
        found.append(Late(now, now - due))
        due = max(due + TICK, now)


async def main(rate: float, within: float) -> None:
    sidecar = Sidecar(Settings())
    await sidecar.wait_ready(30)
    clients = StateManager(sidecar, "postgres"), PubSubPublisher(sidecar)
    loop = asyncio.get_running_loop()
    ended = loop.run_in_executor(None, sys.stdin.readline)
    late: list[Late] = []
    watching = asyncio.ensure_future(lags(late))
    calls: list[asyncio.Task[Made]] = []
    due = time.monotonic()
    for number, kind in enumerate(itertools.cycle(("get", "save", "publish"))):
        if ended.done():
            break
        calls.append(asyncio.create_task(one(kind, number, within, clients)))
        due += 1 / rate
        await asyncio.sleep(max(due - time.monotonic(), 0))
    made = await asyncio.gather(*calls)
    watching.cancel()
    await sidecar.close()
    sys.stdout.write(
        json.dumps({"calls": [asdict(each) for each in made], "late": [asdict(each) for each in late]}) + "\n"
    )


uvloop.run(main(float(sys.argv[1]), float(sys.argv[2])))
