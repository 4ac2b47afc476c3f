"""A gRPC app for the stack's tests: it echoes, says who it is, and can be told to die.

It uses no generated code: the message types come from the descriptor set that the tests compile.
"""

import asyncio
import json
import os
import signal
import sys
from pathlib import Path

import grpc
import grpc.aio
from dapr.proto.runtime.v1 import appcallback_pb2, appcallback_pb2_grpc
from google.protobuf.any_pb2 import Any
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_status import rpc_status

SERVICE = "toy.v1.EchoService"


class Types:
    """The contract's messages."""

    def __init__(self):
        pool = DescriptorPool()
        for file in FileDescriptorSet.FromString(Path("generated/descriptors.binpb").read_bytes()).file:
            pool.Add(file)
        for name in ("EchoRequest", "CountRequest", "EchoReply"):
            setattr(self, name, GetMessageClass(pool.FindMessageTypeByName(f"toy.v1.{name}")))


def log(level, message, **fields):
    """Write one JSON line."""
    sys.stdout.write(json.dumps({"level": level, "message": message, **fields}) + "\n")
    sys.stdout.flush()


class Health(appcallback_pb2_grpc.AppCallbackHealthCheckServicer):
    """Always well."""

    async def HealthCheck(self, request, context):
        return appcallback_pb2.HealthCheckResponse()


class Callback(appcallback_pb2_grpc.AppCallbackServicer):
    """Subscribes to nothing."""

    async def ListTopicSubscriptions(self, request, context):
        return appcallback_pb2.ListTopicSubscriptionsResponse()

    async def ListInputBindings(self, request, context):
        return appcallback_pb2.ListInputBindingsResponse()


def handlers(types):
    """The service's methods."""

    def reply(text):
        env = {key: value for key, value in os.environ.items() if key.startswith(("TOY_", "APP_", "DAPR_"))}
        return types.EchoReply(text=text, app_id=os.environ["APP_ID"], pid=os.getpid(), env=env)

    async def echo(request, context):
        trace = dict(context.invocation_metadata()).get("traceparent", "--").split("-")[1]
        log("INFO", "echo", text=request.text, trace_id=trace)
        if request.text == "die":
            log("ERROR", "told to die")
            os._exit(7)
        return reply(request.text)

    async def count(request, context):
        for number in range(request.up_to):
            yield reply(str(number + 1))

    async def join(requests, context):
        return reply(" ".join([request.text async for request in requests]))

    async def refuse(request, context):
        details = [Any(), Any()]
        details[0].Pack(error_details_pb2.ErrorInfo(reason="NOT_TODAY", domain="toy", metadata={"day": "monday"}))
        violation = error_details_pb2.BadRequest.FieldViolation(field="text", description="too short")
        details[1].Pack(error_details_pb2.BadRequest(field_violations=[violation]))
        status = status_pb2.Status(code=code_pb2.INVALID_ARGUMENT, message="no", details=details)
        rich = rpc_status.to_status(status)
        await context.abort(rich.code, rich.details, rich.trailing_metadata)

    def options(request_type):
        return {
            "request_deserializer": request_type.FromString,
            "response_serializer": types.EchoReply.SerializeToString,
        }

    methods = {
        "Echo": grpc.unary_unary_rpc_method_handler(echo, **options(types.EchoRequest)),
        "Count": grpc.unary_stream_rpc_method_handler(count, **options(types.CountRequest)),
        "Join": grpc.stream_unary_rpc_method_handler(join, **options(types.EchoRequest)),
        "Refuse": grpc.unary_unary_rpc_method_handler(refuse, **options(types.EchoRequest)),
    }
    return grpc.method_handlers_generic_handler(SERVICE, methods)


async def main():
    """Serve until SIGTERM."""
    if os.environ.get("TOY_FAIL"):
        log("ERROR", "cannot start", why=os.environ["TOY_FAIL"])
        sys.exit(3)
    server = grpc.aio.server()
    checks = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(checks, server)
    appcallback_pb2_grpc.add_AppCallbackHealthCheckServicer_to_server(Health(), server)
    appcallback_pb2_grpc.add_AppCallbackServicer_to_server(Callback(), server)
    server.add_generic_rpc_handlers((handlers(Types()),))
    port = int(os.environ["APP_PORT"])
    if not server.add_insecure_port(f"127.0.0.1:{port}"):
        sys.exit(4)
    await server.start()
    if os.environ["APP_ID"] == "echo":
        await checks.set(SERVICE, health_pb2.HealthCheckResponse.SERVING)
    await checks.set("", health_pb2.HealthCheckResponse.SERVING)
    log("INFO", "serving", port=port)
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    await ended.wait()
    log("INFO", "draining")
    await server.stop(1)


if __name__ == "__main__":
    asyncio.run(main())
