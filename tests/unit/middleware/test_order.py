"""The order of the chain: for each kind of call the whole of it as it was recorded, whatever the settings say it is."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
import pytest
from dapr.proto import common_v1
from dapr.proto.runtime.v1 import appcallback_pb2, appcallback_pb2_grpc
from google.protobuf.any_pb2 import Any as AnyMessage

from apibase import ContractError
from apibase.app_channel import AppChannelServicer
from apibase.delivery import TopicDelivery
from apibase.middleware import Call, Kind, Middleware, Proceed, Target
from apibase.middleware.chain import Chain, ordered
from apibase.middleware.deadline import Deadline
from apibase.middleware.errors import Errors
from apibase.routes import Route, RouteTable
from apibase.rpc import rpc_handlers
from tests.unit.app_channels import Graveyard, Listener, served
from tests.unit.chains import chain
from tests.unit.conftest import Desk

NAMES = ("red", "green", "blue", "white")


class Recorder(Middleware):
    """Notes when a call comes by, and when it comes back; and each message of a request."""

    def __init__(self, name: str, seen: list[str], kinds: Any = frozenset(Kind)) -> None:
        self.name = name
        self.kinds = kinds
        self.seen = seen

    def wrap(self, target: Target, proceed: Proceed) -> Proceed:
        async def recorded(call: Call) -> object:
            self.seen.append(f"{self.name}>")
            try:
                return await proceed(call)
            finally:
                self.seen.append(f"<{self.name}")

        return recorded

    def on_request(self, target: Target) -> Callable[[Any], Any]:
        def noted(message: Any) -> Any:
            self.seen.append(f"{self.name}?")
            return message

        return noted

    def on_response(self, target: Target) -> Callable[[Any], Any]:
        def noted(message: Any) -> Any:
            self.seen.append(f"{self.name}!")
            return message

        return noted


class Everything:
    """An app channel and a service with one handler of each kind, behind one chain."""

    def __init__(self, desk: Desk, channel: grpc.aio.Channel) -> None:
        self.desk = desk
        self.rpcs = desk.grpc.DeskStub(channel)
        self.daprd = appcallback_pb2_grpc.AppCallbackStub(channel)

    async def call(self, kind: Kind) -> None:
        await getattr(self, f"_{kind}")()

    def _question(self) -> Any:
        return self.desk.pb2.Question(text="why")

    async def _questions(self) -> AsyncIterator[Any]:
        yield self._question()

    async def _unary(self) -> None:
        await self.rpcs.Ask(self._question())

    async def _server_stream(self) -> None:
        assert len([answer async for answer in self.rpcs.Listen(self._question())]) == 1

    async def _client_stream(self) -> None:
        await self.rpcs.Tell(self._questions())

    async def _bidi_stream(self) -> None:
        assert len([answer async for answer in self.rpcs.Talk(self._questions())]) == 1

    async def _invoke(self) -> None:
        await self.daprd.OnInvoke(common_v1.InvokeRequest(method="ask", data=AnyMessage(value=b"why")))

    async def _event(self) -> None:
        event = appcallback_pb2.TopicEventRequest(
            id="1", source="shop", type="desk.v1.Asked", pubsub_name="events", topic="desk",
            data=b'{"text": "why"}', data_content_type="application/json",
        )  # fmt: skip
        assert (await self.daprd.OnTopicEvent(event)).status == appcallback_pb2.TopicEventResponse.SUCCESS

    async def _binding(self) -> None:
        await self.daprd.OnBindingEvent(appcallback_pb2.BindingEventRequest(name="mail", data=b'{"text": "why"}'))

    async def _job(self) -> None:
        await self.daprd.OnJobEvent(appcallback_pb2.JobEventRequest(name="nightly"))


Serve = Callable[[Chain], Awaitable[Everything]]


@pytest.fixture
async def serve(desk: Desk, socket_folder: Any) -> AsyncIterator[Serve]:
    class Answers(desk.grpc.DeskServicer):  # type: ignore[misc]
        async def Ask(self, request: Any, context: Any) -> Any:
            return desk.pb2.Answer(text=request.text)

        async def Listen(self, request: Any, context: Any) -> AsyncIterator[Any]:
            yield desk.pb2.Answer(text=request.text)

        async def Tell(self, requests: Any, context: Any) -> Any:
            return desk.pb2.Answer(text=" ".join([request.text async for request in requests]))

        async def Talk(self, requests: Any, context: Any) -> AsyncIterator[Any]:
            async for request in requests:
                yield desk.pb2.Answer(text=request.text)

    async def nothing(_request: Any, _event: Any) -> None:
        return None

    opened = []

    async def start(made: Chain) -> Everything:
        routes = RouteTable()
        routes.add(Listener().implement(desk, "DeskEvents"))
        routes.add_method("ask", Route("ask", nothing))
        routes.add_job("nightly", Route("nightly", nothing))  # type: ignore[arg-type]
        rpcs = rpc_handlers(desk.pb2.DESCRIPTOR.services_by_name["Desk"], Answers(), made)
        serving = served(AppChannelServicer(routes, made), socket_folder, rpcs)
        channel = await serving.__aenter__()
        opened.append(serving)
        return Everything(desk, channel)

    yield start
    for serving in opened:
        await serving.__aexit__(None, None, None)


def whole(names: Any, *, asked: str = "", answered: str = "") -> list[str]:
    """Return what is recorded of a call of one message: in by the order, its messages where they are read, and back."""
    inward = [f"{name}>" for name in names]
    outward = [f"<{name}" for name in reversed(names)]
    messages = [f"{name}{asked}" for name in names if asked] + [
        f"{name}{answered}" for name in reversed(names) if answered
    ]
    return [*inward, *messages, *outward]


ANSWERS = {Kind.UNARY, Kind.SERVER_STREAM, Kind.CLIENT_STREAM, Kind.BIDI_STREAM}


@pytest.mark.req("R16.2")
@pytest.mark.parametrize("kind", Kind)
@pytest.mark.parametrize("seed", range(3))
async def test_a_call_of_each_kind_passes_the_whole_chain_in_the_order_of_the_settings(
    serve: Serve, kind: Kind, seed: int
) -> None:
    seen: list[str] = []
    names = list(NAMES)
    random.Random(seed).shuffle(names)
    known = [Errors(TopicDelivery(Graveyard())), Deadline(), *(Recorder(name, seen) for name in NAMES)]
    everything = await serve(Chain(ordered(known, ["errors", *names, "deadline"])))

    await everything.call(kind)

    assert seen == whole(names, asked="?", answered="!" if kind in ANSWERS else "")


@pytest.mark.req("R16.2")
@pytest.mark.parametrize("seed", range(4))
async def test_what_is_built_in_may_stand_in_another_order_too(
    serve: Serve, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    inner = ["deadline", "rate_limit", "concurrency_limit", "size_limit", "validation", "red", "green"]
    outer = ["tracing", "metrics", "access_log", "app_token", "callers"]
    dice = random.Random(seed)
    dice.shuffle(inner)
    dice.shuffle(outer)
    made = chain(*(Recorder(name, seen) for name in ("red", "green")), middleware=(*outer, "errors", *inner))
    everything = await serve(made)

    for kind in Kind:
        await everything.call(kind)

    custom = [name for name in inner if name in {"red", "green"}]
    assert made.names == (*outer, "errors", *inner)
    assert [note for note in seen if note.endswith(">")] == [f"{name}>" for name in custom] * len(Kind)


@pytest.mark.req("R16.2", "R16.3")
async def test_a_middleware_passes_calls_of_its_kinds_only(serve: Serve) -> None:
    seen: list[str] = []
    everything = await serve(chain(Recorder("red", seen, {Kind.EVENT, Kind.BIDI_STREAM})))

    for kind in Kind:
        await everything.call(kind)

    assert [note for note in seen if note.endswith(">")] == ["red>", "red>"]


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (["errors", "blue"], "APIBASE_MIDDLEWARE names 'blue'; there is errors, red"),
        (["red", "errors", "red"], "names 'red' twice"),
        (["red"], "leaves out 'errors'"),
    ],
)
def test_an_order_that_makes_no_sense_stops_start_up(names: list[str], says: str) -> None:
    with pytest.raises(ContractError, match=says):
        ordered([Errors(TopicDelivery(Graveyard())), Recorder("red", [])], names)


@pytest.mark.parametrize("late", ["app_token", "callers"])
def test_who_may_call_is_settled_before_errors_are_told(late: str) -> None:
    with pytest.raises(ContractError, match=f"has '{late}' after 'errors'; put that before it"):
        chain(middleware=("errors", late))


def test_two_of_one_name_are_one_too_many() -> None:
    with pytest.raises(ContractError, match="two middleware called 'red'"):
        chain(Recorder("red", []), Recorder("red", []))
