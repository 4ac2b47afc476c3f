"""The echo service on the SDK's `dapr.ext.grpc.App`, as it comes: `python echo_sdk.py PORT`."""

import sys

from bench.v1 import echo_pb2_grpc
from dapr.ext.grpc import App
from echo_handlers import ThreadedEcho

app = App()
app.add_external_service(echo_pb2_grpc.add_EchoServiceServicer_to_server, ThreadedEcho())
app.run(int(sys.argv[1]), "127.0.0.1")
