"""The connection to the app beside the stand-in: what daprd asks it and brings it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import grpc
from dapr.proto import common_v1
from dapr.proto.runtime.v1 import appcallback_pb2, appcallback_pb2_grpc
from google.protobuf.empty_pb2 import Empty

from apibase.testing.stand_in.api import TOKEN

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Headers = tuple[tuple[str, str | bytes], ...]
_Verdict = appcallback_pb2.TopicEventResponse.TopicEventResponseStatus
_MOST_BYTES = 64 * 1024 * 1024
_NOT_TOLD = frozenset({"content-type", "content-length"})
_PROBE_SECONDS = 0.5


class AppLink:
    """The app's channel. Each call that brings something carries the app's token."""

    def __init__(self, address: str, token: str) -> None:
        self.address = address
        self._token = token
        options = [
            ("grpc.max_send_message_length", _MOST_BYTES),
            ("grpc.max_receive_message_length", _MOST_BYTES),
            ("grpc.initial_reconnect_backoff_ms", 50),
            ("grpc.min_reconnect_backoff_ms", 50),
            ("grpc.max_reconnect_backoff_ms", 500),
        ]
        self.channel = grpc.aio.insecure_channel(address, options)
        self._callback: Any = appcallback_pb2_grpc.AppCallbackStub(self.channel)  # type: ignore[no-untyped-call]
        self._alpha: Any = appcallback_pb2_grpc.AppCallbackAlphaStub(self.channel)  # type: ignore[no-untyped-call]
        self._health: Any = appcallback_pb2_grpc.AppCallbackHealthCheckStub(self.channel)  # type: ignore[no-untyped-call]

    async def close(self) -> None:
        """Close the connection."""
        await self.channel.close()

    async def is_listening(self) -> bool:
        """Return whether the app's port is open."""
        try:
            await asyncio.wait_for(self.channel.channel_ready(), _PROBE_SECONDS)
        except TimeoutError:
            return False
        return True

    async def is_healthy(self) -> bool:
        """Return whether the app answers the health probe."""
        try:
            await self._health.HealthCheck(Empty(), timeout=_PROBE_SECONDS)
        except grpc.aio.AioRpcError:
            return False
        return True

    async def subscriptions(self) -> Sequence[appcallback_pb2.TopicSubscription]:
        """Return what the app says that it subscribes to."""
        try:
            found: Any = (await self._callback.ListTopicSubscriptions(Empty())).subscriptions
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.UNIMPLEMENTED:
                return ()
            raise
        return list(found)

    async def bindings(self) -> Sequence[str]:
        """Return the input bindings that the app says it reads; none where it fails to."""
        try:
            found: Any = (await self._callback.ListInputBindings(Empty(), timeout=3)).bindings
        except grpc.aio.AioRpcError:
            return ()
        return list(found)

    async def deliver(self, request: appcallback_pb2.TopicEventRequest, headers: Mapping[str, str]) -> str:
        """Bring an event, and return the verdict, or the name of the status that the call ended with."""
        try:
            response = await self._callback.OnTopicEvent(request, metadata=self.headers(headers))
        except grpc.aio.AioRpcError as error:
            return error.code().name
        return verdict_of(response.status)

    async def deliver_bulk(
        self, request: appcallback_pb2.TopicEventBulkRequest, headers: Mapping[str, str]
    ) -> Mapping[str, str]:
        """Bring a batch, and return verdicts by entry."""
        metadata = self.headers(headers)
        try:
            try:
                response = await self._callback.OnBulkTopicEvent(request, metadata=metadata)
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.UNIMPLEMENTED:
                    raise
                response = await self._alpha.OnBulkTopicEventAlpha1(request, metadata=metadata)
        except grpc.aio.AioRpcError as error:
            return {entry.entry_id: error.code().name for entry in request.entries}
        return {status.entry_id: verdict_of(status.status) for status in response.statuses}

    async def deliver_binding(self, name: str, data: bytes, metadata: Mapping[str, str]) -> None:
        """Bring an event of an input binding. Raises gRPC's error."""
        request = appcallback_pb2.BindingEventRequest(name=name, data=data, metadata=metadata)
        await self._callback.OnBindingEvent(request, metadata=self.headers({}))

    async def deliver_job(self, name: str, data: Any) -> grpc.StatusCode:  # noqa: ANN401 - protobuf's own Any
        """Run a job, and return the status that the app answers."""
        post = common_v1.HTTPExtension(verb=common_v1.HTTPExtension.Verb.POST)
        request = appcallback_pb2.JobEventRequest(
            name=name, data=data, method=f"job/{name}", content_type=data.type_url, http_extension=post
        )
        metadata = self.headers({})
        try:
            try:
                await self._callback.OnJobEvent(request, metadata=metadata)
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.UNIMPLEMENTED:
                    raise
                await self._alpha.OnJobEventAlpha1(request, metadata=metadata)
        except grpc.aio.AioRpcError as error:
            return error.code()
        return grpc.StatusCode.OK

    def invoke(self, request: Any, headers: Headers) -> Any:  # noqa: ANN401 - grpc's call
        """Return the call of a method by its name."""
        return self._callback.OnInvoke(request, metadata=(*headers, *self.token_header))

    @property
    def token_header(self) -> Headers:
        """The header that proves the sidecar to the app."""
        return ((TOKEN, self._token),) if self._token else ()

    def headers(self, given: Mapping[str, str]) -> Headers:
        """Return metadata as the headers of a call, with the app's token."""
        told = tuple(
            (key.lower(), value)
            for key, value in given.items()
            if key.lower() not in _NOT_TOLD and value.isascii() and value.isprintable()
        )
        return (*told, *self.token_header)


def verdict_of(status: int) -> str:
    """Return a verdict's name; one that nobody knows is another try."""
    return next((name for name, number in _Verdict.items() if number == status), "RETRY")
