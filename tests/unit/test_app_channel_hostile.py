"""Hostile input over all of daprd's calls, through a real server: always a status of the table, and the next good call is served."""

from __future__ import annotations

import asyncio
import io
import itertools
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from dapr.proto import common_v1
from dapr.proto.runtime.v1 import appcallback_pb2, appcallback_pb2_grpc
from google.protobuf.empty_pb2 import Empty

from apibase import Drop, Retry, ServiceError, Settings, SidecarUnavailable
from apibase.app_channel import AppChannelServicer
from apibase.app_token import AppToken
from apibase.clients import Sidecar
from apibase.dead_letters import DeadLetters
from apibase.delivery import TopicDelivery
from apibase.invocation import Answer, Invocations
from apibase.routes import Incoming, Route, RouteTable
from tests.unit.app_channels import DROP, RETRY, SUCCESS, Listener, served
from tests.unit.conftest import Desk
from tests.unit.fake_dapr import FakeDapr, eventually
from tests.unit.hostile import CALLBACK, HEALTH, METHODS, Adversary, Hostile, is_json

Code = grpc.StatusCode

# How the handlers end, one after the other.
ENDS: list[BaseException | None] = [
    None,
    Drop("hunter2 \x00{}🙂", code="{}"),
    Retry("\n"),
    ServiceError(Code.NOT_FOUND, "NO", "é" * 5000),
    ServiceError(Code.UNIMPLEMENTED, "NO", "no"),
    SidecarUnavailable("gone"),
    RuntimeError("{0} %s <red>"),
    None,
]
OF_HANDLERS = {Code.OK, Code.NOT_FOUND, Code.UNIMPLEMENTED, Code.UNAVAILABLE, Code.INTERNAL, Code.ABORTED}
ALLOWED = {
    f"{CALLBACK}ListTopicSubscriptions": {Code.OK},
    f"{CALLBACK}ListInputBindings": {Code.OK},
    f"{CALLBACK}OnTopicEvent": {Code.OK},
    f"{CALLBACK}OnBulkTopicEvent": {Code.OK},
    HEALTH: {Code.OK},
}


class Ends(Listener):
    """Handlers that end in turn in every way that there is."""

    def __init__(self) -> None:
        super().__init__()
        self._ends = itertools.cycle(ENDS)

    @property
    def error(self) -> BaseException | None:
        return next(self._ends)

    @error.setter
    def error(self, value: object) -> None: ...

    async def answer(self, incoming: Incoming) -> Answer:
        error = self.error
        if error is not None:
            raise error
        return Answer(common_v1.InvokeResponse(data=incoming.request.data))  # type: ignore[attr-defined]


@pytest.fixture
async def channel(
    post: Desk, dapr: FakeDapr, settings: Settings, set_up_logging: Any, socket_folder: Path
) -> AsyncIterator[grpc.aio.Channel]:
    """Return a channel to an app with every sort of listener, whose log and whose dead letters are the real ones."""
    set_up_logging(settings.model_copy(update={"log_level": "DEBUG"}), io.StringIO())
    ends = Ends()
    routes = RouteTable()
    routes.add(ends.implement(post, "PostEvents"))
    routes.add(ends.implement(post, "Loose"))
    routes.add_method("ask", Route("ask", ends.answer))
    sidecar = Sidecar(settings)
    servicer = AppChannelServicer(
        routes, TopicDelivery(DeadLetters(sidecar)), Invocations(routes.methods), AppToken(None)
    )
    async with served(servicer, socket_folder) as opened:
        yield opened
    await sidecar.close()


async def outcome(channel: grpc.aio.Channel, hostile: Hostile) -> tuple[grpc.StatusCode, Any]:
    try:
        data = await channel.unary_unary(hostile.path)(hostile.data, metadata=hostile.headers, timeout=20)
    except grpc.aio.AioRpcError as error:
        return error.code(), error.details()
    return Code.OK, METHODS[hostile.path][1].FromString(data)


def check(hostile: Hostile, code: grpc.StatusCode, answer: Any) -> None:
    """Fail unless it is an outcome of the table."""
    said = f"{hostile.path} {hostile.data[:300]!r} {hostile.headers}: {code} {str(answer)[:300]}"
    if hostile.request is None:
        assert code in {Code.INTERNAL, Code.UNKNOWN}, said  # gRPC's own: the bytes are no request, so nobody was asked
        return
    assert code in ALLOWED.get(
        hostile.path.replace("AppCallbackAlpha/OnBulkTopicEventAlpha1", "AppCallback/OnBulkTopicEvent"), OF_HANDLERS
    ), said
    if isinstance(answer, appcallback_pb2.TopicEventResponse):
        assert answer.status in {SUCCESS, RETRY, DROP}, said
    if isinstance(answer, appcallback_pb2.TopicEventBulkResponse):
        assert [each.entry_id for each in answer.statuses] == [each.entry_id for each in hostile.request.entries], said  # type: ignore[attr-defined]
        assert {each.status for each in answer.statuses} <= {SUCCESS, RETRY, DROP}, said


