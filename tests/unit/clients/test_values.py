"""What is said of data that is no value of the kind asked for: what is wrong with it, and nothing of what it has."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from dapr.proto import api_v1
from google.protobuf.any_pb2 import Any as AnyMessage
from multidict import CIMultiDict
from pydantic import BaseModel

from apibase import BulkPublished, FailedPublication, Publication, SidecarError, StateItem
from apibase.clients._state_wire import read
from apibase.clients._values import decode
from apibase.clients.bindings import BindingResponse
from apibase.clients.http import HttpResponse
from apibase.clients.invocation import InvocationResponse
from apibase.clients.jobs import ScheduledJob
from apibase.clients.publication import outgoing
from apibase.clients.state import Upsert
from apibase.contract.reasons import chassis_reason
from dapr_contract.v1 import errors_pb2
from tests.unit.conftest import Desk

PLANTED = "planted-5507"


class Pin(BaseModel):
    """Has a value that must not be shown."""

    pin: int


def _binding(data: bytes, kind: Any) -> object:
    return BindingResponse("mail", data, {}).decode(kind)


def _job(data: bytes, kind: Any) -> object:
    return _scheduled(data).decode(kind)


def _scheduled(data: bytes) -> ScheduledJob:
    return ScheduledJob("sweep", "@daily", None, None, None, data, None)


def _invocation(data: bytes, kind: Any) -> object:
    return InvocationResponse("shop", "", AnyMessage(value=data)).decode(kind)


def _http(data: bytes, kind: Any) -> object:
    answer: Any = SimpleNamespace(status=200, headers=CIMultiDict())
    return HttpResponse("shop", "GET", "/x", answer, data).json(kind)


def _state(data: bytes, kind: Any) -> object:
    return read("store", "a", api_v1.GetStateResponse(data=data, etag="1"), kind)


READERS = pytest.mark.parametrize("read_as", [_binding, _job, _invocation, _http, _state])


def _told(error: BaseException | None) -> str:
    """Everything that an error and those behind it say, those that a traceback passes over too."""
    texts = []
    while error is not None:
        texts += [str(error), repr(error), "".join(traceback.format_exception(error))]
        error = error.__cause__ or error.__context__
    return "".join(texts)


@pytest.mark.req("R13.4")
@READERS
@pytest.mark.parametrize(
    ("data", "problem"),
    [
        ('{"pinCode": "%s"}', "pinCode: not of the field's type"),
        ('{"address": {"previous": {"city": ["%s"]}}}', "address.previous.city: not of the field's type"),
        ('{"keys": "%s"}', "keys: not of the field's type"),
        ('{"%s": 1, "%s": 2}', "no JSON of it"),
        ('{"text": "%s', "no JSON of it"),
        ('["%s"]', "the JSON is no object"),
    ],
)
def test_a_message_that_can_not_be_read_is_told_by_its_field_alone(
    read_as: Callable[[bytes, Any], object], post: Desk, data: str, problem: str
) -> None:
    with pytest.raises(SidecarError, match=r"is no post\.v1\.Letter: ") as caught:
        read_as(data.replace("%s", PLANTED).encode(), post.pb2.Letter)

    assert caught.value.code is grpc.StatusCode.DATA_LOSS
    assert caught.value.message.endswith(problem)
    assert PLANTED not in _told(caught.value)


@pytest.mark.req("R13.4")
@READERS
@pytest.mark.parametrize(
    ("kind", "data"),
    [(Pin, f'{{"pin": "{PLANTED}"}}'.encode()), (Pin, PLANTED.encode()), (str, b"\xff" + PLANTED.encode())],
    ids=["model", "no JSON", "text"],
)
def test_a_value_that_can_not_be_read_is_quoted_nowhere(
    read_as: Callable[[bytes, Any], object], kind: Any, data: bytes
) -> None:
    with pytest.raises(SidecarError, match=f"is no {kind.__name__}: ") as caught:
        read_as(data, kind)

    assert PLANTED not in _told(caught.value)


@pytest.mark.req("R13.4")
def test_bytes_that_are_no_utf_8_are_no_message(post: Desk) -> None:
    with pytest.raises(ValueError, match=r"^no UTF-8$") as caught:
        decode(b'{"card": "\xff' + PLANTED.encode() + b'"}', post.pb2.Letter)

    assert PLANTED not in _told(caught.value)


@READERS
@pytest.mark.parametrize(("kind", "name"), [(int | None, r"int \| None"), (list[int], "list")])
def test_a_kind_without_a_name_is_called_as_it_is_written(
    read_as: Callable[[bytes, Any], object], kind: Any, name: str
) -> None:
    with pytest.raises(SidecarError, match=f"is no {name}: "):
        read_as(b'"text"', kind)


@pytest.mark.req("R13.4")
def test_no_value_is_in_the_repr_of_what_holds_it() -> None:
    error = SidecarError(grpc.StatusCode.INTERNAL, chassis_reason(errors_pb2.ERROR_REASON_SIDECAR_ERROR), "full")
    publication = Publication(PLANTED, pubsub_name="events", topic="letters")
    failed = FailedPublication(0, "e1", PLANTED, error)
    data = PLANTED.encode()

    holders = [
        StateItem("a", PLANTED, "1"),
        Upsert("a", PLANTED),
        publication,
        failed,
        BulkPublished(("e1",), (failed,)),
        outgoing(publication, "desk", {}),
        _scheduled(data),
        BindingResponse("mail", data, {}),
        InvocationResponse("shop", "text/plain", AnyMessage(value=data)),
    ]

    assert [each for each in map(repr, holders) if PLANTED in each] == []
    assert repr(holders[0]) == "StateItem(key='a', etag='1', expires=None)"
