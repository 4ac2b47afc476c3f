"""Log lines: their fields, their formats, and who else's logs become such lines."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from loguru import logger

from apibase import Settings
from apibase.observability import call_context, log_outcome
from tests.unit.conftest import Log

if TYPE_CHECKING:
    from collections.abc import Callable

TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"

pytestmark = pytest.mark.req("R10.4")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def text_log(settings: Settings, set_up_logging: Callable[..., None]) -> Log:
    stream = io.StringIO()
    set_up_logging(settings.model_copy(update={"log_format": "text"}), stream)
    return Log(stream)


def test_a_line_is_one_json_object_with_time_level_logger_message_and_app(log: Log) -> None:
    logger.bind(order_id="7", count=3).info("took {} in", 'an "order"\nof two lines')

    (text,) = log.text.splitlines()
    line = json.loads(text)
    assert datetime.now(UTC) - datetime.fromisoformat(line.pop("time")) < timedelta(seconds=10)
    assert line == {
        "level": "INFO",
        "logger": "tests.unit.observability.test_logging",
        "message": 'took an "order"\nof two lines in',
        "app_id": "desk",
        "order_id": "7",
        "count": 3,
    }


def test_the_time_is_utc_wherever_the_process_runs(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()

    logger.info("now")

    monkeypatch.undo()
    time.tzset()
    stamp = log.lines[0]["time"]
    assert stamp.endswith("Z")
    assert datetime.now(UTC) - datetime.fromisoformat(stamp) < timedelta(seconds=10)


def test_a_line_within_a_call_has_its_trace_span_and_correlation_id(log: Log) -> None:
    with call_context({"traceparent": TRACEPARENT, "x-correlation-id": "c7"}):
        logger.info("within")
    logger.info("after")

    line = log.one(message="within")
    assert (line["trace_id"], line["span_id"]) == ("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7")
    assert line["correlation_id"] == "c7"
    assert "trace_id" not in log.one(message="after")


@pytest.mark.req("R10.5")
def test_an_exception_is_a_field_with_type_message_and_stack(log: Log) -> None:
    def broken() -> None:
        secret = "hunter2"  # noqa: F841 - a local variable that the stack must not show
        raise ValueError("it broke")

    try:
        broken()
    except ValueError:
        logger.exception("so it goes")

    line = log.one(message="so it goes")
    assert line["level"] == "ERROR"
    assert (line["error"]["type"], line["error"]["message"]) == ("ValueError", "it broke")
    assert "in broken" in line["error"]["stack"]
    assert "hunter2" not in log.text.replace('secret = \\"hunter2\\"', "")


@pytest.mark.req("R10.5")
def test_an_exceptions_cause_is_in_the_stack(log: Log) -> None:
    try:
        try:
            raise KeyError("first")
        except KeyError as error:
            raise RuntimeError("second") from error
    except RuntimeError:
        logger.exception("so it goes")

    stack = log.lines[0]["error"]["stack"]
    assert "KeyError: 'first'" in stack
    assert stack.endswith("RuntimeError: second")


def test_what_a_line_is_bound_to_never_replaces_what_every_line_has(log: Log) -> None:
    logger.bind(message="not this", level="nor this", time="never", app_id=7, error="kept").info("this")

    line = log.lines[0]
    assert (line["message"], line["level"], line["app_id"]) == ("this", "INFO", "desk")
    assert line["error"] == {"message": "kept"}
    assert line["time"].endswith("Z")


@pytest.mark.parametrize("value", [2**70, "half a \ud800 pair"])
def test_what_the_fast_encoder_refuses_is_written_all_the_same(log: Log, value: object) -> None:
    logger.bind(odd=value).info("so it is")

    assert log.one(message="so it is")["odd"] == value


def test_what_json_does_not_know_is_written_as_text(log: Log) -> None:
    logger.bind(when=timedelta(seconds=1), what=b"bytes", who={"a set"}).info("odd \ud800 things")

    line = log.lines[0]
    assert (line["when"], line["what"], line["who"]) == ("0:00:01", "b'bytes'", "{'a set'}")


class Untellable:
    def __str__(self) -> str:
        raise RuntimeError("no words")


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (Untellable(), "<Untellable, of which str() raises RuntimeError>"),
        (
            {("a", "tuple"): 1, 7: Untellable()},
            {"('a', 'tuple')": 1, "7": "<Untellable, of which str() raises RuntimeError>"},
        ),
        (float("nan"), None),
        ([2**70, float("inf"), (None, True)], [2**70, None, [None, True]]),
    ],
)
def test_what_can_not_be_told_costs_no_line(log: Log, value: object, told: object) -> None:
    logger.bind(odd=value).info("so it is")
    log_outcome("INFO", "apibase.call", "before it", {"method": "m", "code": "OK", "duration_ms": 1, "odd": value})
    logger.info("after it")

    assert [line.get("odd") for line in log.lines] == [told, told, None]
    assert [line["message"] for line in log.lines] == ["so it is", "before it", "after it"]


def test_what_contains_itself_is_written_as_far_as_it_goes(log: Log) -> None:
    loop: list[object] = ["round"]
    loop.append(loop)

    logger.bind(odd=loop).info("so it is")

    assert log.one(message="so it is")["odd"][0] == "round"


@pytest.mark.req("R10.5")
def test_an_exception_that_can_not_be_told_is_a_line_with_its_stack(log: Log) -> None:
    class Mute(Untellable, Exception):
        pass

    try:
        raise Mute
    except Mute:
        logger.exception("so it goes")

    error = log.one(message="so it goes")["error"]
    assert error["message"] == "<Mute, of which str() raises RuntimeError>".replace("Mute", Mute.__qualname__)
    assert "in test_an_exception_that_can_not_be_told" in error["stack"]


@pytest.mark.req("R10.5")
def test_a_bound_exception_is_told_as_one_that_was_caught(log: Log) -> None:
    try:
        raise ValueError("it broke")
    except ValueError as error:
        kept = error
    logger.bind(error=kept).warning("so it goes")

    told = log.one(message="so it goes")["error"]
    assert (told["type"], told["message"]) == ("ValueError", "it broke")
    assert "in test_a_bound_exception" in told["stack"]


@pytest.mark.req("R10.5")
def test_a_group_of_exceptions_has_all_of_their_stacks(log: Log) -> None:
    async def broken(text: str) -> None:
        raise ValueError(text)

    async def both() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(broken("one"))
            group.create_task(broken("two"))

    try:
        asyncio.run(both())
    except ExceptionGroup as error:
        error.add_note("while both were asked")
        logger.exception("so it goes")

    stack = log.one(message="so it goes")["error"]["stack"]
    assert stack.count("in broken") == 2
    assert [part in stack for part in ("ValueError: one", "ValueError: two", "while both were asked")] == [True] * 3


def test_extra_fields_of_a_librarys_log_are_fields(log: Log) -> None:
    logging.getLogger("some.library").warning("full", extra={"shelf": 7, "level": "not this"}, stack_info=True)

    line = log.one(message="full")
    assert line["shelf"] == 7
    assert "in test_extra_fields" in line["stack_info"]


def test_logs_of_the_standard_library_become_lines_under_their_own_names(log: Log) -> None:
    logging.getLogger("some.library").warning("%d of %s", 3, "many {braces}")

    line = log.one(logger="some.library")
    assert (line["level"], line["message"], line["app_id"]) == ("WARNING", "3 of many {braces}", "desk")


def test_an_exception_of_the_standard_librarys_logs_is_a_field_too(log: Log) -> None:
    try:
        raise ValueError("it broke")
    except ValueError:
        logging.getLogger("some.library").exception("so it goes")
    logging.getLogger("some.library").error("none here", exc_info=True)

    assert log.one(message="so it goes")["error"]["type"] == "ValueError"
    assert "error" not in log.one(message="none here")


@pytest.mark.parametrize(("number", "level"), [(11, "DEBUG"), (29, "SUCCESS"), (60, "CRITICAL")])
def test_a_level_that_a_library_made_up_is_told_as_the_one_below_it(log: Log, number: int, level: str) -> None:
    logging.getLogger("some.library").log(number, "in between")

    assert log.one(logger="some.library")["level"] == level


def test_a_library_that_formats_its_log_wrongly_is_not_broken_by_it(
    log: Log, capsys: pytest.CaptureFixture[str]
) -> None:
    (ours,) = [handler for handler in logging.getLogger().handlers if type(handler).__module__.startswith("apibase")]

    ours.handle(logging.LogRecord("some.library", logging.WARNING, "library.py", 1, "%d things", ("many",), None))

    assert log.lines == []
    assert "Logging error" in capsys.readouterr().err


@pytest.mark.parametrize("noisy", ["grpc", "grpc._cython.cygrpc", "asyncio", "urllib3"])
def test_chatter_of_libraries_is_left_out_even_at_debug(log: Log, noisy: str) -> None:
    logging.getLogger(noisy).info("chatter")
    logging.getLogger(noisy).warning("worth a line")

    assert [line["message"] for line in log.lines] == ["worth a line"]


def test_what_is_below_the_level_is_left_out(settings: Settings, set_up_logging: Callable[..., None]) -> None:
    stream = io.StringIO()
    set_up_logging(settings.model_copy(update={"log_level": "WARNING"}), stream)

    logger.info("not this")
    logging.getLogger("some.library").info("nor this")
    logger.warning("this")

    assert [json.loads(line)["message"] for line in stream.getvalue().splitlines()] == ["this"]
    assert not logging.getLogger("some.library").isEnabledFor(logging.INFO)


def test_text_is_a_line_for_people(text_log: Log) -> None:
    with call_context({"traceparent": TRACEPARENT}):
        logger.bind(order_id="7").warning("careful")

    (line,) = text_log.text.splitlines()
    assert line.split(" ", 1)[1] == "WARNING careful  order_id=7  trace=4bf92f3577b34da6a3ce929d0e0e4736"


def test_text_has_the_stack_below_the_line(text_log: Log) -> None:
    try:
        raise ValueError("it broke")
    except ValueError:
        logger.exception("so it goes")

    first, *stack = text_log.text.splitlines()
    assert first.endswith("ERROR   so it goes")
    assert stack[0].startswith("Traceback")
    assert stack[-1] == "ValueError: it broke"


@pytest.mark.parametrize(
    ("log_format", "stream", "is_json"),
    [
        ("auto", io.StringIO, True),
        ("auto", Terminal, False),
        ("json", Terminal, True),
        ("text", io.StringIO, False),
    ],
)
def test_the_format_is_json_unless_a_person_looks_on(
    settings: Settings, set_up_logging: Callable[..., None], log_format: str, stream: Any, is_json: bool
) -> None:
    out = stream()
    set_up_logging(settings.model_copy(update={"log_format": log_format}), out)

    logger.info("hello")

    assert out.getvalue().startswith("{") == is_json


def test_setting_up_twice_writes_each_line_once(settings: Settings, set_up_logging: Callable[..., None]) -> None:
    first, second = io.StringIO(), io.StringIO()
    set_up_logging(settings, first)
    set_up_logging(settings, second)

    logger.info("once")
    logging.getLogger("some.library").warning("once more")

    assert first.getvalue() == ""
    assert len(second.getvalue().splitlines()) == 2
