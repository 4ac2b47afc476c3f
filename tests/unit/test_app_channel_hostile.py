"""Hostile input over all of daprd's calls, through a real server: always a status of the table, and the next good call is served."""

from __future__ import annotations

import asyncio
import gc
import io
import itertools
import os
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from dapr.proto import common_v1
from dapr.proto.runtime.v1 import appcallback_pb2, appcallback_pb2_grpc
from google.protobuf.empty_pb2 import Empty

from apibase import Drop, Retry, ServiceError, Settings, SidecarUnavailable
from apibase.app_channel import AppChannelServicer
from apibase.clients import Sidecar
from apibase.dead_letters import DeadLetters
from apibase.invocation import Answer
from apibase.routes import Incoming, Route, RouteTable
from tests.unit.app_channels import DROP, RETRY, SUCCESS, Listener, served
from tests.unit.chains import chain
from tests.unit.conftest import Desk
from tests.unit.fake_dapr import FakeDapr, eventually
from tests.unit.hostile import ALPHA, CALLBACK, HEALTH, METHODS, Adversary, Hostile, is_json, nested_too_deep

Code = grpc.StatusCode

# How the handlers end, one after the other. Made anew each time: one that is raised again keeps the frames of all its times.
ENDS: list[Callable[[], BaseException | None]] = [
    lambda: None,
    lambda: Drop("hunter2 \x00{}🙂", code="{}"),
    lambda: Retry("\n"),
    lambda: ServiceError(Code.NOT_FOUND, "NO", "é" * 5000),
    lambda: ServiceError(Code.UNIMPLEMENTED, "NO", "no"),
    lambda: SidecarUnavailable("gone"),
    lambda: RuntimeError("{0} %s <red>"),
    lambda: None,
]
OF_HANDLERS = {Code.OK, Code.NOT_FOUND, Code.UNIMPLEMENTED, Code.UNAVAILABLE, Code.INTERNAL, Code.ABORTED}
ALLOWED = {
    f"{CALLBACK}ListTopicSubscriptions": {Code.OK},
    f"{CALLBACK}ListInputBindings": {Code.OK},
    f"{CALLBACK}OnTopicEvent": {Code.OK},
    f"{CALLBACK}OnBulkTopicEvent": {Code.OK},
    HEALTH: {Code.OK},
}
# What bytes are answered that are no request; a request without fields is never read.
UNREADABLE = {
    f"{CALLBACK}ListTopicSubscriptions": {Code.OK},
    f"{CALLBACK}ListInputBindings": {Code.OK},
    f"{CALLBACK}OnTopicEvent": {Code.OK},
    f"{CALLBACK}OnBulkTopicEvent": {Code.OK, Code.INVALID_ARGUMENT},
    HEALTH: {Code.OK},
}
MANY = 6000
GROWTH_BYTES = 16 * 1024 * 1024


class Ends(Listener):
    """Handlers that end in turn in every way that there is."""

    def __init__(self) -> None:
        super().__init__()
        self._ends = itertools.cycle(ENDS)

    @property
    def error(self) -> BaseException | None:
        return next(self._ends)()

    @error.setter
    def error(self, value: object) -> None: ...

    async def answer(self, incoming: Incoming, _event: Any) -> Answer:
        error = self.error
        if error is not None:
            raise error
        return Answer(common_v1.InvokeResponse(data=incoming.request.data))  # type: ignore[attr-defined]


class Nowhere(io.StringIO):
    """A log that is written and not kept."""

    def write(self, text: str) -> int:
        return len(text)


@pytest.fixture
def ends() -> Ends:
    return Ends()


@pytest.fixture
async def channel(
    post: Desk, dapr: FakeDapr, settings: Settings, set_up_logging: Any, socket_folder: Path, ends: Ends
) -> AsyncIterator[grpc.aio.Channel]:
    """Return a channel to an app with every sort of listener, whose log and whose dead letters are the real ones."""
    set_up_logging(settings.model_copy(update={"log_level": "DEBUG"}), Nowhere())
    routes = RouteTable()
    routes.add(ends.implement(post, "PostEvents"))
    routes.add(ends.implement(post, "Loose"))
    routes.add_method("ask", Route("ask", ends.answer))
    sidecar = Sidecar(settings)
    servicer = AppChannelServicer(routes, chain(graveyard=DeadLetters(sidecar)))
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
    method = hostile.path.replace("AppCallbackAlpha/OnBulkTopicEventAlpha1", "AppCallback/OnBulkTopicEvent")
    if hostile.request is not None:
        # What comes from another app is none of its business here.
        relayed = {Code.PERMISSION_DENIED} if "dapr-caller-app-id" in dict(hostile.headers) else set()
        assert code in ALLOWED.get(method, OF_HANDLERS | relayed), said
    else:
        assert code in UNREADABLE.get(method, {Code.INVALID_ARGUMENT}), said
    if isinstance(answer, appcallback_pb2.TopicEventResponse):
        assert answer.status in ({SUCCESS, RETRY, DROP} if hostile.request is not None else {DROP}), said
    if isinstance(answer, appcallback_pb2.TopicEventBulkResponse):
        assert {each.status for each in answer.statuses} <= {SUCCESS, RETRY, DROP}, said
        if hostile.request is not None:
            asked = [each.entry_id for each in hostile.request.entries]  # type: ignore[attr-defined]
            assert [each.entry_id for each in answer.statuses] == asked, said


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


