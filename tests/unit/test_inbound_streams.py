"""The border around streams: every message is validated, and a handler ends with its call, whichever way that ends."""

from __future__ import annotations

import asyncio
import gc
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from apibase import ServiceError
from apibase.deadline import deadline
from apibase.observability import trace_ids
from apibase.rpc import rpc_handlers
from tests.unit.chains import chain
from tests.unit.fake_dapr import eventually
from tests.unit.status import refused

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.unit.conftest import Desk, Log


async def test_all_four_kinds_of_rpc_are_served(desk: Desk, served: Any, log: Log) -> None:
    async def ask(request: Any, context: Any) -> Any:
        return desk.pb2.Answer(text=request.text)

    async def listen(request: Any, context: Any) -> AsyncIterator[Any]:
        for letter in request.text:
            yield desk.pb2.Answer(text=letter)

    async def tell(requests: Any, context: Any) -> Any:
        return desk.pb2.Answer(text="".join([request.text async for request in requests]))

    async def talk(requests: Any, context: Any) -> AsyncIterator[Any]:
        async for request in requests:
            yield desk.pb2.Answer(text=request.text.upper())

    one, two = desk.pb2.Question(text="ab"), desk.pb2.Question(text="c")
    async with served(ask=ask, listen=listen, tell=tell, talk=talk) as stub:
        assert (await stub.Ask(one)).text == "ab"
        assert [answer.text async for answer in stub.Listen(one)] == ["a", "b"]
        assert (await stub.Tell(iter([one, two]))).text == "abc"
        assert [answer.text async for answer in stub.Talk(iter([one, two]))] == ["AB", "C"]
        await eventually(lambda: len(log.of(logger="apibase.call")) == 4)

    assert {line["code"] for line in log.of(logger="apibase.call")} == {"OK"}


async def test_a_handler_that_writes_to_the_context_itself_is_served_too(desk: Desk, served: Any) -> None:
    async def listen(request: Any, context: Any) -> None:
        await context.write(desk.pb2.Answer(text="written"))

    async with served(listen=listen) as stub:
        assert [answer.text async for answer in stub.Listen(desk.pb2.Question(text="why"))] == ["written"]


async def test_an_invalid_message_within_a_stream_ends_it(desk: Desk, served: Any) -> None:
    seen: list[str] = []

    async def tell(requests: Any, context: Any) -> Any:
        async for request in requests:
            seen.append(request.text)  # noqa: PERF401 - one by one, as they come
        return desk.pb2.Answer()

    async def talk(requests: Any, context: Any) -> AsyncIterator[Any]:
        async for request in requests:
            yield desk.pb2.Answer(text=request.text)

    questions = [desk.pb2.Question(text="fine"), desk.pb2.Question(text=""), desk.pb2.Question(text="late")]
    async with served(tell=tell, talk=talk) as stub:
        with refused() as told:
            await stub.Tell(iter(questions))
        call = stub.Talk(iter(questions))
        assert (await call.read()).text == "fine"
        with refused() as told_of_a_dialogue:
            await call.read()

    assert seen == ["fine"]
    assert told.code is told_of_a_dialogue.code is grpc.StatusCode.INVALID_ARGUMENT
    assert told.fields == told_of_a_dialogue.fields == {"text": "string.min_len"}


async def test_bytes_that_are_no_message_within_a_stream_end_it(desk: Desk, grpc_aio_channel: Any) -> None:
    servicer = desk.grpc.DeskServicer()

    async def tell(requests: Any, context: Any) -> Any:
        return desk.pb2.Answer(text=str(len([request async for request in requests])))

    servicer.Tell = tell
    async with grpc_aio_channel(servicer=servicer) as channel:
        with refused() as told:
            await channel.stream_unary("/desk.v1.Desk/Tell")(iter([b"\xff\xff"]))

    assert (told.code, told.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "UNREADABLE_REQUEST")


async def test_an_error_after_some_answers_still_has_its_details(desk: Desk, served: Any, log: Log) -> None:
    async def listen(request: Any, context: Any) -> AsyncIterator[Any]:
        yield desk.pb2.Answer(text="first")
        raise ServiceError(grpc.StatusCode.OUT_OF_RANGE, "NO_MORE", "that was all", metadata={"had": "1"})

    async with served(listen=listen) as stub:
        call = stub.Listen(desk.pb2.Question(text="why"))
        assert (await call.read()).text == "first"
        with refused() as told:
            await call.read()

    assert (told.code, told.reason, told.metadata) == (grpc.StatusCode.OUT_OF_RANGE, "NO_MORE", {"had": "1"})
    assert log.one(logger="apibase.call")["code"] == "OUT_OF_RANGE"


