"""Secrets do not get into the log, wherever they stand; and what is no secret is left alone."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import quote

import pytest
from loguru import logger
from pydantic import SecretStr

from apibase import Settings, hide_in_logs
from apibase.observability import call_context, log_outcome
from apibase.observability.log_secrets import _given
from tests.unit.conftest import Desk, Log

TOKEN = "tok-4f1c9be07a"
QUOTED = 'p"w\\d é/&\n end'

pytestmark = pytest.mark.req("R10.4", "R10.5")


@pytest.fixture(params=["json", "text"])
def log(request: Any, settings: Settings, set_up_logging: Callable[..., None]) -> Iterator[Log]:
    stream = io.StringIO()
    given = {"log_format": request.param, "app_api_token": SecretStr(TOKEN), "dapr_api_token": SecretStr(QUOTED)}
    set_up_logging(settings.model_copy(update=given), stream)
    before = set(_given)
    yield Log(stream)
    _given.clear()
    _given.update(before)


def in_a_message(secret: str) -> None:
    logger.info("the token is {}", secret)


def in_a_field(secret: str) -> None:
    logger.bind(sent=secret).info("sent")


def in_a_fields_depth(secret: str) -> None:
    logger.bind(headers=[{"authorization": ("Bearer " + secret,)}, {secret: 1}]).info("sent")


def as_bytes(secret: str) -> None:
    logger.bind(sent=secret.encode()).info("sent {!r}", secret.encode("latin-1"))


def as_repr(secret: str) -> None:
    logger.info("sent {!r}", {"token": secret})


def in_a_url(secret: str) -> None:
    logger.info("https://user:{}@host/?key={}", quote(secret, safe=""), quote(secret))


def in_an_exception(secret: str) -> None:
    try:
        raise ValueError(f"bad token {secret}")
    except ValueError:
        logger.exception("it failed")


def in_the_access_log(secret: str) -> None:
    log_outcome("INFO", "apibase.call", f"{secret} OK", {"method": secret, "code": "OK", "duration_ms": 1})


PLACES = [in_a_message, in_a_field, in_a_fields_depth, as_repr, in_a_url, in_an_exception, in_the_access_log]


@pytest.mark.parametrize("secret", [TOKEN, QUOTED], ids=["plain", "odd"])
@pytest.mark.parametrize("place", PLACES, ids=lambda place: place.__name__)
def test_a_token_of_the_settings_is_nowhere(log: Log, place: Callable[[str], None], secret: str) -> None:
    place(secret)

    written = log.text
    forms = (
        secret,
        quote(secret),
        quote(secret, safe=""),
        repr(secret)[1:-1],
        json.dumps(secret)[1:-1],
        json.dumps(secret, ensure_ascii=False)[1:-1],
    )
    assert not [form for form in forms if form in written or json.dumps(form)[1:-1] in written]
    assert "***" in written
    if written.startswith("{"):
        assert len(log.lines) == 1, "it is still a line that the schema allows"


def test_a_token_in_bytes_is_not_there_either(log: Log) -> None:
    as_bytes(TOKEN)

    assert TOKEN not in log.text


def test_a_line_beside_one_with_a_secret_stays_as_it_is(log: Log) -> None:
    logger.info("before")
    logger.info(TOKEN)
    logger.bind(n=2**70).info("after")

    assert [text in log.text for text in ("before", "***", "after", str(2**70))] == [True] * 4


def test_a_secret_of_ones_own_is_hidden_from_then_on(log: Log) -> None:
    hide_in_logs(SecretStr("database-password"))
    hide_in_logs("abc")

    logger.info("database-password abc")

    assert "*** abc" in log.text, "what is too short to be told from other text is left"


def test_a_secret_that_is_a_word_of_every_line_costs_no_line_its_form(
    settings: Settings, set_up_logging: Callable[..., None]
) -> None:
    stream = io.StringIO()
    set_up_logging(settings.model_copy(update={"app_api_token": SecretStr("message")}), stream)

    logger.bind(count=7, ratio=0.5, none=None, yes=True).info("a message")

    line = Log(stream).one(message="a ***")
    assert (line["count"], line["ratio"], line["none"], line["yes"]) == (7, 0.5, None, True)


def test_a_number_that_is_a_secret_is_hidden(settings: Settings, set_up_logging: Callable[..., None]) -> None:
    stream = io.StringIO()
    set_up_logging(settings.model_copy(update={"app_api_token": SecretStr("20261125")}), stream)

    logger.bind(sent=20261125, near=2026).info("x")

    line = Log(stream).one(message="x")
    assert (line["sent"], line["near"]) == ("***", 2026)


def test_a_token_that_only_the_environment_has_is_hidden(
    settings: Settings, set_up_logging: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAPR_API_TOKEN", "from-the-environment")
    stream = io.StringIO()
    set_up_logging(settings, stream)

    logger.info("from-the-environment")

    assert Log(stream).one(message="***")


def test_a_bound_message_lacks_what_its_contract_marks(log: Log, post: Desk) -> None:
    kind = next(
        message
        for message in post.pb2.DESCRIPTOR.message_types_by_name.values()
        if any(field.GetOptions().debug_redact and field.type == field.TYPE_STRING for field in message.fields)
    )
    name = next(field.name for field in kind.fields if field.GetOptions().debug_redact)
    logger.bind(request=getattr(post.pb2, kind.name)(**{name: "visible to nobody"})).info("got it")

    assert "got it" in log.text
    assert "visible to nobody" not in log.text


def test_the_digits_of_a_trace_are_no_secret(settings: Settings, set_up_logging: Callable[..., None]) -> None:
    stream = io.StringIO()
    set_up_logging(settings.model_copy(update={"log_format": "json"}), stream)
    hide_in_logs("1234")

    with call_context({"traceparent": "00-00000000000012340000000000001234-0000000000001234-01"}):
        logger.info("the pin is 1234")

    line = json.loads(stream.getvalue())
    assert (line["message"], line["trace_id"], line["span_id"]) == (
        "the pin is ***",
        "00000000000012340000000000001234",
        "0000000000001234",
    )
