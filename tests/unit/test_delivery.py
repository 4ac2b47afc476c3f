"""The table of verdicts, row by row: what a handler's end means for a topic event, and for a binding's event or a job."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import grpc
import pytest
from google.protobuf.empty_pb2 import Empty

from apibase import Conflict, Drop, InvalidRequest, Retry, ServiceError, SidecarError, SidecarUnavailable
from apibase.dead_letters import Death
from apibase.deadline import deadline
from apibase.delivery import judge
from apibase.errors import FieldViolation
from apibase.routes import Incoming, Route, TopicRoute
from tests.unit.app_channels import Graveyard, topic_event
from tests.unit.chains import deliver, deliver_directly
from tests.unit.conftest import Log

Code = grpc.StatusCode
RETRYABLE = (Code.ABORTED, Code.DEADLINE_EXCEEDED, Code.RESOURCE_EXHAUSTED, Code.UNAVAILABLE)
INCOMING = Incoming(topic_event(), b"{}", Empty())


def service_error(code: grpc.StatusCode, *, retryable: bool | None = None) -> ServiceError:
    return ServiceError(code, "REASON", "hunter3", retryable=retryable)


def rpc_error(code: grpc.StatusCode) -> grpc.aio.AioRpcError:
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(), "hunter2")


# The handler's end; its death, or None for RETRY; the code that a binding or the scheduler is told; whether the text is.
TABLE = [
    pytest.param(Drop("never"), Death("DROPPED", "never"), None, True, id="Drop"),
    pytest.param(Drop("late", code="LATE"), Death("LATE", "late"), None, True, id="Drop with a code"),
    pytest.param(
        InvalidRequest([FieldViolation("text", "is rude")]),
        Death("INVALID_REQUEST", "text: is rude"),
        None,
        True,
        id="data that breaks a rule",
    ),
    *(
        pytest.param(service_error(code), Death("REASON", "hunter3"), code, True, id=f"the service's {code.name}")
        for code in Code
        if code not in {Code.OK, Code.UNIMPLEMENTED, *RETRYABLE}
    ),
    pytest.param(
        service_error(Code.UNIMPLEMENTED),
        Death("REASON", "hunter3"),
        Code.INTERNAL,
        False,
        id="the service's UNIMPLEMENTED, which daprd takes for a method that is not there",
    ),
    *(
        pytest.param(service_error(code), None, code, True, id=f"the service's {code.name}, which is retryable")
        for code in RETRYABLE
    ),
    pytest.param(
        service_error(Code.UNAVAILABLE, retryable=False),
        Death("REASON", "hunter3"),
        Code.UNAVAILABLE,
        True,
        id="an UNAVAILABLE that says that it is final",
    ),
    pytest.param(
        service_error(Code.NOT_FOUND, retryable=True),
        None,
        Code.ABORTED,
        False,
        id="a NOT_FOUND that will be mended, which daprd takes for a job that is done",
    ),
    pytest.param(Retry(), None, Code.ABORTED, True, id="Retry"),
    pytest.param(SidecarUnavailable("hunter2"), None, Code.UNAVAILABLE, False, id="no sidecar"),
    pytest.param(Conflict("hunter2"), None, Code.ABORTED, False, id="a lost race"),
    pytest.param(
        SidecarError(Code.INVALID_ARGUMENT, "ERR", "hunter2"), None, Code.INTERNAL, False, id="a component refuses"
    ),
    pytest.param(
        SidecarError(Code.UNIMPLEMENTED, "ERR", "hunter2"), None, Code.INTERNAL, False, id="a sidecar without the API"
    ),
    pytest.param(rpc_error(Code.UNAVAILABLE), None, Code.UNAVAILABLE, False, id="another app is away"),
    pytest.param(rpc_error(Code.UNIMPLEMENTED), None, Code.INTERNAL, False, id="another app lacks the method"),
    pytest.param(RuntimeError("hunter2"), None, Code.INTERNAL, False, id="anything else"),
    pytest.param(ExceptionGroup("hunter2", [Drop("never")]), None, Code.INTERNAL, False, id="a group of errors"),
    pytest.param(asyncio.CancelledError("hunter2"), None, Code.INTERNAL, False, id="a cancellation of its own making"),
]


def route(error: BaseException | None, **fields: Any) -> TopicRoute:
    async def handle(_incoming: Incoming, _event: Any) -> object:
        if error is not None:
            raise error
        return "an answer"

    known = {"pubsub_name": "events", "topic": "desk", "dead_letter_topic": "desk.dead"}
    return TopicRoute("on_asked", handle, **{**known, **fields})


@pytest.mark.parametrize(("error", "death", "_code", "_told"), TABLE)
def test_an_error_is_a_death_or_another_try(error: BaseException, death: Death | None, _code: Any, _told: bool) -> None:
    outcome = judge(error)

    assert (outcome.error, outcome.death, outcome.answer) == (error, death, None)


@pytest.mark.req("R3.4", "R3.6")
@pytest.mark.parametrize(("error", "death", "_code", "_told"), TABLE)
async def test_a_topic_event_is_buried_where_its_handlers_error_is_a_death(
    log: Log, error: BaseException, death: Death | None, _code: Any, _told: bool
) -> None:
    graveyard = Graveyard()
    there = route(error)

    status = (await deliver(graveyard, there, INCOMING)).outcome

    assert status == ("SUCCESS" if death else "RETRY")
    assert graveyard.buried == ([(there, INCOMING, death)] if death else [])
    assert "hunter2" not in str(log.one(logger="apibase.event")) or isinstance(error, SidecarError)


@pytest.mark.req("R3.4")
@pytest.mark.parametrize(("error", "death", "_code", "_told"), TABLE)
async def test_without_a_dead_letter_topic_what_would_be_buried_is_dropped_for_good(
    log: Log, error: BaseException, death: Death | None, _code: Any, _told: bool
) -> None:
    graveyard = Graveyard()

    status = (await deliver(graveyard, route(error, dead_letter_topic=""), INCOMING)).outcome

    assert status == ("DROP" if death else "RETRY")
    assert graveyard.buried == []
    if death:
        assert "has no dead-letter topic: event event-1 is dropped for good" in log.one(level="ERROR")["message"]
        assert log.one(logger="apibase.event")["reason"] == f"{death.code}: {death.reason}"


@pytest.mark.req("R3.4")
@pytest.mark.parametrize(
    "failure",
    [
        SidecarUnavailable("gone"),
        SidecarError(Code.INVALID_ARGUMENT, "ERR", "bad"),
        ValueError("bad"),
        TypeError("bad"),
        asyncio.CancelledError("a call that was cancelled, not this one"),
    ],
)
async def test_an_event_that_can_not_be_buried_comes_again(log: Log, failure: BaseException) -> None:
    graveyard = Graveyard()
    graveyard.error = failure

    status = (await deliver(graveyard, route(Drop("never")), INCOMING)).outcome

    assert status == "RETRY"
    assert "DROPPED: never; its dead letter could not be published" in log.one(logger="apibase.event")["reason"]


async def test_a_dead_letter_that_is_too_large_is_left_to_the_sidecar(log: Log) -> None:
    graveyard = Graveyard()
    graveyard.error = SidecarError(grpc.StatusCode.RESOURCE_EXHAUSTED, "SIDECAR_ERROR", "larger than max")

    status = (await deliver(graveyard, route(Drop("never")), INCOMING)).outcome

    assert status == "DROP"
    assert "too large" in log.one(logger="apibase.event")["reason"]


async def test_an_event_that_is_handled_is_a_success(log: Log) -> None:
    graveyard = Graveyard()

    assert (await deliver(graveyard, route(None), INCOMING)).outcome == "SUCCESS"

    assert graveyard.buried == []
    assert "reason" not in log.one(logger="apibase.event", verdict="SUCCESS")


@pytest.mark.req("R6.1")
@pytest.mark.parametrize("kind", ["binding", "job"])
@pytest.mark.parametrize(("error", "_death", "code", "told"), TABLE)
async def test_a_binding_or_the_scheduler_is_told_the_error_unless_the_event_is_dropped(
    log: Log, kind: Any, error: BaseException, _death: Any, code: grpc.StatusCode | None, told: bool
) -> None:
    incoming = replace(INCOMING, event=replace(topic_event(), kind=kind, source="mail"))

    failure = (await deliver_directly(route(error), incoming)).failure

    line = log.one(logger="apibase.event")
    if code is None:
        assert failure is None
        assert line["code"] == "OK"
        assert str(error) in log.one(level="WARNING")["message"]
        return
    assert failure is not None
    assert (failure.code, line["code"], line["level"]) == (code, code.name, "WARNING")
    if told and isinstance(error, ServiceError):
        assert failure is error
    assert "hunter2" not in str(failure)
    assert "hunter2" not in line["message"]


async def test_a_binding_whose_event_is_handled_is_told_nothing(log: Log) -> None:
    assert (await deliver_directly(route(None), INCOMING)).failure is None

    assert log.one(logger="apibase.event")["code"] == "OK"


@pytest.mark.parametrize(("said", "told"), [("", "the event is to be delivered again"), ("not yet", "not yet")])
async def test_a_binding_is_told_why_an_event_is_to_come_again(log: Log, said: str, told: str) -> None:
    failure = (await deliver_directly(route(Retry(said)), INCOMING)).failure

    assert failure is not None
    assert (failure.reason, failure.message) == ("RETRY", told)


async def test_a_handlers_deadline_is_its_calls_own() -> None:
    left: list[float | None] = []

    async def handle(_incoming: Incoming, _event: Any) -> str:
        left.append(deadline.bound(None))
        return "an answer"

    call = await deliver_directly(Route("ask", handle), INCOMING, 30.0)

    assert (call.outcome, call.error) == ("OK", None)
    assert left == [pytest.approx(30, abs=1)]
    assert deadline.bound(None) is None


async def test_a_call_that_is_cancelled_ends_and_gives_no_verdict(log: Log) -> None:
    at_work = asyncio.Event()

    async def handle(_incoming: Incoming, _event: Any) -> None:
        at_work.set()
        await asyncio.Event().wait()

    graveyard = Graveyard()
    endless = TopicRoute("endless", handle, dead_letter_topic="dead")
    task = asyncio.ensure_future(deliver(graveyard, endless, INCOMING))
    await at_work.wait()
    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task
    line = log.one(logger="apibase.event")
    assert (line["verdict"], line["reason"]) == ("RETRY", "cancelled")
    assert graveyard.buried == []
