"""Another app, behind the fake sidecar, with a method of each kind."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc

from tests.unit.conftest import Desk

KINDS = ["Ask", "Listen", "Tell", "Talk"]


class Remote:
    """Another app, behind the sidecar: notes what each call carries."""

    def __init__(self, desk: Desk) -> None:
        self.metadata: dict[str, dict[str, str]] = {}
        self.seconds_left: dict[str, float | None] = {}
        self.hold = asyncio.Event()
        self.hold.set()
        self._desk = desk

    async def note(self, method: str, context: Any) -> None:
        metadata = list(context.invocation_metadata() or ())
        self.metadata[method] = dict(metadata)
        assert len(metadata) == len(self.metadata[method]), f"a header came twice: {metadata}"
        self.seconds_left[method] = context.time_remaining()
        await self.hold.wait()

    def handler(self) -> grpc.GenericRpcHandler:
        pb2 = self._desk.pb2

        async def ask(request: Any, context: Any) -> Any:
            await self.note("Ask", context)
            return pb2.Answer(text=request.text)

        async def listen(request: Any, context: Any) -> AsyncIterator[Any]:
            await self.note("Listen", context)
            yield pb2.Answer(text=request.text)

        async def tell(requests: Any, context: Any) -> Any:
            await self.note("Tell", context)
            return pb2.Answer(text="".join([request.text async for request in requests]))

        async def talk(requests: Any, context: Any) -> AsyncIterator[Any]:
            await self.note("Talk", context)
            async for request in requests:
                yield pb2.Answer(text=request.text)

        codec: dict[str, Any] = {
            "request_deserializer": pb2.Question.FromString,
            "response_serializer": pb2.Answer.SerializeToString,
        }
        return grpc.method_handlers_generic_handler(
            "desk.v1.Desk",
            {
                "Ask": grpc.unary_unary_rpc_method_handler(ask, **codec),
                "Listen": grpc.unary_stream_rpc_method_handler(listen, **codec),
                "Tell": grpc.stream_unary_rpc_method_handler(tell, **codec),
                "Talk": grpc.stream_stream_rpc_method_handler(talk, **codec),
            },
        )


async def call(desk: Desk, stub: Any, kind: str, **options: Any) -> str:
    """Make one call of a kind, with one message each way."""
    question = desk.pb2.Question(text="why")
    request = question if kind in {"Ask", "Listen"} else iter([question])
    made = getattr(stub, kind)(request, **options)
    if kind in {"Ask", "Tell"}:
        return (await made).text
    return "".join([answer.text async for answer in made])
