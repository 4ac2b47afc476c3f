"""The metadata of a call, which gRPC reads once for the search of its handler: kept for that call, and for no other."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import grpc
import pytest

from apibase import App
from apibase.middleware import Call, Proceed, middleware
from apibase.rpc import _Handlers, _metadata_of
from tests.unit.conftest import Desk

MINE, OTHERS = (("x-id", "mine"),), (("x-id", "others"),)


class Context:
    def invocation_metadata(self) -> Any:
        return MINE


def found(metadata: Any) -> None:
    handlers = _Handlers({"/desk.v1.Desk/Ask": grpc.unary_unary_rpc_method_handler(lambda *_: None)})
    handlers.service(SimpleNamespace(method="/desk.v1.Desk/Ask", invocation_metadata=metadata))  # type: ignore[arg-type]


async def test_it_is_that_which_was_read_for_the_task_of_the_call() -> None:
    found(OTHERS)

    assert _metadata_of(Context()) == OTHERS  # type: ignore[arg-type]


async def test_what_was_read_for_another_task_is_not_taken() -> None:
    found(OTHERS)

    async def other() -> Any:
        return _metadata_of(Context())  # type: ignore[arg-type]

    assert await asyncio.create_task(other()) == MINE


@pytest.mark.req("R13.2")
async def test_calls_at_one_time_never_have_each_others(desk: Desk, settings: Any, dapr: Any) -> None:
    class DeskService(desk.grpc.DeskServicer):  # type: ignore[misc]
        async def Ask(self, request: Any, context: Any) -> Any:
            return desk.pb2.Answer(text=request.text)

    @middleware()
    async def telling(call: Call, proceed: Proceed) -> Any:
        answer = await proceed(call)
        answer.text += " " + call.headers["x-id"]
        return answer

    app = App(settings)
    app.add_servicer(DeskService())
    app.add_middleware(telling)
    await app.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{app.port}") as channel:
            stub = desk.grpc.DeskStub(channel)

            async def ask(number: int) -> None:
                told = await stub.Ask(desk.pb2.Question(text=str(number)), metadata=(("x-id", str(number)),))
                assert told.text == f"{number} {number}"

            await asyncio.gather(*map(ask, range(300)))
    finally:
        await app.stop()
