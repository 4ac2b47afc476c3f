"""Service invocation: other apps by app id, through the sidecar: typed stubs of their contracts, methods by their name, HTTP."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

import grpc
from dapr.proto import api_v1, common_v1
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import DecodeError, Message

from apibase.clients._status import details_of, reason_of
from apibase.clients._values import decode, encode, name_of
from apibase.clients.http import HttpApp
from apibase.clients.http_status import not_through
from apibase.errors import CalleeError, SidecarError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from apibase.clients._transport import Sidecar
    from apibase.clients._values import Value

S = TypeVar("S")
V = TypeVar("V")
_PROTOBUF = "application/protobuf"


@dataclass(frozen=True, slots=True)
class InvocationResponse:
    """What a method that was called by its name answered."""

    app_id: str
    content_type: str
    packed: AnyMessage = field(repr=False)

    @property
    def data(self) -> bytes:
        """The answer's bytes."""
        return self.packed.value

    def decode(self, kind: type[V]) -> V:
        """Return the answer as a message, packed or as JSON, or as a model, text or JSON.

        Raises `CalleeError` (DATA_LOSS) where it is none.
        """
        try:
            if isinstance(kind, type) and issubclass(kind, Message) and self.packed.type_url:
                return _unpacked(self.packed, kind)
            return decode(self.data, kind)
        except (ValueError, DecodeError) as error:
            text = f"the answer of {self.app_id!r} is no {name_of(kind)}: {error}"
            raise CalleeError(self.app_id, grpc.StatusCode.DATA_LOSS, text) from error


class ServiceInvocationClient:
    """Calls other Dapr apps: name resolution, mTLS and resiliency are the sidecars'."""

    def __init__(self, sidecar: Sidecar) -> None:
        self._sidecar = sidecar

    def client(self, stub: Callable[[grpc.aio.Channel], S], *, app_id: str) -> S:
        """Return a generated stub whose every call goes to the app `app_id`.

        Calls carry `dapr-app-id` (and `dapr-stream` on streaming methods), the trace context, and what is left of the
        inbound call's deadline; unary calls without any deadline get the setting `call_timeout`. They raise
        `grpc.aio.AioRpcError` with the callee's status, as any stub does.
        """
        if not app_id:
            message = "app_id is empty"
            raise ValueError(message)
        return stub(self._sidecar.channel(app_id=app_id))

    def http(self, app_id: str) -> HttpApp:
        """Return the app `app_id`, to be called over HTTP. Raises `ValueError` for an empty app id."""
        return HttpApp(self._sidecar, app_id)

    async def invoke(
        self,
        app_id: str,
        method: str,
        data: Value = b"",
        *,
        headers: Mapping[str, str] | None = None,
        timeout: float | None = None,  # noqa: ASYNC109 - the call's, as gRPC has it
    ) -> InvocationResponse:
        """Call a method of a gRPC app by its name: what its `OnInvoke` answers, without a contract.

        A message goes packed, bytes and text as they are, everything else as JSON. Dapr says of this API that it is to go: a contract and
        `client` are to be had instead wherever the app called has one. It is not tried again. Raises `CalleeError` with the status
        that the app answers, `SidecarError` where the call does not get to it, `ValueError` for an empty app id or method.
        """
        if not app_id or not method:
            raise ValueError("app_id or method is empty")
        packed, content_type = _packed(data)
        message = common_v1.InvokeRequest(method=method, data=packed, content_type=content_type)
        request = api_v1.InvokeServiceRequest(id=app_id, message=message)
        metadata = tuple((name.lower(), value) for name, value in (headers or {}).items())

        async def call() -> common_v1.InvokeResponse:
            try:
                answer: common_v1.InvokeResponse = await self._sidecar.stub.InvokeService(
                    request, timeout=timeout, metadata=metadata
                )
            except grpc.aio.AioRpcError as error:
                told = _callee_error(app_id, error)
                if told is None:
                    raise
                raise told from error
            return answer

        answer = await self._sidecar.call(call, component=app_id)
        return InvocationResponse(app_id, answer.content_type, answer.data)


def _packed(data: Value) -> tuple[AnyMessage, str]:
    if isinstance(data, Message):
        packed = AnyMessage()
        packed.Pack(data)
        return packed, _PROTOBUF
    encoded, content_type = encode(data)
    return AnyMessage(value=encoded), content_type


def _unpacked(packed: AnyMessage, kind: type[V]) -> V:
    message = kind()
    assert isinstance(message, Message)  # noqa: S101 - for the type checker
    if not packed.Unpack(message):
        raise ValueError(f"it is {packed.TypeName()}")
    return message


def _callee_error(app_id: str, error: grpc.aio.AioRpcError) -> SidecarError | None:
    """Return what a call failed with at the other app, or on the way to it; None where the connection to the sidecar failed."""
    details = error.details() or ""
    on_the_way = not_through(app_id, details)
    if on_the_way is not None:
        return on_the_way
    status = details_of(error)
    if status is None and error.code() in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}:
        return None  # gRPC's own word, most likely; of an app's without details nothing tells it
    text = f"{app_id!r} answered {error.code().name}: {details}"
    return CalleeError(app_id, error.code(), text, callee_reason=reason_of(status))
