"""Service invocation: typed stubs of other apps' contracts, called through the sidecar by app id."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

    import grpc

    from apibase.clients._transport import Sidecar

S = TypeVar("S")


class ServiceInvocationClient:
    """Calls other Dapr apps over gRPC: name resolution, mTLS and resiliency are the sidecars'."""

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
