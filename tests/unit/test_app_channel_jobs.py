"""Jobs: what a handler gets, under both of the names that daprd calls, and what the scheduler is told."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from dapr.proto.runtime.v1 import appcallback_pb2, appcallback_pb2_grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.empty_pb2 import Empty

from apibase import Drop, Retry, ServiceError
from apibase.observability import trace_ids
from apibase.routes import RouteTable
from tests.unit.app_channels import Listener, app_channel, served
from tests.unit.conftest import Desk, Log
from tests.unit.status import refused

SWEEP = "post.v1.PostEvents.Sweep"


@pytest.fixture
def listener() -> Listener:
    return Listener()


@pytest.fixture(params=["OnJobEvent", "OnJobEventAlpha1"])
async def run_job(
    post: Desk, listener: Listener, socket_folder: Path, log: Log, request: pytest.FixtureRequest
) -> AsyncIterator[Any]:
    """Return daprd's call, under its stable name and under the one of Dapr 1.14."""
    routes = RouteTable()
    routes.add(listener.implement(post, "PostEvents"))
    async with served(app_channel(routes), socket_folder) as channel:
        alpha = "Alpha" if request.param.endswith("Alpha1") else ""
        yield getattr(getattr(appcallback_pb2_grpc, f"AppCallback{alpha}Stub")(channel), request.param)


def job(name: str = SWEEP, data: bytes = b"", content_type: str = "application/json") -> Any:
    return appcallback_pb2.JobEventRequest(
        name=name, method=f"job/{name}", data=AnyMessage(value=data), content_type=content_type
    )


async def test_a_job_runs_its_method_in_the_trace_of_daprds_call(run_job: Any, listener: Listener, log: Log) -> None:
    await run_job(job(), metadata=(("traceparent", f"00-{'ab' * 16}-{'cd' * 8}-01"),))

    ((name, message, context),) = listener.got
    assert (name, message) == ("Sweep", Empty())
    assert (context.kind, context.source) == ("job", SWEEP)
    line = log.one(logger="apibase.event")
    assert (line["method"], line["code"], line["source"], line["trace_id"]) == (SWEEP, "OK", SWEEP, "ab" * 16)
    assert trace_ids() == ("", "")


@pytest.mark.parametrize("data", [b"", b"no JSON", b"\xff", b'{"text": "why"}'])
async def test_a_job_of_a_contract_takes_no_data_and_minds_none(run_job: Any, listener: Listener, data: bytes) -> None:
    await run_job(job("remind", data, "application/whatever"))

    assert [(name, message) for name, message, _ in listener.got] == [("Remind", Empty())]


@pytest.mark.parametrize("name", ["post.v1.PostEvents.Remind", "mail", "", "x" * 10_000, "時" * 5_000])
async def test_a_job_that_the_app_does_not_have_is_not_found(run_job: Any, listener: Listener, name: str) -> None:
    with refused() as told:
        await run_job(job(name))

    assert (told.code, told.reason, told.domain) == (grpc.StatusCode.NOT_FOUND, "NO_HANDLER", "dapr_contract.v1")
    assert listener.got == []


async def test_the_scheduler_is_told_the_services_own_error(run_job: Any, listener: Listener) -> None:
    listener.error = ServiceError(grpc.StatusCode.FAILED_PRECONDITION, "CLOSED", "the post is closed")

    with refused() as told:
        await run_job(job())

    assert (told.code, told.reason, told.domain, told.message) == (
        grpc.StatusCode.FAILED_PRECONDITION,
        "CLOSED",
        "post.v1",
        "the post is closed",
    )


@pytest.mark.parametrize(
    ("error", "code"),
    [(Retry("not yet"), "ABORTED"), (RuntimeError("hunter2"), "INTERNAL")],
    ids=["Retry", "unexpected"],
)
async def test_a_job_that_fails_is_run_again_by_its_failure_policy(
    run_job: Any, listener: Listener, error: Exception, code: str
) -> None:
    listener.error = error

    with refused() as told:
        await run_job(job())

    assert told.code.name == code
    assert "hunter2" not in told.everything


async def test_a_job_that_is_dropped_is_done_with(run_job: Any, listener: Listener, log: Log) -> None:
    listener.error = Drop("nothing to sweep")

    await run_job(job())

    assert "nothing to sweep" in log.one(level="WARNING")["message"]
