"""An app's own middleware: what it may do with a call, and what becomes of a call when it fails, hangs or is cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import grpc
import pytest

from apibase import App, Drop, Retry, ServiceError
from apibase.middleware import CALLS, Call, Kind, Middleware, Proceed, Target, middleware
from apibase.middleware.transformation import Transformation
from apibase.routes import Incoming, TopicRoute
from tests.unit.app_channels import Graveyard, topic_event
from tests.unit.chains import chain, through
from tests.unit.conftest import Desk, Log
from tests.unit.fake_dapr import eventually
from tests.unit.status import refused

Code = grpc.StatusCode
Serve = Callable[..., AbstractAsyncContextManager[Any]]


class Answers:
    """What the desk does with a question: it raises `error` if there is one, waits if it is to, and answers otherwise."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.error: BaseException | None = None
        self.asked: list[str] = []
        self.waiting: asyncio.Event | None = None
        self.ended: list[str] = []

    async def answer(self, request: Any) -> Any:
        self.asked.append(request.text)
        try:
            if self.waiting is not None:
                await self.waiting.wait()
            if self.error is not None:
                raise self.error
        except asyncio.CancelledError:
            self.ended.append("cancelled")
            raise
        return self.desk.pb2.Answer(text=f"about {request.text}")


@pytest.fixture
def answers(desk: Desk) -> Answers:
    return Answers(desk)


@pytest.fixture
def stub(desk: Desk, answers: Answers, settings: Any, dapr: Any) -> Serve:
    """Return a function that serves the desk behind an app's chain with these middleware, and yields a stub of it."""

    class DeskService(desk.grpc.DeskServicer):  # type: ignore[misc]
        async def Ask(self, request: Any, context: Any) -> Any:
            return await answers.answer(request)

        async def Listen(self, request: Any, context: Any) -> AsyncIterator[Any]:
            for _ in range(3):
                yield await answers.answer(request)

        async def Tell(self, requests: Any, context: Any) -> Any:
            return [await answers.answer(request) async for request in requests][-1]

        async def Talk(self, requests: Any, context: Any) -> AsyncIterator[Any]:
            async for request in requests:
                yield await answers.answer(request)

    @asynccontextmanager
    async def serve(*custom: Middleware) -> AsyncIterator[Any]:
        app = App(settings)
        app.add_servicer(DeskService())
        app.add_middleware(*custom)
        await app.start()
        try:
            async with grpc.aio.insecure_channel(f"127.0.0.1:{app.port}") as channel:
                yield desk.grpc.DeskStub(channel)
        finally:
            await app.stop()

    return serve


async def ask(desk: Desk, stub: Any, kind: Kind, text: str = "why", timeout: float = 20.0) -> list[str]:
    """Ask once, in the way of a kind, and return the answers."""
    question = desk.pb2.Question(text=text)

    async def questions() -> AsyncIterator[Any]:
        yield question

    match kind:
        case Kind.UNARY:
            return [(await stub.Ask(question, timeout=timeout)).text]
        case Kind.CLIENT_STREAM:
            return [(await stub.Tell(questions(), timeout=timeout)).text]
        case Kind.SERVER_STREAM:
            return [answer.text async for answer in stub.Listen(question, timeout=timeout)]
        case _:
            return [answer.text async for answer in stub.Talk(questions(), timeout=timeout)]


KINDS = [Kind.UNARY, Kind.SERVER_STREAM, Kind.CLIENT_STREAM, Kind.BIDI_STREAM]


@pytest.mark.req("R16.3")
async def test_a_middleware_is_a_function_of_a_few_lines(desk: Desk, stub: Serve, answers: Answers) -> None:
    seen: list[tuple[str, str]] = []

    @middleware(*CALLS)
    async def audit(call: Call, proceed: Proceed) -> object:
        answer = await proceed(call)
        seen.append((call.target.name, answer.text))
        return answer

    async with stub(audit) as desk_stub:
        await ask(desk, desk_stub, Kind.UNARY)

    assert seen == [("desk.v1.Desk.Ask", "about why")]


@pytest.mark.req("R16.5")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("before", [True, False], ids=["before the handler", "after the handler"])
async def test_a_middleware_that_fails_is_an_internal_error_that_the_log_ascribes_to_it(
    desk: Desk, stub: Serve, answers: Answers, log: Log, kind: Kind, before: bool
) -> None:
    @middleware()
    async def clumsy(call: Call, proceed: Proceed) -> object:
        if not before:
            await proceed(call)
        raise ZeroDivisionError("hunter2")

    async with stub(clumsy) as desk_stub:
        with refused() as told:
            await ask(desk, desk_stub, kind)

    assert (told.code, told.reason) == (Code.INTERNAL, "INTERNAL")
    assert "hunter2" not in str(told.message)
    line = log.one(level="ERROR")
    assert "raised by the middleware 'clumsy' of desk.v1.Desk." in line["error"]["stack"]
    assert (len(answers.asked) > 0) is not before