async def good_call_is_served(channel: grpc.aio.Channel) -> None:
    stub = appcallback_pb2_grpc.AppCallbackStub(channel)
    told = await stub.ListInputBindings(Empty(), timeout=20)
    assert list(told.bindings) == ["mail"]
    event = appcallback_pb2.TopicEventRequest(
        id="good", type="post.v1.Note", topic="notes", pubsub_name="events", data=b'{"text": "why"}'
    )
    verdicts = {(await stub.OnTopicEvent(event, timeout=20)).status for _ in ENDS}
    assert verdicts == {SUCCESS, RETRY, DROP}


async def attack(channel: grpc.aio.Channel, adversary: Adversary, count: int) -> Counter[str]:
    """Send that many inputs, some at a time; return what came of them."""
    seen: Counter[str] = Counter()
    for start in range(0, count, 50):
        inputs = [adversary.next() for _ in range(min(50, count - start))]
        outcomes = await asyncio.gather(*(outcome(channel, each) for each in inputs))
        for each, (code, answer) in zip(inputs, outcomes, strict=True):
            check(each, code, answer)
            seen[f"{each.path.rpartition('/')[2]} {'unreadable ' if each.request is None else ''}{code.name}"] += 1
    return seen


def letters(post: Desk) -> list[bytes]:
    """Return data that handlers take, as JSON and as protobuf."""
    letter = post.pb2.Letter(text="why", card="hunter2", weight=7)
    letter.posted_at.seconds = 2**50
    letter.enclosed.Pack(post.pb2.Address(city="Paris", door_code="hunter2"))
    letter.extra.fields["x"].number_value = float("nan")
    plain = post.pb2.Letter(text="why", card="hunter2")
    return [b'{"text": "why", "card": "hunter2"}', plain.SerializeToString(), letter.SerializeToString()]


@pytest.mark.req("R3.3", "R3.4")
@pytest.mark.parametrize(
    ("seed", "count"),
    [
        pytest.param(0, 600, id="a few"),
        *(pytest.param(seed, 2000, id=f"many, seed {seed}", marks=pytest.mark.full) for seed in (1, 2, 3, 4)),
    ],
)
async def test_hostile_input_ends_where_the_table_says_and_nothing_is_left_of_it(
    post: Desk, channel: grpc.aio.Channel, dapr: FakeDapr, capsys: pytest.CaptureFixture[str], seed: int, count: int
) -> None:
    await good_call_is_served(channel)
    tasks = len(asyncio.all_tasks())

    seen = await attack(channel, Adversary(seed, letters(post)), count)

    assert sum(seen.values()) == count
    assert len({each.split()[0] for each in seen}) == len(METHODS)
    await good_call_is_served(channel)
    await eventually(lambda: len(asyncio.all_tasks()) <= tasks)
    assert len(dapr.published) > count / 50
    for request in dapr.published:
        assert is_json(request.data), request.data[:300]
        assert request.topic.endswith(".dead")
    assert "Logging error" not in capsys.readouterr().err


async def test_an_event_larger_than_a_message_may_be_is_refused_and_the_next_is_served(
    channel: grpc.aio.Channel,
) -> None:
    large = appcallback_pb2.TopicEventRequest(topic="notes", pubsub_name="events", data=b"x" * (4 * 1024 * 1024 + 1))

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await appcallback_pb2_grpc.AppCallbackStub(channel).OnTopicEvent(large, timeout=20)

    assert caught.value.code() is Code.RESOURCE_EXHAUSTED
    await good_call_is_served(channel)


@pytest.mark.parametrize("path", ["/", "/x", f"{CALLBACK}", f"{CALLBACK}OnNothing", "/post.v1.PostEvents/OnLetter"])
async def test_a_method_that_daprd_does_not_call_is_unimplemented(channel: grpc.aio.Channel, path: str) -> None:
    code, _ = await outcome(channel, Hostile(path, b"", (), None))

    assert code is Code.UNIMPLEMENTED


async def test_bytes_that_are_no_http2_end_their_connection_only(
    channel: grpc.aio.Channel, socket_folder: Path
) -> None:
    for garbage in (b"GET / HTTP/1.1\r\n\r\n", b"\x00" * 1000, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 1000):
        reader, writer = await asyncio.open_unix_connection(f"{socket_folder}/channel.sock")
        writer.write(garbage)
        await asyncio.wait_for(reader.read(), 20)
        writer.close()

    await good_call_is_served(channel)


async def test_callers_that_leave_in_the_middle_leave_nothing_behind(post: Desk, channel: grpc.aio.Channel) -> None:
    await good_call_is_served(channel)
    tasks = len(asyncio.all_tasks())
    adversary = Adversary(99, letters(post))
    calls = [channel.unary_unary(each.path)(each.data) for each in (adversary.next() for _ in range(200))]
    await asyncio.sleep(0)
    for call in calls:
        call.cancel()
    await asyncio.gather(*calls, return_exceptions=True)

    await good_call_is_served(channel)
    await eventually(lambda: len(asyncio.all_tasks()) <= tasks)
