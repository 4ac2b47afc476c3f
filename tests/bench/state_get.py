"""`StateManager.get` beside the generated stub's `GetState`, against the real daprd, one call of each in turn.

`python -m tests.bench.state_get` prints the medians and their ratio. The client has what an app's has: trace context, deadline, metrics.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import uvloop
from dapr.proto import api_service_v1, api_v1

from apibase import Sidecar, StateManager
from apibase.observability.metrics import Metrics
from shop.payments.v1 import payment_pb2
from tests.contract.sides import Side, real

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    Get = Callable[[], Awaitable[object]]

RAW, BYTES, MESSAGE = "stub.GetState", "get(key, bytes)", "get(key, Payment)"
_WARM_UP = 200
_CALLERS = 16
_VALUE = payment_pb2.Payment(payment_id="p-1", order_id="o-1", status=payment_pb2.PAYMENT_STATUS_CAPTURED)


@dataclass(frozen=True)
class Result:
    """Seconds of each call one after the other, and of each round of calls by 16 callers at once, by who called."""

    alone: dict[str, list[float]]
    crowd: dict[str, list[float]]

    def ratio(self, name: str) -> float:
        """Return how many times as long a call alone takes as the stub's: of the medians."""
        return statistics.median(self.alone[name]) / statistics.median(self.alone[RAW])

    def crowd_ratio(self, name: str) -> float:
        """Return how many times as long 16 callers take: the median of the ratios of neighbouring rounds."""
        pairs = zip(self.crowd[name], self.crowd[RAW], strict=True)
        return statistics.median(ours / raw for ours, raw in pairs)

    def text(self) -> str:
        """Return the figures as a table in Markdown."""
        rows = ["| call | median µs | ratio | 16 callers, ratio |", "| --- | ---: | ---: | ---: |"]
        rows += [
            f"| `{name}` | {statistics.median(self.alone[name]) * 1e6:.0f} | {self.ratio(name):.2f} | {self.crowd_ratio(name):.2f} |"
            for name in self.alone
        ]
        return "\n".join(rows)


async def measure(side: Side, store: str, *, calls: int, rounds: int) -> Result:
    """Call each `calls` times alone, then `rounds` rounds of as many with 16 callers, in an order that changes each time."""
    sidecar = Sidecar(side.settings, Metrics())
    key = side.key()
    try:
        async with grpc.aio.insecure_channel(side.settings.sidecar_address) as channel:
            stub = api_service_v1.DaprStub(channel)  # type: ignore[no-untyped-call]
            state = StateManager(sidecar, store)
            await state.save(key, _VALUE)
            gets: dict[str, Get] = {
                RAW: lambda: stub.GetState(api_v1.GetStateRequest(store_name=store, key=key)),
                BYTES: lambda: state.get(key, bytes),
                MESSAGE: lambda: state.get(key, payment_pb2.Payment),
            }
            await _alone(gets, _WARM_UP)
            return Result(await _alone(gets, calls), await _crowd(gets, calls, rounds))
    finally:
        await sidecar.close()


async def _alone(gets: dict[str, Get], calls: int) -> dict[str, list[float]]:
    seconds: dict[str, list[float]] = {name: [] for name in gets}
    names = list(gets)
    for _ in range(calls):
        random.shuffle(names)
        for name in names:
            began = time.perf_counter()
            await gets[name]()
            seconds[name].append(time.perf_counter() - began)
    return seconds


async def _crowd(gets: dict[str, Get], calls: int, rounds: int) -> dict[str, list[float]]:
    seconds: dict[str, list[float]] = {name: [] for name in gets}
    names = list(gets)

    async def caller(get: Get) -> None:
        for _ in range(calls // _CALLERS):
            await get()

    for _ in range(rounds):
        random.shuffle(names)
        for name in names:
            began = time.perf_counter()
            await asyncio.gather(*(caller(gets[name]) for _ in range(_CALLERS)))
            seconds[name].append(time.perf_counter() - began)
    return seconds


async def _main(arguments: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as folder:
        async with real(arguments.dapr, Path(folder)) as side:
            for store in arguments.stores:
                result = await measure(side, store, calls=arguments.calls, rounds=arguments.rounds)
                sys.stdout.write(
                    f"{store}, daprd {arguments.dapr}, {arguments.calls} calls each\n\n{result.text()}\n\n"
                )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=3000)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--dapr", default="1.18")
    parser.add_argument("--stores", nargs="+", default=["postgres", "redis"])
    uvloop.run(_main(parser.parse_args()))


if __name__ == "__main__":
    main()
