"""Questions whose answer is "ready" or "not yet": never an error, never longer than half a second."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from apibase.local.ports import LOOPBACK

if TYPE_CHECKING:
    from pathlib import Path

Probe = Callable[[], Awaitable[bool]]
PROBE_SECONDS = 0.5
_POSTGRES_PROTOCOL = 3 << 16  # Version 3.0.
_POSTGRES_TERMINATE = b"X\0\0\0\4"
# Kafka's Metadata request, version 1, correlation id 1, no client id, no topics; the answer counts the brokers at byte 8.
_KAFKA_METADATA = struct.pack("!hhihi", 3, 1, 1, -1, 0)
_KAFKA_ANSWER_HEAD = struct.Struct("!iii")
# What an app may answer to a health check that reaches it, or its sidecar's access policy in its place.
_REACHED = {
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.UNAUTHENTICATED,
    grpc.StatusCode.UNIMPLEMENTED,
}


async def exchange(port: int, request: bytes, answer_bytes: int = 256) -> bytes:
    """Send bytes to a loopback port and return the first bytes of the answer; b"" if there is none."""
    writer: asyncio.StreamWriter | None = None
    try:
        async with asyncio.timeout(PROBE_SECONDS):
            reader, writer = await asyncio.open_connection(LOOPBACK, port)
            writer.write(request)
            await writer.drain()
            return await reader.read(answer_bytes)
    except (OSError, TimeoutError):
        return b""
    finally:
        if writer is not None:
            writer.close()


async def port_open(port: int) -> bool:
    """Whether something accepts connections."""
    try:
        async with asyncio.timeout(PROBE_SECONDS):
            _, writer = await asyncio.open_connection(LOOPBACK, port)
    except (OSError, TimeoutError):
        return False
    writer.close()
    return True


async def http_ok(port: int, path: str) -> bool:
    """Whether GET answers 200 or 204."""
    answer = await exchange(port, f"GET {path} HTTP/1.1\r\nHost: {LOOPBACK}\r\nConnection: close\r\n\r\n".encode())
    status = answer.split(b" ", 2)[1:2]
    return status in ([b"200"], [b"204"])


async def redis_ok(port: int) -> bool:
    """Whether Redis answers PING, which it does not while it still loads its data."""
    return (await exchange(port, b"PING\r\n")).startswith(b"+PONG")


async def postgres_ok(socket: Path, user: str) -> bool:
    """Whether PostgreSQL lets a user in, which it does not while it starts up or recovers."""
    parameters = f"user\0{user}\0database\0postgres\0\0".encode()
    startup = struct.pack("!ii", 8 + len(parameters), _POSTGRES_PROTOCOL) + parameters
    writer: asyncio.StreamWriter | None = None
    try:
        async with asyncio.timeout(PROBE_SECONDS):
            reader, writer = await asyncio.open_unix_connection(socket)
            writer.write(startup)
            answer = await reader.read(1)
            writer.write(_POSTGRES_TERMINATE)
            return answer == b"R"
    except (OSError, TimeoutError):
        return False
    finally:
        if writer is not None:
            writer.close()


async def kafka_ok(port: int) -> bool:
    """Whether Kafka names a broker that takes work, which it does not before its controller has let it in."""
    answer = await exchange(port, struct.pack("!i", len(_KAFKA_METADATA)) + _KAFKA_METADATA)
    if len(answer) < _KAFKA_ANSWER_HEAD.size:
        return False
    _, correlation, brokers = _KAFKA_ANSWER_HEAD.unpack_from(answer)
    return bool(correlation == 1 and brokers > 0)


async def grpc_serving(address: str, service: str = "") -> bool:
    """Whether `grpc.health.v1` says SERVING."""
    async with grpc.aio.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)]) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        try:
            answer = await stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=PROBE_SECONDS)
        except grpc.aio.AioRpcError:
            return False
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


async def sidecar_reaches(address: str, app_id: str) -> bool:
    """Whether calls that a sidecar forwards to this gRPC app arrive there, whatever the app answers."""
    async with grpc.aio.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)]) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        to_app = (("dapr-app-id", app_id),)
        try:
            await stub.Check(health_pb2.HealthCheckRequest(), timeout=PROBE_SECONDS, metadata=to_app)
        except grpc.aio.AioRpcError as error:
            return error.code() in _REACHED
        return True
