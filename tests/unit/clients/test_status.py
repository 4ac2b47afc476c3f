"""The details of a status that another app, or the sidecar, answers: read where they can be, and no trouble where they can't."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc import error_details_pb2, status_pb2

from apibase import CalleeError, ServiceInvocationClient, Settings, Sidecar, SidecarError, StateManager
from tests.unit.fake_dapr import FakeDapr


def details(code: int, message: str, reason: str) -> bytes:
    packed = AnyMessage()
    packed.Pack(error_details_pb2.ErrorInfo(reason=reason))
    return status_pb2.Status(code=code, message=message, details=[packed]).SerializeToString()


def unreadable() -> bytes:
    broken = AnyMessage(type_url="type.googleapis.com/google.rpc.ErrorInfo", value=b"\xff\xff")
    return status_pb2.Status(code=5, message="no such card", details=[broken]).SerializeToString()


NOT_FOUND = 5
CASES = pytest.mark.parametrize(
    ("trailer", "reason"),
    [
        (details(NOT_FOUND, "no such card", "CARD_UNKNOWN"), "CARD_UNKNOWN"),
        (details(13, "something else", "CARD_UNKNOWN"), "CARD_UNKNOWN"),
        (b"\xff\xffno status", ""),
        (unreadable(), ""),
    ],
    ids=["as it is to be", "another status", "garbage", "a detail that is garbage"],
)


class Answering(FakeDapr):
    """Fails what it is asked with details as they are given."""

    trailer = b""

    async def _answer(self, method: str, request: Any, context: Any) -> None:
        await self._take(method, request, context)
        context.set_trailing_metadata((("grpc-status-details-bin", self.trailer),))
        await context.abort(grpc.StatusCode.NOT_FOUND, "no such card")

    async def InvokeService(self, request: Any, context: Any) -> Any:
        await self._answer("InvokeService", request, context)

    async def GetState(self, request: Any, context: Any) -> Any:
        await self._answer("GetState", request, context)


@pytest.fixture
async def answering(settings: Settings) -> AsyncIterator[tuple[Answering, Sidecar]]:
    async with Answering(settings.sidecar_address) as fake:
        sidecar = Sidecar(settings)
        yield fake, sidecar
        await sidecar.close()


@CASES
async def test_another_apps_error_is_its_status_whatever_the_details_are(
    answering: tuple[Answering, Sidecar], trailer: bytes, reason: str
) -> None:
    fake, sidecar = answering
    fake.trailer = trailer

    with pytest.raises(CalleeError, match="'cards' answered NOT_FOUND: no such card") as caught:
        await ServiceInvocationClient(sidecar).invoke("cards", "find")

    assert (caught.value.code, caught.value.callee_reason) == (grpc.StatusCode.NOT_FOUND, reason)


@CASES
async def test_the_sidecars_error_is_its_status_whatever_the_details_are(
    answering: tuple[Answering, Sidecar], trailer: bytes, reason: str
) -> None:
    fake, sidecar = answering
    fake.trailer = trailer

    with pytest.raises(SidecarError, match="no such card") as caught:
        await StateManager(sidecar, "statestore").get("a", str)

    assert (caught.value.code, caught.value.dapr_code) == (grpc.StatusCode.NOT_FOUND, reason)
