"""The line that ends a call: the same as loguru would write, in its place among loguru's, and never lost."""

from __future__ import annotations

import asyncio
import io
import json
import threading
import time
from collections.abc import Callable

from loguru import logger

from apibase import Settings
from apibase.observability import call_context, flush_logs, log_outcome
from tests.unit.conftest import Log

TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
FIELDS = {"method": "post.v1.Desk.Take", "code": "OK", "duration_ms": 1.25}


def without_time(line: dict[str, object]) -> dict[str, object]:
    return {key: value for key, value in line.items() if key != "time"}


def test_it_is_the_line_that_loguru_writes(log: Log) -> None:
    with call_context({"traceparent": TRACEPARENT, "x-correlation-id": "c7"}):
        log_outcome("INFO", "apibase.call", "post.v1.Desk.Take OK", FIELDS)
        logger.bind(logger="apibase.call", **FIELDS).info("post.v1.Desk.Take OK")

    ours, loguru_line = log.lines
    assert without_time(ours) == without_time(loguru_line)
    assert ours["time"] <= loguru_line["time"]


def test_as_text_it_is_the_same_too(settings: Settings, set_up_logging: Callable[..., None]) -> None:
    stream = io.StringIO()
    set_up_logging(settings.model_copy(update={"log_format": "text"}), stream)

    log_outcome("INFO", "apibase.call", "post.v1.Desk.Take OK", FIELDS)
    logger.bind(logger="apibase.call", **FIELDS).info("post.v1.Desk.Take OK")

    ours, loguru_line = (line.split(" ", 1)[1] for line in Log(stream).text.splitlines())
    assert ours == loguru_line


async def test_on_a_loop_it_is_written_soon_and_before_what_is_logged_after_it(log: Log) -> None:
    log_outcome("INFO", "apibase.call", "first", FIELDS)
    log_outcome("INFO", "apibase.call", "second", FIELDS)
    logger.info("third")
    log_outcome("INFO", "apibase.call", "fourth", FIELDS)

    assert [json.loads(line)["message"] for line in log._stream.getvalue().splitlines()] == ["first", "second", "third"]
    async with asyncio.timeout(5):
        while "fourth" not in log._stream.getvalue():
            await asyncio.sleep(0)


def test_without_a_loop_it_is_written_at_once(log: Log) -> None:
    log_outcome("INFO", "apibase.call", "now", FIELDS)

    assert "now" in log._stream.getvalue()


def test_what_a_loop_left_is_written_with_the_next_line(log: Log) -> None:
    async def one() -> None:
        log_outcome("INFO", "apibase.call", "left behind", FIELDS)

    asyncio.run(one())
    assert log._stream.getvalue() == ""

    asyncio.run(one())
    flush_logs()
    assert log._stream.getvalue().count("left behind") == 2


def test_another_loop_does_not_wait_for_the_one_that_ended(log: Log) -> None:
    async def one(text: str) -> None:
        log_outcome("INFO", "apibase.call", text, FIELDS)

    async def another() -> None:
        await one("second")
        async with asyncio.timeout(5):
            while "second" not in log._stream.getvalue():
                await asyncio.sleep(0)

    asyncio.run(one("first"))
    asyncio.run(another())

    assert [line["message"] for line in log.lines] == ["first", "second"]


def test_below_the_level_it_is_not_written(settings: Settings, set_up_logging: Callable[..., None]) -> None:
    stream = io.StringIO()
    set_up_logging(settings.model_copy(update={"log_level": "WARNING"}), stream)

    log_outcome("INFO", "apibase.call", "quiet", FIELDS)
    log_outcome("WARNING", "apibase.event", "loud", FIELDS)

    assert [line["message"] for line in Log(stream).lines] == ["loud"]


def test_a_sink_of_ones_own_gets_it_too(log: Log) -> None:
    taken: list[str] = []
    sink = logger.add(lambda message: taken.append(message.record["message"]), level="INFO")
    try:
        log_outcome("INFO", "apibase.call", "for both", FIELDS)
    finally:
        logger.remove(sink)

    assert taken == ["for both"]
    assert log.one(message="for both")["method"] == "post.v1.Desk.Take"


def test_without_configured_logging_it_goes_to_loguru() -> None:
    taken: list[str] = []
    logger.remove()
    sink = logger.add(lambda message: taken.append(message.record["message"]))
    try:
        log_outcome("INFO", "apibase.call", "to loguru", FIELDS)
    finally:
        logger.remove(sink)

    assert taken == ["to loguru"]


def test_from_many_threads_no_line_is_lost_or_torn(log: Log) -> None:
    def work(number: int) -> None:
        for each in range(200):
            log_outcome("INFO", "apibase.call", f"{number}/{each}", FIELDS)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert {line["message"] for line in log.lines} == {f"{number}/{each}" for number in range(8) for each in range(200)}


async def test_a_burst_is_not_kept_in_memory(log: Log) -> None:
    for each in range(5000):
        log_outcome("INFO", "apibase.call", str(each), FIELDS)
    started = time.monotonic()

    assert log._stream.getvalue().count("\n") >= 3000, "the loop has not turned, yet most of it is written"
    assert len(log.lines) == 5000
    assert time.monotonic() - started < 5