@pytest.mark.req("R16.5")
@pytest.mark.parametrize("kind", KINDS)
async def test_the_failure_of_a_middleware_does_not_hide_what_it_handled(
    desk: Desk, stub: Serve, answers: Answers, log: Log, kind: Kind
) -> None:
    @middleware()
    async def clumsy(call: Call, proceed: Proceed) -> object:
        try:
            return await proceed(call)
        except ServiceError:
            raise ZeroDivisionError from None

    answers.error = ServiceError(Code.NOT_FOUND, "NO_DESK", "there is no such desk")
    async with stub(clumsy) as desk_stub:
        with refused() as told:
            await ask(desk, desk_stub, kind)

    assert (told.code, told.reason) == (Code.NOT_FOUND, "NO_DESK")
    line = log.one(level="ERROR")
    assert "failed with ZeroDivisionError while it handled ServiceError, which goes on" in line["message"]


@pytest.mark.req("R16.5")
@pytest.mark.parametrize("kind", KINDS)
async def test_a_middleware_may_say_what_an_error_means(desk: Desk, stub: Serve, answers: Answers, kind: Kind) -> None:
    @middleware()
    async def meaning(call: Call, proceed: Proceed) -> object:
        try:
            return await proceed(call)
        except KeyError as error:
            raise ServiceError(Code.NOT_FOUND, "NO_DESK", f"there is no desk {error}") from error

    answers.error = KeyError("why")
    async with stub(meaning) as desk_stub:
        with refused() as told:
            await ask(desk, desk_stub, kind)

    assert (told.code, told.reason) == (Code.NOT_FOUND, "NO_DESK")


@pytest.mark.req("R16.5")
async def test_a_middleware_may_answer_in_the_handlers_place(desk: Desk, stub: Serve, answers: Answers) -> None:
    @middleware(Kind.UNARY)
    async def fallback(call: Call, proceed: Proceed) -> object:
        try:
            return await proceed(call)
        except KeyError:
            return desk.pb2.Answer(text="don't know")

    answers.error = KeyError("why")
    async with stub(fallback) as desk_stub:
        assert await ask(desk, desk_stub, Kind.UNARY) == ["don't know"]


@pytest.mark.req("R16.5")
@pytest.mark.parametrize("kind", KINDS)
async def test_a_middleware_that_hangs_ends_with_its_callers_deadline(
    desk: Desk, stub: Serve, answers: Answers, log: Log, kind: Kind
) -> None:
    ended: list[str] = []

    @middleware()
    async def hanging(call: Call, proceed: Proceed) -> object:
        try:
            return await asyncio.Event().wait()
        finally:
            ended.append(call.target.name)

    async with stub(hanging) as desk_stub:
        with refused() as told:
            await ask(desk, desk_stub, kind, timeout=0.2)
        assert told.code is Code.DEADLINE_EXCEEDED

        def over() -> bool:
            return bool(ended) and bool(log.of(logger="apibase.call", code="CANCELLED"))

        await eventually(over)
    assert answers.asked == []


@pytest.mark.req("R16.5")
@pytest.mark.parametrize("kind", KINDS)
async def test_a_caller_that_leaves_ends_handler_and_middleware_in_turn(
    desk: Desk, stub: Serve, answers: Answers, log: Log, kind: Kind
) -> None:
    @middleware()
    async def tidy(call: Call, proceed: Proceed) -> object:
        try:
            return await proceed(call)
        finally:
            answers.ended.append("tidy")

    answers.waiting = asyncio.Event()
    async with stub(tidy) as desk_stub:
        asking = asyncio.ensure_future(ask(desk, desk_stub, kind))

        def at_work() -> bool:
            return bool(answers.asked)

        await eventually(at_work)
        asking.cancel()

        def over() -> bool:
            return answers.ended == ["cancelled", "tidy"] and bool(log.of(logger="apibase.call", code="CANCELLED"))

        await eventually(over)
    assert log.of(level="ERROR") == []


