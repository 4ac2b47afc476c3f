"""The outbound chain: what every call of the app's own passes, of each kind, in the order that the settings have."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from apibase import ContractError, ServiceInvocationClient, Settings, Sidecar
from apibase.clients.outbound import (
    OutboundCall,
    OutboundChain,
    OutboundMiddleware,
    OutboundTarget,
    outbound_middleware,
)
from apibase.middleware import Kind
from apibase.observability.metrics import Metrics
from tests.unit.conftest import Desk
from tests.unit.fake_dapr import FakeDapr

NAMES = ("red", "green", "blue")


class Recorder(OutboundMiddleware):
    """Notes when a call comes by, and when it is over."""

    def __init__(self, name: str, seen: list[str]) -> None:
        self.name = name
        self.seen = seen

    def wrap(self, target: OutboundTarget, start: Any) -> Any:
        def recorded(call: OutboundCall) -> Any:
            self.seen.append(f"{self.name}>")
            made = start(call)
            self.seen.append(f"<{self.name}")
            return made

        return recorded

    def on_response(self, target: OutboundTarget) -> Any:
        def noted(message: Any) -> Any:
            self.seen.append(f"{self.name}!")
            return message

        return noted


@pytest.fixture
async def remote(desk: Desk, settings: Settings) -> AsyncIterator[FakeDapr]:
    """A sidecar behind which the desk answers, with the headers that it was called with."""

    class Answers(desk.grpc.DeskServicer):  # type: ignore[misc]
        def said(self, context: Any, text: str) -> Any:
            headers = dict(context.invocation_metadata())
            return desk.pb2.Answer(text=f"{text} {headers.get('dapr-app-id')} {headers.get('x-tenant', '')}".strip())

        async def Ask(self, request: Any, context: Any) -> Any:
            return self.said(context, request.text)

        async def Listen(self, request: Any, context: Any) -> AsyncIterator[Any]:
            yield self.said(context, request.text)

        async def Tell(self, requests: Any, context: Any) -> Any:
            return self.said(context, " ".join([request.text async for request in requests]))

        async def Talk(self, requests: Any, context: Any) -> AsyncIterator[Any]:
            async for request in requests:
                yield self.said(context, request.text)

    taken: list[grpc.GenericRpcHandler] = []

    class Server:
        def add_generic_rpc_handlers(self, handlers: Any) -> None:
            taken.extend(handlers)

        def add_registered_method_handlers(self, service: str, handlers: Any) -> None:
            """Nothing."""

    desk.grpc.add_DeskServicer_to_server(Answers(), Server())
    async with FakeDapr(settings.sidecar_address, taken) as fake:
        yield fake


async def call(desk: Desk, stub: Any, kind: Kind) -> list[str]:
    question = desk.pb2.Question(text="why")

    async def questions() -> AsyncIterator[Any]:
        yield question

    match kind:
        case Kind.UNARY:
            return [(await stub.Ask(question)).text]
        case Kind.CLIENT_STREAM:
            return [(await stub.Tell(questions())).text]
        case Kind.SERVER_STREAM:
            return [answer.text async for answer in stub.Listen(question)]
        case _:
            return [answer.text async for answer in stub.Talk(questions())]


KINDS = [Kind.UNARY, Kind.SERVER_STREAM, Kind.CLIENT_STREAM, Kind.BIDI_STREAM]


@pytest.mark.req("R16.2")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(3))
async def test_a_call_of_each_kind_passes_the_whole_chain_in_the_order_of_the_settings(
    desk: Desk, settings: Settings, remote: FakeDapr, kind: Kind, seed: int
) -> None:
    seen: list[str] = []
    names = [*NAMES, "tracing", "metrics", "deadline", "identity"]
    random.Random(seed).shuffle(names)
    sidecar = Sidecar(settings.model_copy(update={"outbound_middleware": tuple(names)}), Metrics())
    sidecar.outbound.add(*(Recorder(name, seen) for name in NAMES))

    told = await call(desk, ServiceInvocationClient(sidecar).client(desk.grpc.DeskStub, app_id="desk"), kind)
    await sidecar.close()

    custom = [name for name in names if name in NAMES]
    inward, outward = [f"{name}>" for name in custom], [f"<{name}" for name in reversed(custom)]
    assert seen == [*inward, *outward, *(f"{name}!" for name in reversed(custom))]
    assert [each.name for each in sidecar.outbound.order()] == names
    assert told == ["why desk"]


@pytest.mark.req("R16.3", "R16.4")
@pytest.mark.parametrize("kind", KINDS)
async def test_a_function_of_a_few_lines_changes_what_goes_out(
    desk: Desk, settings: Settings, remote: FakeDapr, kind: Kind
) -> None:
    @outbound_middleware()
    def tenant(call: OutboundCall, start: Any) -> Any:
        call.set_header("x-tenant", "ann")
        return start(call)

    sidecar = Sidecar(settings)
    sidecar.outbound.add(tenant)

    told = await call(desk, ServiceInvocationClient(sidecar).client(desk.grpc.DeskStub, app_id="desk"), kind)
    await sidecar.close()

    assert told == ["why desk ann"]


@pytest.mark.req("R16.4")
@pytest.mark.parametrize("kind", KINDS)
async def test_answers_are_changed_on_their_way_in(
    desk: Desk, settings: Settings, remote: FakeDapr, kind: Kind
) -> None:
    class Shouting(OutboundMiddleware):
        def on_response(self, target: OutboundTarget) -> Any:
            return lambda answer: desk.pb2.Answer(text=answer.text.upper())

    sidecar = Sidecar(settings)
    sidecar.outbound.add(Shouting())

    told = await call(desk, ServiceInvocationClient(sidecar).client(desk.grpc.DeskStub, app_id="desk"), kind)
    await sidecar.close()

    assert told == ["WHY DESK"]


@pytest.mark.req("R16.5")
async def test_a_middleware_that_fails_fails_the_call_before_it_is_made(
    desk: Desk, settings: Settings, remote: FakeDapr
) -> None:
    @outbound_middleware()
    def clumsy(call: OutboundCall, start: Any) -> Any:
        raise ZeroDivisionError

    sidecar = Sidecar(settings, Metrics())
    sidecar.outbound.add(clumsy)
    stub = ServiceInvocationClient(sidecar).client(desk.grpc.DeskStub, app_id="desk")

    with pytest.raises(ZeroDivisionError):
        await stub.Ask(desk.pb2.Question(text="why"))
    await sidecar.close()


async def test_once_a_call_was_made_the_chain_is_what_it_is(desk: Desk, settings: Settings, remote: FakeDapr) -> None:
    sidecar = Sidecar(settings)
    await sidecar.client.get_metadata()

    with pytest.raises(RuntimeError, match="add outbound middleware before"):
        sidecar.outbound.add(Recorder("red", []))
    await sidecar.close()


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (["identity", "blue"], "APIBASE_OUTBOUND_MIDDLEWARE names 'blue'; there is identity, red"),
        (["red", "identity", "red"], "names one twice"),
        (["red"], "leaves out 'identity'"),
    ],
)
def test_an_order_that_makes_no_sense_is_refused(names: list[str], says: str) -> None:
    chain = OutboundChain([Recorder("identity", []), Recorder("red", [])], names)

    with pytest.raises(ContractError, match=says):
        chain.order()


def test_two_of_one_name_are_one_too_many() -> None:
    with pytest.raises(ContractError, match="two outbound middleware called 'red'"):
        OutboundChain([Recorder("red", []), Recorder("red", [])]).order()