async def test_a_stream_that_breaks_unexpectedly_is_internal_without_inner_text(
    desk: Desk, served: Any, log: Log
) -> None:
    async def talk(requests: Any, context: Any) -> AsyncIterator[Any]:
        async for request in requests:
            yield desk.pb2.Answer(text=request.text)
            raise KeyError("hunter2")

    async with served(talk=talk) as stub:
        call = stub.Talk(iter([desk.pb2.Question(text="a"), desk.pb2.Question(text="b")]))
        await call.read()
        with refused() as told:
            await call.read()

    assert told.code is grpc.StatusCode.INTERNAL
    assert "hunter2" not in told.everything
    assert log.one(error_id=told.metadata["error_id"])["error"]["type"] == "KeyError"


async def test_a_caller_that_leaves_a_waiting_stream_ends_its_handler(desk: Desk, served: Any, log: Log) -> None:
    cleaned_up = asyncio.Event()

    async def listen(request: Any, context: Any) -> AsyncIterator[Any]:
        try:
            yield desk.pb2.Answer(text="first")
            await asyncio.Event().wait()
        finally:
            cleaned_up.set()

    async with served(listen=listen) as stub:
        call = stub.Listen(desk.pb2.Question(text="why"))
        await call.read()
        call.cancel()
        await asyncio.wait_for(cleaned_up.wait(), 5)
        await eventually(lambda: log.of(logger="apibase.call"))

    assert log.one(logger="apibase.call")["code"] == "CANCELLED"
    assert log.of(level="ERROR") == []


async def test_a_caller_that_leaves_while_an_answer_is_being_sent_ends_the_handler_within_the_call(
    desk: Desk, served: Any, log: Log
) -> None:
    ended: list[tuple[str, float | None]] = []
    sent = 0

    async def listen(request: Any, context: Any) -> AsyncIterator[Any]:
        nonlocal sent
        try:
            while True:
                sent += 1
                yield desk.pb2.Answer(text="x" * 200_000)
        finally:
            ended.append((trace_ids()[0], deadline.bound(None)))

    async with served(listen=listen) as stub:
        call = stub.Listen(
            desk.pb2.Question(text="why"), metadata=(("traceparent", f"00-{'ab' * 16}-{'cd' * 8}-01"),), timeout=60
        )
        await call.read()
        await eventually(lambda: sent > 1)  # flow control holds the handler in the middle of a write
        call.cancel()
        await eventually(lambda: log.of(logger="apibase.call"))
        gc.collect()

    ((trace_id, seconds_left),) = ended
    assert trace_id == "ab" * 16
    assert seconds_left is not None
    line = log.one(logger="apibase.call")
    assert (line["code"], line["trace_id"]) == ("CANCELLED", "ab" * 16)
    assert log.of(level="ERROR") == []


class Gone:
    """The context of a call that is over, though its handler was not told yet."""

    def invocation_metadata(self) -> tuple[()]:
        return ()

    def time_remaining(self) -> None:
        return None

    async def write(self, message: Any) -> None:
        raise grpc.aio.InternalError("the batch failed")


def handler(desk: Desk, servicer: Any, method: str) -> Any:
    """Return what gRPC calls for a method."""
    handlers = rpc_handlers(desk.pb2.DESCRIPTOR.services_by_name["Desk"], servicer, chain())
    return handlers.service(SimpleNamespace(method=f"/desk.v1.Desk/{method}", invocation_metadata=()))


def question(desk: Desk) -> bytes:
    return desk.pb2.Question(text="why").SerializeToString()


async def test_what_ends_the_process_passes_the_border_and_is_not_logged_as_ok(desk: Desk, log: Log) -> None:
    async def ask(request: Any, context: Any) -> Any:
        raise KeyboardInterrupt

    servicer = desk.grpc.DeskServicer()
    servicer.Ask = ask

    with pytest.raises(KeyboardInterrupt):
        await handler(desk, servicer, "Ask").unary_unary(question(desk), Gone())

    assert log.one(logger="apibase.call")["code"] == "UNKNOWN"


async def test_an_answer_that_cannot_be_written_any_more_ends_the_handler_quietly(desk: Desk, log: Log) -> None:
    ended: list[bool] = []

    async def listen(request: Any, context: Any) -> AsyncIterator[Any]:
        try:
            yield desk.pb2.Answer(text="first")
        finally:
            ended.append(True)

    servicer = desk.grpc.DeskServicer()
    servicer.Listen = listen

    # What gRPC takes for a call that was cancelled: it logs nothing, and sends nothing.
    with pytest.raises(asyncio.CancelledError):
        await handler(desk, servicer, "Listen").unary_stream(question(desk), Gone())

    assert ended == [True]
    assert log.one(logger="apibase.call")["code"] == "CANCELLED"
    assert log.of(level="ERROR") == []


async def test_an_answer_of_another_type_within_a_stream_is_internal(desk: Desk, served: Any) -> None:
    async def listen(request: Any, context: Any) -> AsyncIterator[Any]:
        yield request

    async with served(listen=listen) as stub:
        with refused() as told:
            await stub.Listen(desk.pb2.Question(text="why")).read()

    assert told.code is grpc.StatusCode.INTERNAL