def open_files() -> int:
    return sum(1 for _ in Path("/dev/fd").iterdir())


def resident_bytes() -> int:
    """The memory of this process that is in use now. Linux only: elsewhere there is no such figure without a package."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def check_letters(dapr: FakeDapr) -> int:
    """Fail unless every dead letter so far is one; forget them, and return how many they were."""
    for request in dapr.published:
        assert is_json(request.data), request.data[:300]
        assert request.topic.endswith(".dead")
    count = len(dapr.published)
    dapr.published.clear()
    dapr.calls.clear()
    return count


@pytest.mark.req("R3.3", "R3.4")
async def test_hostile_input_ends_where_the_table_says(
    post: Desk, channel: grpc.aio.Channel, dapr: FakeDapr, capsys: pytest.CaptureFixture[str]
) -> None:
    seen = await attack(channel, Adversary(0, letters(post)), 600)

    assert sum(seen.values()) == 600
    assert len({each.split()[0] for each in seen}) == len(METHODS)
    await good_call_is_served(channel)
    assert check_letters(dapr) > 12
    assert "Logging error" not in capsys.readouterr().err


@pytest.mark.full
@pytest.mark.timeout(300)
@pytest.mark.req("R3.3", "R3.4")
async def test_thousands_of_hostile_inputs_leave_no_task_no_file_and_no_memory_behind(
    post: Desk, channel: grpc.aio.Channel, dapr: FakeDapr, ends: Ends, capsys: pytest.CaptureFixture[str]
) -> None:
    adversary = Adversary(1, letters(post))
    seen: Counter[str] = Counter()
    buried = 0

    async def thousand() -> None:
        nonlocal buried
        seen.update(await attack(channel, adversary, 1000))
        await good_call_is_served(channel)
        buried += check_letters(dapr)
        ends.got.clear()

    await thousand()  # What is made once, is made now: buffers, arenas, caches of the parsers.
    tasks, files, memory = len(asyncio.all_tasks()), open_files(), resident_bytes()

    for _ in range(MANY // 1000 - 1):
        await thousand()

    assert sum(seen.values()) == MANY >= 5000
    assert {each.split()[0] for each in seen} == {path.rpartition("/")[2] for path in METHODS}
    assert {each.split()[0] for each in seen if " unreadable " in each} == {path.rpartition("/")[2] for path in METHODS}
    assert buried > MANY / 50
    await eventually(lambda: len(asyncio.all_tasks()) <= tasks)
    await eventually(lambda: open_files() <= files)
    grown = resident_bytes() - memory
    assert grown < GROWTH_BYTES, f"{grown / 2**20:.1f} MiB more after {MANY - 1000} inputs"
    assert "Logging error" not in capsys.readouterr().err


@pytest.mark.req("R3.4")
async def test_an_event_that_protobuf_can_not_read_is_left_to_daprds_dead_letters(
    channel: grpc.aio.Channel, ends: Ends
) -> None:
    kind = appcallback_pb2.TopicEventRequest
    good = kind(id="deep", type="post.v1.Note", topic="notes", pubsub_name="events", data=b'{"text": "why"}')

    path = f"{CALLBACK}OnTopicEvent"
    data = good.SerializeToString() + nested_too_deep(kind)
    code, answer = await outcome(channel, Hostile(path, data, (), None))

    assert (code, answer.status) == (Code.OK, DROP)
    assert ends.got == []


@pytest.mark.req("R3.4", "R3.5")
@pytest.mark.parametrize("path", [f"{CALLBACK}OnBulkTopicEvent", f"{ALPHA}OnBulkTopicEventAlpha1"])
async def test_an_entry_that_protobuf_can_not_read_takes_none_of_its_batch_with_it(
    channel: grpc.aio.Channel, ends: Ends, path: str
) -> None:
    kind = appcallback_pb2.TopicEventBulkRequest
    batch = kind(id="batch", topic="notes", pubsub_name="events")
    for name in ("one", "two"):
        batch.entries.add(entry_id=name).cloud_event.MergeFrom(
            appcallback_pb2.TopicEventCERequest(id=name, type="post.v1.Note", data=b'{"text": "why"}')
        )

    code, answer = await outcome(channel, Hostile(path, batch.SerializeToString() + nested_too_deep(kind), (), None))

    assert code is Code.OK
    assert [each.entry_id for each in answer.statuses] == ["one", "two", "deep-entry"]
    assert answer.statuses[2].status == DROP
    assert {message.text for _, message, _ in ends.got} == {"why"}
    assert len(ends.got) == 2


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
