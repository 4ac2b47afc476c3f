"""A sidecar that dies and comes back under 200 calls a second: what becomes of each call, and of the event loop."""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from apibase.local.probes import http_ok
from tests.contract.sides import Side, real
from tests.sidecar.shop import eventually

ROOT = Path(__file__).parent.parent.parent
RATE = 200.0
DEADLINE = 2.0
SLACK = 0.25  # beyond a deadline, on a machine that is busy
UP_SECONDS, DOWN_SECONDS, AGAIN_SECONDS = 5.0, 3.0, 5.0

pytestmark = [pytest.mark.full, pytest.mark.timeout(180)]


async def load(side: Side, errors: Path) -> asyncio.subprocess.Process:
    with errors.open("wb") as told:
        return await asyncio.create_subprocess_exec(
            *(sys.executable, str(Path(__file__).parent / "restart/load.py"), str(RATE), str(DEADLINE)),
            env={
                **os.environ,
                "APP_ID": "contract",
                "DAPR_GRPC_ENDPOINT": side.settings.sidecar_address,
                "PYTHONPATH": f"{ROOT}/service:{ROOT}/generated",
                "GRPC_VERBOSITY": "NONE",
            },
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=told,
            limit=2**26,
        )


def late(report: dict[str, Any], since: float, until: float) -> float:
    """The 99th percentile of the loop's lateness, in seconds."""
    values = [each["seconds"] for each in report["late"] if since <= each["at"] < until]
    return statistics.quantiles(values, n=100)[98]


@pytest.mark.req("R1.5", "R1.4")
async def test_every_call_ends_well_or_says_that_it_may_be_tried_again_and_the_client_recovers_by_itself(
    tmp_path: Path,
) -> None:
    async with real("1.18", tmp_path) as side:
        assert side.stack is not None
        program = await load(side, tmp_path / "errors")
        try:
            began = time.monotonic()
            await asyncio.sleep(UP_SECONDS)  # of load, not of waiting for something
            killed = time.monotonic()
            await side.stack.kill_sidecar("contract")
            await asyncio.sleep(DOWN_SECONDS)
            port = side.settings.dapr_http_port

            async def back() -> float:
                return time.monotonic() if await http_ok(port, "/v1.0/healthz/outbound") else 0.0

            watching = asyncio.ensure_future(eventually(back, within=30, what="the sidecar answers again"))
            await side.stack.restart_sidecar("contract")
            answers = await watching
            await asyncio.sleep(AGAIN_SECONDS)
        finally:
            printed, _ = await program.communicate(b"\n")
    assert program.returncode == 0, (tmp_path / "errors").read_text()[-2000:]
    report = json.loads(printed)
    calls = [each for each in report["calls"] if each["began"] > began + 1.5]  # without its start

    by_outcome = Counter(f"{each['kind']}: {each['outcome']}" for each in calls)
    assert all(each["retryable"] for each in calls), by_outcome
    assert max(each["took"] for each in calls) < DEADLINE + SLACK, by_outcome
    assert any(each["outcome"] != "OK" for each in calls), "the sidecar was never away"
    assert len(calls) > 0.9 * RATE * (answers - began - 1.5)

    recovered = min(
        each["began"] + each["took"]
        for each in calls
        if each["outcome"] == "OK" and each["began"] > answers - 0.5 and each["began"] + each["took"] > answers
    )
    settled = [each for each in calls if each["began"] > answers + 2.0]
    assert recovered - answers < 2.0
    assert settled
    assert all(each["outcome"] == "OK" for each in settled), Counter(each["outcome"] for each in settled)

    with_sidecar, without = late(report, began + 2, killed), late(report, killed, answers + 2)
    sys.stdout.write(
        f"\n{len(calls)} calls: {dict(by_outcome)}\nrecovered {recovered - answers:.2f} s after the sidecar; "
        f"loop late by p99 {with_sidecar * 1e3:.1f} ms before, {without * 1e3:.1f} ms while away\n"
    )
    assert without <= max(2 * with_sidecar, 0.025)
