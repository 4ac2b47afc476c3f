"""The border of inbound rpcs: what reaches a handler, and what of its end reaches the caller and the log."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from apibase import Conflict, InvalidRequest, ServiceError, SidecarError, SidecarUnavailable
from apibase.errors import FieldViolation
from tests.unit.fake_dapr import eventually
from tests.unit.status import refused

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.unit.conftest import Desk, Log

SECRET = "postgres://admin:hunter2"


def raising(error: BaseException) -> Callable[..., Any]:
    async def handler(request: Any, context: Any) -> Any:
        raise error

    return handler


async def test_a_handler_gets_the_request_and_its_answer_goes_back(desk: Desk, served: Any, log: Log) -> None:
    async def ask(request: Any, context: Any) -> Any:
        return desk.pb2.Answer(text=request.text.upper())

    async with served(ask=ask) as stub:
        answer = await stub.Ask(desk.pb2.Question(text="why"), metadata=(("dapr-caller-app-id", "shop"),))

    assert answer.text == "WHY"
    line = log.one(logger="apibase.call")
    assert (line["method"], line["code"], line["caller"], line["level"]) == ("desk.v1.Desk.Ask", "OK", "shop", "INFO")
    assert line["duration_ms"] > 0


async def test_of_two_caller_ids_the_last_is_the_sidecars(desk: Desk, served: Any, log: Log) -> None:
    async def ask(request: Any, context: Any) -> Any:
        return desk.pb2.Answer()

    async with served(ask=ask) as stub:
        await stub.Ask(
            desk.pb2.Question(text="why"),
            metadata=(("dapr-caller-app-id", "forged"), ("dapr-caller-app-id", "shop")),
        )

    assert log.one(logger="apibase.call")["caller"] == "shop"


async def test_a_request_that_breaks_the_contract_never_reaches_the_handler(desk: Desk, served: Any, log: Log) -> None:
    reached: list[Any] = []

    async def ask(request: Any, context: Any) -> Any:
        reached.append(request)
        return desk.pb2.Answer()

    question = desk.pb2.Question(items=[desk.pb2.Item(quantity=1), desk.pb2.Item(quantity=-1)], marks={"a": -1})
    async with served(ask=ask) as stub:
        with refused() as told:
            await stub.Ask(question)

    assert reached == []
    assert told.code is grpc.StatusCode.INVALID_ARGUMENT
    assert (told.reason, told.domain) == ("INVALID_REQUEST", "dapr_contract.v1")
    assert told.fields == {
        "text": "string.min_len",
        "items[1].quantity": "int32.gte_lte",
        'marks["a"]': "int32.gte",
    }
    assert log.one(logger="apibase.call")["code"] == "INVALID_ARGUMENT"


async def test_a_thousand_violations_are_still_an_invalid_argument(desk: Desk, served: Any) -> None:
    question = desk.pb2.Question(text="why", items=[desk.pb2.Item(quantity=-1)] * 1000)
    async with served(ask=raising(AssertionError())) as stub:
        with refused() as told:
            await stub.Ask(question)

    assert told.code is grpc.StatusCode.INVALID_ARGUMENT
    assert "and 997 more" in told.message
    assert 10 < len(told.fields) < 1000


async def test_bytes_that_are_no_request_are_refused_and_logged(desk: Desk, grpc_aio_channel: Any, log: Log) -> None:
    async with grpc_aio_channel(servicer=desk.grpc.DeskServicer()) as channel:
        with refused() as told:
            await channel.unary_unary("/desk.v1.Desk/Ask")(b"\xff\xff\xff")

    assert told.code is grpc.StatusCode.INVALID_ARGUMENT
    assert told.reason == "UNREADABLE_REQUEST"
    assert log.one(logger="apibase.call")["code"] == "INVALID_ARGUMENT"


async def test_a_service_error_goes_out_with_its_code_reason_and_metadata(desk: Desk, served: Any, log: Log) -> None:
    error = ServiceError(grpc.StatusCode.NOT_FOUND, "NO_SUCH_DESK", "there is no desk 7", metadata={"desk": "7"})
    async with served(ask=raising(error)) as stub:
        with refused() as told:
            await stub.Ask(desk.pb2.Question(text="why"))

    assert (told.code, told.message) == (grpc.StatusCode.NOT_FOUND, "there is no desk 7")
    assert (told.reason, told.domain, told.metadata) == ("NO_SUCH_DESK", "desk.v1", {"desk": "7"})
    line = log.one(logger="apibase.call")
    assert (line["code"], line["reason"]) == ("NOT_FOUND", "NO_SUCH_DESK")


async def test_violations_that_a_handler_finds_go_out_like_the_contracts_own(desk: Desk, served: Any) -> None:
    error = InvalidRequest([FieldViolation("items[0]", "is sold out", "SOLD_OUT")], reason="SOLD_OUT")
    async with served(ask=raising(error)) as stub:
        with refused() as told:
            await stub.Ask(desk.pb2.Question(text="why"))

    assert (told.code, told.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "SOLD_OUT")
    assert told.fields == {"items[0]": "SOLD_OUT"}


@pytest.mark.req("R10.5")
async def test_an_unexpected_exception_is_internal_and_only_the_log_knows_more(
    desk: Desk, served: Any, log: Log
) -> None:
    async with served(ask=raising(RuntimeError(SECRET))) as stub:
        with refused() as told:
            await stub.Ask(desk.pb2.Question(text="why"), metadata=(("traceparent", f"00-{'ab' * 16}-{'cd' * 8}-01"),))

    assert (told.code, told.reason) == (grpc.StatusCode.INTERNAL, "INTERNAL")
    assert "hunter2" not in told.everything
    assert "RuntimeError" not in told.everything
    line = log.one(error_id=told.metadata["error_id"])
    assert told.metadata["error_id"] in told.message
    assert line["level"] == "ERROR"
    assert line["error"]["type"] == "RuntimeError"
    assert line["error"]["message"] == SECRET
    assert "test_inbound.py" in line["error"]["stack"]
    assert line["trace_id"] == "ab" * 16
    assert log.one(logger="apibase.call")["code"] == "INTERNAL"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        pytest.param(SidecarUnavailable(SECRET), "UNAVAILABLE", id="no sidecar"),
        pytest.param(Conflict(SECRET), "ABORTED", id="a lost race"),
        pytest.param(
            SidecarError(grpc.StatusCode.DEADLINE_EXCEEDED, "SIDECAR_ERROR", SECRET), "DEADLINE_EXCEEDED", id="too slow"
        ),
        pytest.param(
            SidecarError(grpc.StatusCode.INVALID_ARGUMENT, "SIDECAR_ERROR", SECRET), "INTERNAL", id="our own mistake"
        ),
        pytest.param(
            SidecarError(grpc.StatusCode.NOT_FOUND, "SIDECAR_ERROR", SECRET, component="store"),
            "INTERNAL",
            id="no store",
        ),
    ],
)
async def test_what_fails_behind_the_service_is_told_without_its_inner_text(
    desk: Desk, served: Any, log: Log, error: SidecarError, code: str
) -> None:
    async with served(ask=raising(error)) as stub:
        with refused() as told:
            await stub.Ask(desk.pb2.Question(text="why"))

    assert told.code.name == code
    assert "hunter2" not in told.everything
    assert "store" not in told.metadata.values()
    line = log.one(error_id=told.metadata["error_id"])
    assert "hunter2" in line["error"]["stack"]
    assert (line["level"], "unexpected" in line["message"]) == ("WARNING", False)


@pytest.mark.parametrize(
    ("answered", "told_code"),
    [
        (grpc.StatusCode.UNAVAILABLE, "UNAVAILABLE"),
        (grpc.StatusCode.DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED"),
        (grpc.StatusCode.PERMISSION_DENIED, "INTERNAL"),
    ],
)
async def test_an_rpc_to_another_app_that_a_handler_lets_fail_stays_worth_a_retry_or_is_internal(
    desk: Desk, served: Any, answered: grpc.StatusCode, told_code: str
) -> None:
    error = grpc.aio.AioRpcError(answered, grpc.aio.Metadata(), grpc.aio.Metadata(), details=SECRET)
    async with served(ask=raising(error)) as stub:
        with refused() as told:
            await stub.Ask(desk.pb2.Question(text="why"))

    assert told.code.name == told_code
    assert "hunter2" not in told.everything


async def test_a_handlers_own_abort_is_kept(desk: Desk, served: Any, log: Log) -> None:
    async def ask(request: Any, context: Any) -> Any:
        await context.abort(grpc.StatusCode.DATA_LOSS, "gone", (("x-told", "yes"),))

    async with served(ask=ask) as stub:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Ask(desk.pb2.Question(text="why"))

    assert (caught.value.code(), caught.value.details()) == (grpc.StatusCode.DATA_LOSS, "gone")
    assert ("x-told", "yes") in tuple(caught.value.trailing_metadata())
    async with asyncio.timeout(5):  # the caller may have its answer before the line is written
        while not log.of(logger="apibase.call"):
            await asyncio.sleep(0)
    assert log.one(logger="apibase.call")["code"] == "DATA_LOSS"
    assert log.of(level="ERROR") == []


async def test_a_code_that_a_handler_sets_is_the_code_that_is_logged(desk: Desk, served: Any, log: Log) -> None:
    async def ask(request: Any, context: Any) -> Any:
        context.set_code(grpc.StatusCode.ALREADY_EXISTS)
        return desk.pb2.Answer()

    async with served(ask=ask) as stub:
        with refused() as told:
            await stub.Ask(desk.pb2.Question(text="why"))

    assert told.code is grpc.StatusCode.ALREADY_EXISTS
    assert log.one(logger="apibase.call")["code"] == "ALREADY_EXISTS"


async def test_a_method_that_nobody_wrote_is_unimplemented(desk: Desk, served: Any, log: Log) -> None:
    async with served() as stub:
        with refused() as told:
            await stub.Ask(desk.pb2.Question(text="why"))
        with refused() as told_of_a_stream:
            await stub.Listen(desk.pb2.Question(text="why")).read()

    assert told.code is told_of_a_stream.code is grpc.StatusCode.UNIMPLEMENTED
    assert log.of(level="ERROR") == []


@pytest.mark.parametrize("answer", ["nothing", "a request"])
async def test_an_answer_of_another_type_than_the_contracts_is_internal(
    desk: Desk, served: Any, log: Log, answer: str
) -> None:
    async def ask(request: Any, context: Any) -> Any:
        return None if answer == "nothing" else request

    async with served(ask=ask) as stub:
        with refused() as told:
            await stub.Ask(desk.pb2.Question(text="why"))

    assert told.code is grpc.StatusCode.INTERNAL
    assert "not desk.v1.Answer" in log.one(error_id=told.metadata["error_id"])["error"]["message"]


async def test_a_caller_that_leaves_cancels_the_handler(desk: Desk, served: Any, log: Log) -> None:
    at_work, cleaned_up = asyncio.Event(), asyncio.Event()

    async def ask(request: Any, context: Any) -> Any:
        try:
            at_work.set()
            await asyncio.Event().wait()
        finally:
            cleaned_up.set()

    async with served(ask=ask) as stub:
        call = stub.Ask(desk.pb2.Question(text="why"))
        await at_work.wait()
        call.cancel()
        await asyncio.wait_for(cleaned_up.wait(), 5)
        await eventually(lambda: log.of(logger="apibase.call"))

    assert log.one(logger="apibase.call")["code"] == "CANCELLED"
    assert log.of(level="ERROR") == []


async def test_a_deadline_that_passes_cancels_the_handler(desk: Desk, served: Any, log: Log) -> None:
    async def ask(request: Any, context: Any) -> Any:
        await asyncio.Event().wait()

    async with served(ask=ask) as stub:
        with refused() as told:
            await stub.Ask(desk.pb2.Question(text="why"), timeout=0.05)
        await eventually(lambda: log.of(logger="apibase.call"))

    assert told.code is grpc.StatusCode.DEADLINE_EXCEEDED
    assert log.one(logger="apibase.call")["code"] == "CANCELLED"


async def test_a_cancellation_of_the_handlers_own_making_is_answered(desk: Desk, served: Any, log: Log) -> None:
    async def ask(request: Any, context: Any) -> Any:
        task = asyncio.ensure_future(asyncio.Event().wait())
        task.cancel()
        await task

    async with served(ask=ask) as stub:
        with refused() as told:
            await stub.Ask(desk.pb2.Question(text="why"), timeout=5)

    assert told.code is grpc.StatusCode.INTERNAL
    assert log.one(error_id=told.metadata["error_id"])["error"]["type"] == "CancelledError"
