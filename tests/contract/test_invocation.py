"""Other apps, called by their contract and by the names of their methods, as the real daprd takes such calls there."""

from __future__ import annotations

from typing import Any

import grpc
import pytest
from pydantic import BaseModel

from apibase import CalleeError, ServiceInvocationClient, SidecarError
from apibase.observability import call_context
from tests.contract.beside import Beside
from tests.contract.sides import Side

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


class Parcel(BaseModel):
    name: str
    weight: float


@pytest.fixture
def client(side: Side) -> ServiceInvocationClient:
    return ServiceInvocationClient(side.sidecar)


@pytest.fixture
def stub(client: ServiceInvocationClient, beside: Beside) -> Any:
    return client.client(beside.desk.grpc.DeskStub, app_id="contract")


@pytest.mark.req("R2.1", "R2.4")
async def test_a_unary_call_reaches_the_app_by_its_id(beside: Beside, stub: Any) -> None:
    assert (await stub.Ask(beside.desk.pb2.Question(text="why"))).text == "why"


@pytest.mark.req("R2.1", "R2.4")
async def test_a_call_with_a_stream_of_answers_reaches_the_app(beside: Beside, stub: Any) -> None:
    answers = stub.Listen(beside.desk.pb2.Question(text="one two three"))

    assert [answer.text async for answer in answers] == ["one", "two", "three"]


@pytest.mark.req("R2.1", "R2.4")
async def test_a_call_with_a_stream_of_requests_reaches_the_app(beside: Beside, stub: Any) -> None:
    questions = [beside.desk.pb2.Question(text=text) for text in ("one", "two")]

    assert (await stub.Tell(iter(questions))).text == "one two"


@pytest.mark.req("R2.1", "R2.4")
async def test_a_conversation_reaches_the_app(beside: Beside, stub: Any) -> None:
    talk = stub.Talk()
    for text in ("one", "two"):
        await talk.write(beside.desk.pb2.Question(text=text))
        assert (await talk.read()).text == text
    await talk.done_writing()
    assert await talk.read() is grpc.aio.EOF


async def test_a_stub_raises_the_status_of_the_app(beside: Beside, stub: Any) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.Ask(beside.desk.pb2.Question(text="fail"))

    assert (caught.value.code(), caught.value.details()) == (
        grpc.StatusCode.FAILED_PRECONDITION,
        "the desk is closed",
    )


@pytest.mark.req("R2.5")
async def test_a_call_brings_the_trace_and_the_correlation_id_to_the_app(beside: Beside, stub: Any) -> None:
    with call_context({"traceparent": f"00-{TRACE}-00f067aa0ba902b7-01", "x-correlation-id": "c7"}):
        await stub.Ask(beside.desk.pb2.Question(text="why"))

    headers = beside.headers[-1]
    assert headers["traceparent"].split("-")[1] == TRACE
    assert headers["x-correlation-id"] == "c7"


@pytest.mark.req("R2.1")
async def test_a_method_is_called_by_its_name_with_any_value(client: ServiceInvocationClient, beside: Beside) -> None:
    parcel = Parcel(name="mug", weight=0.4)

    assert (await client.invoke("contract", "echo", parcel)).decode(Parcel) == parcel
    assert (await client.invoke("contract", "echo", {"a": [1, None]})).decode(dict) == {"a": [1, None]}
    text = await client.invoke("contract", "echo", "grüße")
    assert (text.decode(str), text.content_type) == ("grüße", "text/plain; charset=utf-8")
    assert (await client.invoke("contract", "echo", b"\x00\xff")).data == b"\x00\xff"
    assert (await client.invoke("contract", "echo")).data == b""


@pytest.mark.req("R2.4")
async def test_a_method_that_is_called_by_its_name_takes_and_answers_messages(
    client: ServiceInvocationClient, beside: Beside
) -> None:
    pb2 = beside.desk.pb2
    answer = await client.invoke("contract", "swap", pb2.Question(text="why"))

    assert answer.decode(pb2.Answer) == pb2.Answer(text="yhw")
    with pytest.raises(
        CalleeError, match=r"the answer of 'contract' is no desk\.v1\.Question: it is desk\.v1\.Answer"
    ) as caught:
        answer.decode(pb2.Question)
    assert caught.value.code is grpc.StatusCode.DATA_LOSS


async def test_headers_go_with_a_call_by_name(client: ServiceInvocationClient, beside: Beside) -> None:
    await client.invoke("contract", "echo", headers={"X-Tenant": "acme"})

    assert beside.headers[-1]["x-tenant"] == "acme"


@pytest.mark.parametrize(
    ("method", "code", "reason", "retryable"),
    [
        ("closed", grpc.StatusCode.FAILED_PRECONDITION, "DESK_CLOSED", False),
        ("busy", grpc.StatusCode.UNAVAILABLE, "DESK_BUSY", True),
        ("nothing", grpc.StatusCode.UNIMPLEMENTED, "NO_SUCH_METHOD", False),
    ],
)
async def test_a_call_by_name_raises_the_status_of_the_app(
    client: ServiceInvocationClient, beside: Beside, method: str, code: grpc.StatusCode, reason: str, retryable: bool
) -> None:
    with pytest.raises(CalleeError) as caught:
        await client.invoke("contract", method)

    error = caught.value
    assert (error.app_id, error.code, error.callee_reason) == ("contract", code, reason)
    assert (error.retryable, error.http_status) == (retryable, None)


async def test_a_call_by_name_of_an_app_that_nobody_knows_does_not_get_through(client: ServiceInvocationClient) -> None:
    with pytest.raises(SidecarError, match="the call did not get through to 'nobody'") as caught:
        await client.invoke("nobody", "echo")

    assert not isinstance(caught.value, CalleeError)
    assert (caught.value.code, caught.value.retryable) == (grpc.StatusCode.UNAVAILABLE, True)
    assert caught.value.component == "nobody"


@pytest.mark.parametrize(("app_id", "method"), [("", "echo"), ("contract", "")])
async def test_a_call_by_name_needs_an_app_and_a_method(
    client: ServiceInvocationClient, app_id: str, method: str
) -> None:
    with pytest.raises(ValueError, match="app_id or method is empty"):
        await client.invoke(app_id, method)
