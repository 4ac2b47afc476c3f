"""Adds letters to an archive, as one of several processes that do: the sidecar's address, a store, a mark, a number."""

from __future__ import annotations

import asyncio
import sys

from apibase import Settings, Sidecar, StateManager
from apibase.dead_letters.archive import DeadLetterArchive
from dapr_contract.v1.dead_letters_pb2 import DeadLetter


async def main(address: str, store: str, mark: str, count: int) -> None:
    sidecar = Sidecar(Settings(dapr_grpc_endpoint=address))
    archive = DeadLetterArchive(StateManager(sidecar, store))
    await asyncio.gather(*(archive.add(DeadLetter(id=f"{mark}-{number}")) for number in range(count)))
    await sidecar.close()


asyncio.run(main(*sys.argv[1:4], int(sys.argv[4])))
