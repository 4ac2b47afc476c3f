"""`python -m apibase.testing.components FOLDER`: mock components in a process of their own, for a daprd that no test starts."""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from apibase.testing.components.mocks import MockComponents

if TYPE_CHECKING:
    from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until SIGINT or SIGTERM; 2 for arguments that are none."""
    parser = argparse.ArgumentParser(prog="python -m apibase.testing.components", description="Serve mock components.")
    parser.add_argument("folder", type=Path, help="where daprd looks for sockets: DAPR_COMPONENTS_SOCKETS_FOLDER")
    parser.add_argument("--name", default="mock", help="the components' types are state.NAME, pubsub.NAME and so on")
    parser.add_argument("--secrets", type=Path, help="a JSON file of secrets: a value each, or values by key")
    parser.add_argument("--seed", type=int, default=0, help="which operations fail, of those that fail at a rate")
    parser.add_argument(
        "--fault",
        action="append",
        default=[],
        metavar="FAULT",
        help="what is to go wrong: operation=state.get,status=UNAVAILABLE,rate=0.2; again for more",
    )
    given = parser.parse_args(arguments)
    mocks = MockComponents(given.folder, name=given.name, seed=given.seed)
    try:
        for fault in given.fault:
            mocks.faults.parse(fault)
        if given.secrets:
            mocks.secrets.secrets = json.loads(given.secrets.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        parser.error(str(error))
    asyncio.run(_serve(mocks))
    return 0


async def _serve(mocks: MockComponents) -> None:
    over = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, over.set)
    async with mocks:
        sys.stdout.write(f"mock components in {mocks.folder}\n")
        sys.stdout.flush()
        await over.wait()


if __name__ == "__main__":
    sys.exit(main())
