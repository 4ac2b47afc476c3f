"""The service of `bench/v1/echo.proto`, once for an event loop and once for threads: the same work in the same words."""

import asyncio
import time

from bench.v1 import echo_pb2, echo_pb2_grpc

OFTEN = 100
WAIT_SECONDS = 0.02


class AsyncioEcho(echo_pb2_grpc.EchoServiceServicer):
    async def Echo(self, request, context):
        return echo_pb2.EchoResponse(text=request.text)

    async def EchoLater(self, request, context):
        await asyncio.sleep(WAIT_SECONDS)
        return echo_pb2.EchoResponse(text=request.text)

    async def EchoOften(self, request, context):
        for _ in range(OFTEN):
            yield echo_pb2.EchoResponse(text=request.text)

    async def EchoEach(self, requests, context):
        async for request in requests:
            yield echo_pb2.EchoResponse(text=request.text)


class ThreadedEcho(echo_pb2_grpc.EchoServiceServicer):
    def Echo(self, request, context):
        return echo_pb2.EchoResponse(text=request.text)

    def EchoLater(self, request, context):
        time.sleep(WAIT_SECONDS)
        return echo_pb2.EchoResponse(text=request.text)

    def EchoOften(self, request, context):
        for _ in range(OFTEN):
            yield echo_pb2.EchoResponse(text=request.text)

    def EchoEach(self, requests, context):
        for request in requests:
            yield echo_pb2.EchoResponse(text=request.text)
