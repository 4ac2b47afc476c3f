"""A secret value shows its text to nobody but who asks for it."""

from __future__ import annotations

import copy
import dataclasses
import io
import json
import logging
import pickle
import pprint
import traceback
from typing import Any

import orjson
import pytest
from loguru import logger
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import to_json

from apibase import SecretValue

TEXT = "swordfish-1874"


@dataclasses.dataclass
class Account:
    key: SecretValue


class Credentials(BaseModel):
    model_config = ConfigDict(hide_input_in_errors=True)
    key: SecretValue


def test_reveal_gives_the_text() -> None:
    assert SecretValue(TEXT).reveal() == TEXT


@pytest.mark.req("R13.4")
@pytest.mark.parametrize(
    "show",
    [
        str,
        repr,
        ascii,
        "{}".format,
        "{!r:>40}".format,
        "{:>40}".format,
        lambda value: f"{value}",
        lambda value: "%s %r" % (value, value),  # noqa: UP031 - this way too
        lambda value: repr([value, {"key": value}, (value,)]),
        lambda value: repr(Account(value)),
        lambda value: repr(dataclasses.asdict(Account(value))),
        lambda value: repr(Credentials(key=value)),
        lambda value: str(Credentials(key=value).model_dump()),
        lambda value: Credentials(key=value).model_dump_json(),
        lambda value: repr(Credentials(key=value).model_copy(deep=True)),
        lambda value: repr(copy.deepcopy({"key": value})),
        lambda value: repr(copy.copy(value)),
        lambda value: json.dumps(value, default=str),
        lambda value: orjson.dumps(value, default=repr).decode(),
        lambda value: pprint.pformat({"key": value}),
        lambda value: repr(ValueError(value)),
        lambda value: str(vars(Account(value))),
    ],
)
def test_whatever_shows_it_shows_stars(show: Any) -> None:
    shown = show(SecretValue(TEXT))

    assert TEXT not in shown
    assert "***" in shown


@pytest.mark.req("R13.4")
@pytest.mark.parametrize(
    "write",
    [pickle.dumps, json.dumps, orjson.dumps, lambda value: value.__getstate__(), lambda value: value.__reduce__()],
)
def test_it_is_written_by_nothing_that_would_write_its_text(write: Any) -> None:
    with pytest.raises(TypeError) as caught:
        write(SecretValue(TEXT))

    assert TEXT not in str(caught.value)


def test_pydantic_does_not_write_it_by_accident() -> None:
    with pytest.raises(Exception, match="SecretValue") as caught:
        to_json({"key": SecretValue(TEXT)})

    assert TEXT not in str(caught.value)


def test_a_model_reads_it_from_text_and_takes_it_as_it_is() -> None:
    secret = SecretValue(TEXT)

    assert Credentials.model_validate_json(json.dumps({"key": TEXT})).key == secret
    assert Credentials.model_validate({"key": TEXT}).key.reveal() == TEXT
    assert Credentials(key=secret).key is secret


def test_a_model_that_hides_its_input_tells_no_text_where_it_is_invalid() -> None:
    with pytest.raises(ValidationError) as caught:
        Credentials.model_validate({"key": [TEXT]})

    assert TEXT not in str(caught.value)


def test_two_are_equal_by_their_text_and_to_no_text() -> None:
    secret, same, other = SecretValue(TEXT), SecretValue(TEXT), SecretValue("another-text")

    assert secret == same
    assert hash(secret) == hash(same)
    assert secret != other
    assert secret != TEXT
    assert SecretValue("schlüssel-ß") == SecretValue("schlüssel-ß")


def test_an_empty_one_is_false() -> None:
    assert not SecretValue("")
    assert SecretValue(TEXT)


def test_a_copy_is_itself() -> None:
    secret = SecretValue(TEXT)

    assert copy.copy(secret) is secret
    assert copy.deepcopy([secret])[0] is secret


def test_it_is_made_of_text_alone() -> None:
    with pytest.raises(TypeError, match="a secret is text, not bytes"):
        SecretValue(TEXT.encode())  # type: ignore[arg-type]


@pytest.mark.req("R13.4")
def test_a_traceback_that_shows_variables_shows_stars() -> None:
    def handler() -> None:
        key = SecretValue(TEXT)
        assert key == SecretValue("another-text")

    try:
        handler()
    except AssertionError as error:
        shown = "".join(traceback.TracebackException.from_exception(error, capture_locals=True).format())

    assert "key = SecretValue(***)" in shown
    assert TEXT not in shown


@pytest.mark.req("R13.4")
def test_loguru_s_diagnosis_of_an_error_shows_stars() -> None:
    stream = io.StringIO()
    number = logger.add(stream, backtrace=True, diagnose=True, catch=False)
    key = SecretValue(TEXT)
    try:
        assert key == SecretValue("another-text")
    except AssertionError:
        logger.exception("it failed with {}", key)
    finally:
        logger.remove(number)

    assert TEXT not in stream.getvalue()


@pytest.mark.req("R13.4")
def test_the_log_hides_even_what_was_revealed(log: Any) -> None:
    text = "revealed-by-mistake-77"
    secret = SecretValue(text)

    logger.info("the key is {}", secret.reveal())
    logger.bind(key=secret.reveal(), nested={"keys": [secret.reveal()]}).info("with fields")
    logging.getLogger("elsewhere").warning("a library says %s", secret.reveal())
    try:
        raise ValueError(f"no such key: {secret.reveal()}")
    except ValueError:
        logger.exception("failed")

    assert text not in log.text
    assert len(log.lines) >= 4
