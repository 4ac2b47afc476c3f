"""A gRPC app that writes down what Kafka brings it, one JSON line each, just as daprd says it."""

import asyncio
import json
import os
import signal
import sys

import grpc.aio
from dapr.proto.runtime.v1 import appcallback_pb2, appcallback_pb2_grpc
from google.protobuf import json_format
from grpc_health.v1 import health, health_pb2, health_pb2_grpc


def write_down(kind, context, **fields):
    headers = {key: value for key, value in context.invocation_metadata() if isinstance(value, str)}
    sys.stdout.write(json.dumps({"kind": kind, "headers": headers, **fields}) + "\n")
    sys.stdout.flush()


class Health(appcallback_pb2_grpc.AppCallbackHealthCheckServicer):
    async def HealthCheck(self, request, context):
        return appcallback_pb2.HealthCheckResponse()


class Callback(appcallback_pb2_grpc.AppCallbackServicer):
    async def ListTopicSubscriptions(self, request, context):
        subscription = appcallback_pb2.TopicSubscription(pubsub_name="log", topic="events")
        return appcallback_pb2.ListTopicSubscriptionsResponse(subscriptions=[subscription])

    async def ListInputBindings(self, request, context):
        return appcallback_pb2.ListInputBindingsResponse(bindings=["feed"])

    async def OnTopicEvent(self, request, context):
        extensions = json_format.MessageToDict(request.extensions)
        write_down("topic", context, data=request.data.decode(), id=request.id, extensions=extensions)
        return appcallback_pb2.TopicEventResponse()

    async def OnBindingEvent(self, request, context):
        write_down("binding", context, data=request.data.decode(), metadata=dict(request.metadata))
        return appcallback_pb2.BindingEventResponse()


async def main():
    server = grpc.aio.server()
    checks = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(checks, server)
    appcallback_pb2_grpc.add_AppCallbackHealthCheckServicer_to_server(Health(), server)
    appcallback_pb2_grpc.add_AppCallbackServicer_to_server(Callback(), server)
    server.add_insecure_port(f"127.0.0.1:{os.environ['APP_PORT']}")
    await server.start()
    await checks.set("", health_pb2.HealthCheckResponse.SERVING)
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    await ended.wait()
    await server.stop(1)


if __name__ == "__main__":
    asyncio.run(main())
