"""`python -m tests.bench.chain`: measure, and write the result down in docs/benchmarks/."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from tests.bench.chain import memory, profile, report
from tests.bench.chain.rounds import CELLS, measure
from tests.bench.chain.servers import surroundings

if TYPE_CHECKING:
    from tests.bench.chain.rounds import Result

_ROOT = Path(__file__).parents[3]
_PROFILED = ("one-core", "production")


def main() -> None:
    """Measure the cells and profile the server at production settings, or watch its memory."""
    arguments = _arguments()
    if arguments.rounds < 1:
        sys.exit("--rounds must be 1 or more, 7 for an interval that says something")
    scratch = _ROOT / ".apibase/bench"
    scratch.mkdir(parents=True, exist_ok=True)
    arguments.out.mkdir(parents=True, exist_ok=True)
    try:
        asyncio.run(_memory(arguments, scratch) if arguments.memory else _chain(arguments, scratch))
    except RuntimeError as error:
        sys.exit(f"bench-chain: {error}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench-chain", description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=4.0, help="of load for each server in each round")
    parser.add_argument("--seed", type=int, default=20_26, help="of the order within a round")
    parser.add_argument("--cells", nargs="+", choices=list(CELLS), default=list(CELLS))
    parser.add_argument(
        "--servers", nargs="+", default=[], help="only these, by their short names; raw is what all are held against"
    )
    parser.add_argument("--profile", action="store_true", help="make the profile only")
    parser.add_argument("--memory", action="store_true", help="call a million times and watch the memory")
    parser.add_argument("--calls", type=int, default=1_000_000, help="how often for --memory")
    parser.add_argument("--out", type=Path, default=_ROOT / "docs/benchmarks", help="folder that the results go to")
    return parser.parse_args()


async def _chain(arguments: argparse.Namespace, scratch: Path) -> None:
    profile.py_spy()  # better told now than after a quarter of an hour
    known = report.facts({"rounds": arguments.rounds, "seconds": arguments.seconds, "seed": arguments.seed})
    async with surroundings(scratch) as around:
        if not arguments.profile:
            results: dict[str, Result] = {}
            for name in arguments.cells:
                results[name] = await measure(
                    CELLS[name],
                    around,
                    rounds=arguments.rounds,
                    seconds=arguments.seconds,
                    seed=arguments.seed,
                    servers=arguments.servers,
                )
                sys.stdout.write(f"## {CELLS[name].title}\n\n{report.table(results[name])}\n\n")
            report.write(arguments.out, results, known)
        cell, server = _PROFILED
        found = await profile.sample(around, cell, server, arguments.seconds * 5)
    (arguments.out / "chain-profile.md").write_text(profile.text(found, server, cell, report.as_line(known)))


async def _memory(arguments: argparse.Namespace, scratch: Path) -> None:
    known = report.facts({"calls": arguments.calls})
    async with surroundings(scratch) as around:
        found = await memory.watch(around, arguments.calls)
    result = {
        **known,
        "growth_bytes": found.growth,
        "failed": found.failed,
        "samples": [asdict(s) for s in found.samples],
    }
    (arguments.out / "chain-memory.json").write_text(json.dumps(result, indent=2) + "\n")
    text = (
        f"# Memory over {arguments.calls:,} calls\n\nResident memory of `apibase.App` at production settings, looked at between calls of "
        f"`Echo`. {report.as_line(known)}\n\n{found.table()}\n\nThe last quarter is {found.growth / 1024:,.0f} KiB above the second: "
        f"{found.bytes_per_call:.2f} bytes for each call between them. Calls that did not end OK: {found.failed}.\n"
    )
    (arguments.out / "chain-memory.md").write_text(text)
    sys.stdout.write(text)
