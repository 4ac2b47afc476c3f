"""Lines are tied to their call wherever they are written: in tasks, in threads, after the call has ended."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest
from loguru import logger

from apibase import App, Settings
from apibase.observability import call_context, prepare_loop
from apibase.threads import as_async
from tests.unit.conftest import Desk, Log
from tests.unit.fake_dapr import FakeDapr, eventually

TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
HEADERS = {"traceparent": TRACEPARENT, "x-correlation-id": "c7"}
IDS = {"trace_id": "4bf92f3577b34da6a3ce929d0e0e4736", "span_id": "00f067aa0ba902b7", "correlation_id": "c7"}

pytestmark = pytest.mark.req("R10.4")


def ids_of(line: dict[str, Any]) -> dict[str, Any]:
    return {key: line[key] for key in IDS if key in line}


@pytest.fixture(autouse=True)
async def _loop(settings: Settings) -> None:
    prepare_loop(asyncio.get_running_loop(), settings)


async def in_a_task() -> None:
    async def work() -> None:
        logger.info("here")

    await asyncio.create_task(work())


async def in_a_group_of_tasks() -> None:
    async def work() -> None:
        await asyncio.sleep(0)
        logging.getLogger("some.library").info("here")

    async with asyncio.TaskGroup() as group:
        group.create_task(work())


async def in_to_thread() -> None:
    await asyncio.to_thread(logger.info, "here")


async def in_the_loops_threads() -> None:
    await asyncio.get_running_loop().run_in_executor(None, logger.info, "here")


async def in_a_plain_function() -> None:
    await as_async(lambda: logger.info("here"), None)()


async def in_a_plain_function_in_a_pool() -> None:
    with ThreadPoolExecutor(1) as pool:
        await as_async(lambda: logger.info("here"), pool)()


async def in_a_callback() -> None:
    asyncio.get_running_loop().call_soon(logger.info, "here")
    await asyncio.sleep(0)


async def in_a_thread_that_is_given_the_context() -> None:
    thread = threading.Thread(target=contextvars.copy_context().run, args=(logger.info, "here"))
    thread.start()
    await asyncio.to_thread(thread.join)


async def in_a_pool_that_is_given_the_context() -> None:
    with ThreadPoolExecutor(1) as pool:
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(pool, contextvars.copy_context().run, logger.info, "here")


PLACES = [
    in_a_task,
    in_a_group_of_tasks,
    in_to_thread,
    in_the_loops_threads,
    in_a_plain_function,
    in_a_plain_function_in_a_pool,
    in_a_callback,
    in_a_thread_that_is_given_the_context,
    in_a_pool_that_is_given_the_context,
]


@pytest.mark.parametrize("place", PLACES, ids=lambda place: place.__name__)
async def test_a_line_has_the_ids_of_its_call(log: Log, place: Any) -> None:
    with call_context(HEADERS):
        await place()

    assert ids_of(log.one(message="here")) == IDS


async def test_a_thread_of_the_loop_keeps_nothing_of_the_call_that_it_worked_for(log: Log) -> None:
    loop = asyncio.get_running_loop()
    with call_context(HEADERS):
        await loop.run_in_executor(None, logger.info, "within")
    await loop.run_in_executor(None, logger.info, "after")

    assert ids_of(log.one(message="within")) == IDS
    assert ids_of(log.one(message="after")) == {}


async def test_two_calls_at_once_do_not_mix(log: Log) -> None:
    async def call(number: int) -> None:
        with call_context({"traceparent": f"00-{number:032x}-{number:016x}-01"}):
            for _ in range(5):
                await asyncio.to_thread(logger.bind(call=number).info, "thread")
                logger.bind(call=number).info("loop")

    await asyncio.gather(*map(call, range(1, 9)))

    assert len(log.lines) == 80
    assert all(int(line["trace_id"], 16) == int(line["span_id"], 16) == line["call"] for line in log.lines)


async def test_work_that_outlives_its_call_keeps_its_ids(
    desk: Desk, settings: Settings, dapr: FakeDapr, log: Log
) -> None:
    """A real call, by gRPC: its line is written, its answer given, then the work that it began goes on."""
    may_go_on, tasks = asyncio.Event(), set()

    class DeskService(desk.grpc.DeskServicer):
        async def Ask(self, request: Any, context: Any) -> Any:
            tasks.add(asyncio.create_task(self.later()))
            return desk.pb2.Answer(text="soon")

        async def later(self) -> None:
            await may_go_on.wait()
            logger.info("in the task")
            await asyncio.to_thread(logger.info, "in its thread")
            raise ValueError("in vain")

    app = App(settings)
    app.add_servicer(DeskService())
    await app.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{app.port}") as channel:
            await desk.grpc.DeskStub(channel).Ask(desk.pb2.Question(text="x"), metadata=tuple(HEADERS.items()))
        call = log.one(logger="apibase.call")
        may_go_on.set()
        await asyncio.wait(tasks)
        tasks.clear()
        gc.collect()
        await eventually(lambda: log.of(logger="asyncio"))
    finally:
        await app.stop()

    assert ids_of(call)["trace_id"] == IDS["trace_id"]
    for line in (log.one(message="in the task"), log.one(message="in its thread"), log.one(logger="asyncio")):
        assert ids_of(line) == ids_of(call)
    assert log.one(logger="asyncio")["error"]["message"] == "in vain"