@pytest.mark.parametrize("kind", [Kind.CLIENT_STREAM, Kind.BIDI_STREAM])
async def test_what_a_caller_sent_before_it_left_is_never_taken_for_the_whole(
    desk: Desk, stub: Serve, answers: Answers, log: Log, kind: Kind
) -> None:
    """gRPC ends the stream of requests before it cancels the call."""
    whole: list[str] = []

    @middleware()
    async def noting(call: Call, proceed: Proceed) -> object:
        answer = await proceed(call)
        whole.append(call.target.name)
        return answer

    async with stub(noting) as desk_stub:
        for number in range(1, 21):
            upload = desk_stub.Tell() if kind is Kind.CLIENT_STREAM else desk_stub.Talk()
            await upload.write(desk.pb2.Question(text="why"))
            await eventually(lambda number=number: len(answers.asked) == number)  # type: ignore[misc]
            upload.cancel()
            await eventually(lambda number=number: len(log.of(logger="apibase.call")) == number)  # type: ignore[misc]

    assert whole == []
    assert {line["code"] for line in log.of(logger="apibase.call")} == {"CANCELLED"}
    assert log.of(level="ERROR") == []


@pytest.mark.req("R16.4")
@pytest.mark.parametrize("kind", KINDS)
async def test_requests_and_answers_are_changed_on_their_way(
    desk: Desk, stub: Serve, answers: Answers, kind: Kind
) -> None:
    def trimmed(question: Any) -> Any:
        question.text = question.text.strip()
        return question

    def shouted(answer: Any) -> Any:
        return desk.pb2.Answer(text=answer.text.upper())

    async with stub(Transformation(request=trimmed, response=shouted, methods=["Desk"])) as desk_stub:
        said = await ask(desk, desk_stub, kind, "  why ")

    assert set(said) == {"ABOUT WHY"}
    assert set(answers.asked) == {"why"}


@pytest.mark.req("R16.4")
@pytest.mark.parametrize(("first", "passes"), [("trimming", False), ("validation", True)])
async def test_whether_a_request_is_validated_before_or_after_it_is_changed_is_the_orders_to_say(
    desk: Desk, first: str, passes: bool
) -> None:
    def trimmed(question: Any) -> Any:
        question.text = question.text.strip()
        return question

    second = "validation" if first == "trimming" else "trimming"
    made = chain(Transformation(request=trimmed, name="trimming"), middleware=("errors", first, second))
    hook = made.request_hook(target(desk))
    assert hook is not None

    if passes:
        assert hook(desk.pb2.Question(text=" ")).text == ""
    else:
        with pytest.raises(ServiceError, match="text"):
            hook(desk.pb2.Question(text=" "))


def target(desk: Desk) -> Any:
    return Target(Kind.UNARY, "desk.v1.Desk.Ask", request=desk.pb2.Question, response=desk.pb2.Answer)


def test_a_transformation_of_some_methods_leaves_the_others_alone(desk: Desk) -> None:
    def same(message: Any) -> Any:
        return message

    transformation = Transformation(request=same, methods=["Counter", "desk.v1.Desk.Tell"])

    assert transformation.on_request(target(desk)) is None
    assert Transformation(request=same, methods=["Ask"]).on_request(target(desk)) is same


# Events


@pytest.mark.req("R16.5")
@pytest.mark.parametrize(
    ("raised", "outcome", "code"),
    [
        (None, "SUCCESS", ""),
        (Drop("never", code="NEVER"), "SUCCESS", "NEVER"),
        (Retry("later"), "RETRY", ""),
        (ZeroDivisionError(), "RETRY", ""),
    ],
)
async def test_what_a_middleware_makes_of_an_event_is_its_verdict(
    raised: BaseException | None, outcome: str, code: str, log: Log
) -> None:
    @middleware(Kind.EVENT)
    async def strict(call: Call, proceed: Proceed) -> object:
        try:
            return await proceed(call)
        except KeyError:
            if raised is not None:
                raise raised from None
            return None

    async def handle(_incoming: Incoming, _event: Any) -> None:
        raise KeyError

    graveyard = Graveyard()
    route = TopicRoute("on_asked", handle, pubsub_name="events", topic="desk", dead_letter_topic="dead")
    incoming = Incoming(topic_event(), b"{}", None)  # type: ignore[arg-type]

    call = await through(chain(strict, graveyard=graveyard), Kind.EVENT, route, incoming)

    assert call.outcome == outcome
    assert [death.code for _, _, death in graveyard.buried] == ([code] if code else [])


async def test_a_started_app_takes_no_more_middleware(settings: Any, dapr: Any) -> None:
    app = App(settings)
    await app.start()
    try:
        with pytest.raises(RuntimeError, match="add middleware before"):
            app.add_middleware(Transformation())
    finally:
        await app.stop()
