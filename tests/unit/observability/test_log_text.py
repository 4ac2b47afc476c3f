"""Lines for people: what they show, in colour on a terminal only, and never an order to the terminal."""

from __future__ import annotations

import io
import logging
import re
from collections.abc import Callable

import pytest
from loguru import logger

from apibase import Settings
from apibase.observability import call_context, log_outcome
from tests.unit.conftest import Log

TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
SetUp = Callable[..., Log]

pytestmark = pytest.mark.req("R10.4")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def shown(settings: Settings, set_up_logging: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> SetUp:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")

    def set_up(stream: io.StringIO) -> Log:
        set_up_logging(settings.model_copy(update={"log_format": "text", "log_level": "TRACE"}), stream)
        return Log(stream)

    return set_up


def without_clock(log: Log) -> list[str]:
    return [re.sub(r"^\d\d:\d\d:\d\d\.\d{3} ", "", line) for line in log.text.splitlines()]


def test_a_call_is_one_short_line(shown: SetUp) -> None:
    log = shown(io.StringIO())
    with call_context({"traceparent": TRACEPARENT, "x-correlation-id": "c7"}):
        fields = {"method": "post.v1.Desk.Take", "code": "OK", "reason": "", "caller": "shop", "duration_ms": 1.25}
        log_outcome("INFO", "apibase.call", "post.v1.Desk.Take OK", fields)

    assert without_clock(log) == [
        "INFO    post.v1.Desk.Take OK  caller=shop  duration_ms=1.25  correlation=c7  trace=4bf92f3577b34da6a3ce929d0e0e4736"
    ]


def test_fields_are_told_apart_whatever_is_in_them(shown: SetUp) -> None:
    log = shown(io.StringIO())

    logger.bind(text='a "b" c', none=None, empty=[], pair=("x", "y z"), equals="a=b", number=0).info("so")

    assert without_clock(log) == ['INFO    so  text="a \\"b\\" c"  pair=x,"y z"  equals="a=b"  number=0']


def test_a_library_and_a_detail_name_their_logger(shown: SetUp) -> None:
    log = shown(io.StringIO())

    logging.getLogger("some.library").warning("careful")
    logger.debug("a detail")
    logger.info("news")

    assert without_clock(log) == [
        "WARNING some.library: careful",
        "DEBUG   tests.unit.observability.test_log_text: a detail",
        "INFO    news",
    ]


def test_a_terminal_shows_levels_in_colour(shown: SetUp) -> None:
    log = shown(Terminal())

    logger.bind(a=1).info("news")
    logger.warning("careful")
    logger.error("broken")

    info, warning, error = log.text.splitlines()
    assert info.endswith("INFO   \x1b[0m news\x1b[2m  a=1\x1b[0m")
    assert "\x1b[33mWARNING\x1b[0m careful" in warning
    assert "\x1b[31mERROR  \x1b[0m broken" in error


@pytest.mark.parametrize(("variable", "value"), [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_who_wants_no_colour_gets_none(
    shown: SetUp, monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)
    log = shown(Terminal())

    logger.bind(a=1).error("broken")

    assert "\x1b" not in log.text


def test_a_file_gets_no_colour(shown: SetUp) -> None:
    log = shown(io.StringIO())

    logger.error("broken")

    assert "\x1b" not in log.text


def test_a_callers_text_gives_the_terminal_no_orders_and_forges_no_line(shown: SetUp) -> None:
    log = shown(Terminal())
    evil = "\x1b[2J\x9b1m\r\x07x\n12:00:00.000 ERROR   all is lost"

    logger.bind(name=evil).info(evil)
    try:
        raise ValueError(evil)
    except ValueError:
        logger.exception("so it goes")

    assert not re.search(r"\x1b\[2J|[\x9b\r\x07]", log.text)
    assert '  name="\\u001b[2J' in log.text
    first, second = log.text.splitlines()[:2]
    assert "\\x1b[2J\\x9b1m\\x0d\\x07x" in first
    assert second.startswith("    12:00:00.000 ERROR   all is lost")
