"""The echo service on `grpc.aio` and uvloop, with nothing around it: `python echo_raw.py PORT`.

With GRPC_THREADS=batch its threads are scheduled as those of `apibase.App` are.
"""

import os
import sys

import grpc
import uvloop
from bench.v1 import echo_pb2_grpc
from echo_handlers import AsyncioEcho

from apibase.grpc_threads import spare_the_loop


async def main() -> None:
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    echo_pb2_grpc.add_EchoServiceServicer_to_server(AsyncioEcho(), server)
    server.add_insecure_port(f"127.0.0.1:{sys.argv[1]}")
    await server.start()
    if os.environ.get("GRPC_THREADS") == "batch":
        spare_the_loop()
    await server.wait_for_termination()


uvloop.run(main())
