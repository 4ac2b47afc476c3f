"""What is logged, by module: what the settings say, what code says, and what an operator writes while the process runs."""

from __future__ import annotations

import asyncio
import io
import logging
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from loguru import logger

from apibase import Settings, set_log_level
from apibase.observability import log_outcome, prepare_loop
from apibase.observability.log_levels import levels, levels_text, parse_levels
from tests.unit.conftest import Log
from tests.unit.fake_dapr import eventually

pytestmark = pytest.mark.req("R10.4")

HERE = __name__


@pytest.fixture
def logged(settings: Settings, set_up_logging: Callable[..., None]) -> Iterator[Callable[..., Log]]:
    def set_up(log_levels: str = "", log_level: str = "INFO") -> Log:
        stream = io.StringIO()
        set_up_logging(settings.model_copy(update={"log_level": log_level, "log_levels": log_levels}), stream)
        return Log(stream)

    yield set_up
    levels.change("code", {})
    levels.change("file", {})


def say(name: str) -> None:
    """Log a line of each sort at DEBUG, under one name: loguru's, the standard library's, the access log's."""
    logger.bind(logger=name).debug("loguru")
    logging.getLogger(name).debug("logging")
    log_outcome("DEBUG", name, "outcome", {"method": "m", "code": "OK", "duration_ms": 1})


SORTS = ["loguru", "logging", "outcome"]


def messages(log: Log) -> list[str]:
    return [line["message"] for line in log.lines]


def test_levels_are_read_from_text() -> None:
    assert parse_levels("apibase.delivery=DEBUG, grpc=info\n# a comment\nwarn,my-lib=off # quiet") == {
        "apibase.delivery": "DEBUG",
        "grpc": "INFO",
        "": "WARNING",
        "my-lib": "OFF",
    }
    assert parse_levels("") == parse_levels(" , \n") == {}
    assert parse_levels(levels_text({"a.b": "DEBUG", "": "ERROR"})) == {"a.b": "DEBUG", "": "ERROR"}


@pytest.mark.parametrize("text", ["grpc=LOUD", "grpc=", "=INFO", "a b=INFO", "a=b=INFO", "grpc", "grpc:INFO"])
def test_what_is_no_level_is_refused_by_name(text: str) -> None:
    with pytest.raises(ValueError, match=r"is no level; there is|expected MODULE=LEVEL"):
        parse_levels(text)


def test_a_module_has_the_level_of_the_longest_name_that_fits(logged: Callable[..., Log]) -> None:
    log = logged("a=WARNING,a.b=DEBUG,a.b.c=ERROR")
    for name in ("a", "a.b", "a.b.d", "a.b.c", "a.bc", "b"):
        say(name)

    assert [(line["logger"], line["message"]) for line in log.lines] == [
        (name, sort) for name in ("a.b", "a.b.d") for sort in SORTS
    ]


def test_a_module_can_be_switched_off(logged: Callable[..., Log]) -> None:
    log = logged("noise=OFF")

    logging.getLogger("noise.maker").critical("not this")
    logging.getLogger("other").info("this")

    assert messages(log) == ["this"]


def test_a_library_that_tells_every_little_thing_tells_it_once_it_is_named(logged: Callable[..., Log]) -> None:
    log = logged("grpc=INFO", log_level="DEBUG")

    logging.getLogger("grpc.aio").info("this")
    logging.getLogger("urllib3").info("not this")

    assert messages(log) == ["this"]


def test_a_library_that_tells_every_little_thing_is_no_louder_than_the_rest(logged: Callable[..., Log]) -> None:
    log = logged(log_level="ERROR")

    logging.getLogger("grpc").warning("not this")

    assert messages(log) == []


def test_a_library_is_told_that_nobody_listens(logged: Callable[..., Log]) -> None:
    logged("some=DEBUG,some.library=ERROR")

    assert logging.getLogger("some").isEnabledFor(logging.DEBUG)
    assert not logging.getLogger("some.library").isEnabledFor(logging.WARNING)
    assert not logging.getLogger("another").isEnabledFor(logging.DEBUG)


def test_a_level_is_changed_while_the_process_runs_and_back(logged: Callable[..., Log]) -> None:
    log = logged()
    say("some.module")
    set_log_level("some", "debug")
    say("some.module")
    set_log_level("some", None)
    say("some.module")

    assert messages(log) == SORTS


def test_what_code_sets_holds_before_logging_is_set_up_too(logged: Callable[..., Log]) -> None:
    set_log_level("some", "DEBUG")
    log = logged("some=ERROR")

    say("some.module")

    assert messages(log) == SORTS


def test_code_can_not_set_what_is_no_level(logged: Callable[..., Log]) -> None:
    logged()
    with pytest.raises(ValueError, match="'loud' is no level"):
        set_log_level("some", "loud")


def test_no_line_is_lost_or_written_twice_while_levels_change(logged: Callable[..., Log]) -> None:
    log = logged()
    done = threading.Event()

    def change() -> None:
        while not done.is_set():
            set_log_level("other", "DEBUG")
            set_log_level("other", None)

    changing = threading.Thread(target=change)
    changing.start()
    for number in range(2000):
        logger.info("{}", number)
    done.set()
    changing.join()

    assert messages(log) == [str(number) for number in range(2000)]


class Operator:
    """Somebody who writes levels into a file that an app watches."""

    def __init__(self, path: Path, log: Log) -> None:
        self._path = path
        self._log = log
        self._seen = 0

    def of_levels(self) -> list[str]:
        return [line["message"] for line in self._log.of(logger="apibase.log_levels")]

    async def does(self, act: Callable[[Path], object]) -> str:
        """Do something with the file and return what the app says of it."""
        act(self._path)
        self._seen += 1
        await eventually(lambda: len(self.of_levels()) >= self._seen)
        (said,) = self.of_levels()[self._seen - 1 :]
        return said


async def test_an_operator_changes_levels_by_a_file(
    logged: Callable[..., Log], settings: Settings, tmp_path: Path
) -> None:
    log = logged("some=ERROR")
    operator = Operator(tmp_path / "levels", log)
    prepare_loop(asyncio.get_running_loop(), settings.model_copy(update={"log_levels_file": str(tmp_path / "levels")}))

    assert await operator.does(lambda path: path.write_text("some=DEBUG")) == "log levels: some=DEBUG"
    say("some.module")
    assert "'loud' is no level" in await operator.does(lambda path: path.write_text("some=loud"))
    say("some.module")
    assert "is not heeded" in await operator.does(lambda path: path.write_bytes(b"\xff\xfe"))
    assert await operator.does(lambda path: path.write_text("OFF")) == "log levels: OFF"
    logger.critical("not this")
    assert await operator.does(lambda path: path.unlink()) == "log levels: those of the settings"
    say("some.module")

    assert [line["message"] for line in log.of(logger="some.module")] == SORTS * 2


async def test_what_an_operator_says_wins_over_code(
    logged: Callable[..., Log], settings: Settings, tmp_path: Path
) -> None:
    file = tmp_path / "levels"
    file.write_text("some=DEBUG\n")
    log = logged()
    prepare_loop(asyncio.get_running_loop(), settings.model_copy(update={"log_levels_file": str(file)}))
    set_log_level("some", "ERROR")

    say("some.module")

    assert [line["message"] for line in log.of(logger="some.module")] == SORTS
