"""What is written down of a measurement: every round as JSON, and tables for people."""

from __future__ import annotations

import json
import os
import platform
import statistics
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from tests.bench.chain.plot import plot
from tests.bench.chain.servers import SERVERS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.bench.chain.rounds import Result

_PACKAGES = (
    *("grpcio", "uvloop", "protobuf", "dapr", "opentelemetry-sdk", "opentelemetry-instrumentation-grpc"),
    *("prometheus-client", "loguru", "protovalidate"),
)
PEERS = {"bare": "sdk", "observed": "sdk-sampled", "production": "sdk-sampled", "everything": "sdk-everything"}
"""What of the SDK's is observed as much as ours."""

_HOW = """\
What the chain costs a call, and what the same service costs elsewhere: `grpc.aio` on uvloop with nothing around it,
`dapr.ext.grpc.App` bare and with the traces, metrics and log that its users add, and `apibase.App`. The handlers are the same
(`tests/bench/servers/echo_handlers.py`), in asyncio for two of them and in ten threads, as it comes, for the SDK's. ghz calls
over one connection, as daprd would, with a request of 100 bytes, a deadline, the caller's app id and the app's token.

- *Threads in batch*: gRPC's own threads under Linux's policy SCHED_BATCH, so that they do not interrupt the event loop. `apibase.App` has them so
  (`APIBASE_GRPC_THREADS`); this row has nothing else of it, so ours held against it is what the chain alone costs.
- *Errors only*: `APIBASE_MIDDLEWARE=errors`.
- *Traces, metrics and log alone*: what the SDK's app is given beside it, at 1 % of the spans and lines; none of the checks.
- *Production settings*: what `apibase.App` does unless told otherwise, with an OTLP exporter and every check in use. Each call is counted and
  timed; without a sampled parent 1 % of the calls get a span; a line in the log for errors, slow calls and 1 % of the rest; app token,
  callers by the contract, validation, deadline; a rate limit and a concurrency limit that are never reached.
- *Every span and line*: the same with a span and a line for every call.

In each round every server is loaded once, in an order drawn anew; the others are idle meanwhile. A ratio is the median of
those of the rounds, with the interval that holds it in {coverage:.0%} of cases (of the sign test). *On one core* means the server has one core
and the load the other; *on two*, both have both. Processor time is that of the server's process, the kernel's part included.
"""


def facts(arguments: Mapping[str, object]) -> dict[str, object]:
    """Return where and when something was measured, and with what."""
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": f"{os.cpu_count()} cores, {_processor()}, {platform.system()}, Python {platform.python_version()}",
        "load_average": round(os.getloadavg()[0], 2),
        "packages": {name: version(name) for name in _PACKAGES},
        **arguments,
    }


def as_line(known: Mapping[str, object]) -> str:
    """Return facts as a sentence."""
    packages = known["packages"]
    assert isinstance(packages, dict)
    return (
        f"{known['date']}; {known['machine']}; load average before it began {known['load_average']}; "
        f"{', '.join(f'{name} {number}' for name, number in packages.items())}."
    )


def write(folder: Path, results: Mapping[str, Result], known: Mapping[str, object]) -> str:
    """Write `chain.json`, `chain.md` and `chain.svg` into a folder, and return the text of the second."""
    cells = {
        name: {
            "title": result.cell.title,
            "ratios_to_raw": {server: asdict(result.ratio(server, "raw")) for server in result.rounds},
            "ratios_to_raw_batch": {
                server: asdict(result.ratio(server, "raw-batch"))
                for server in result.rounds
                if "raw-batch" in result.rounds
            },
            "spans_per_call": result.spans,
            "rounds": {server: [asdict(each) for each in rounds] for server, rounds in result.rounds.items()},
        }
        for name, result in results.items()
    }
    (folder / "chain.json").write_text(json.dumps({**known, "cells": cells}, indent=2) + "\n")
    (folder / "chain.svg").write_text(plot(results))
    text = _text(results, known)
    (folder / "chain.md").write_text(text)
    return text


def table(result: Result) -> str:
    """Return a cell as a table in Markdown."""
    unit = "messages" if result.cell.messages > 1 else "calls"
    head = [
        unit + "/s",
        "spread",
        "of raw",
        "of raw in batch",
        "µs of processor",
        "cores used",
        "p50 ms",
        "p99 ms",
        "spans per call",
    ]
    rows = [["server", *head], ["---", *["---:"] * len(head)]]
    for server in result.rounds:
        rates = result.values(server)
        rows.append(
            [
                SERVERS[server].title,
                f"{statistics.median(rates):,.0f}",
                f"{min(rates):,.0f} to {max(rates):,.0f}",
                *(_of(result, server, base) for base in ("raw", "raw-batch")),
                f"{statistics.median(result.values(server, 'cpu_microseconds')):,.0f}",
                f"{statistics.median(result.values(server, 'busy')):.2f}",
                f"{statistics.median(result.values(server, 'p50')):.1f}",
                f"{statistics.median(result.values(server, 'p99')):.1f}",
                f"{result.spans[server]:.2g}" if result.spans[server] else "",
            ]
        )
    return _markdown(rows)


def _of(result: Result, server: str, base: str) -> str:
    return str(result.ratio(server, base)) if base in result.rounds and server != base else ""


def _text(results: Mapping[str, Result], known: Mapping[str, object]) -> str:
    some = next(iter(results.values()))
    base = next(iter(some.rounds))
    how = _HOW.format(coverage=some.ratio(base, base).coverage)
    parts = [
        "# What the chain costs\n",
        how,
        f"{as_line(known)} {known['rounds']} rounds of {known['seconds']} s, seed {known['seed']}.\n",
        "![Ratios to raw grpc.aio](chain.svg)\n",
        *(f"## {result.cell.title}, {result.cell.callers} callers\n\n{table(result)}\n" for result in results.values()),
        _peers(results),
        f"Calls that did not end OK: {sum(result.failed for result in results.values())}. `make bench-chain` measures again.\n",
    ]
    return "\n".join(part for part in parts if part)


def _peers(results: Mapping[str, Result]) -> str:
    """Return how many times as much ours does as the SDK's that is observed as much."""
    both = {name: result for name, result in results.items() if {*PEERS, *PEERS.values()} <= set(result.rounds)}
    if not both:
        return ""
    head = [
        "",
        "bare",
        "metrics, 1 % of spans and lines",
        "the same, ours at production settings",
        "metrics, every span and line",
    ]
    rows = [head, ["---", *["---:"] * len(PEERS)]]
    rows += [
        [result.cell.title, *(str(result.ratio(ours, sdk)) for ours, sdk in PEERS.items())] for result in both.values()
    ]
    return f"## `apibase.App` against `dapr.ext.grpc.App`, observed alike\n\nHow many times as many calls:\n\n{_markdown(rows)}\n"


def _markdown(rows: list[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _processor() -> str:
    names = [line.split(":")[1].strip() for line in _lines(Path("/proc/cpuinfo")) if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []
