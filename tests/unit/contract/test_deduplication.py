"""What tells events apart, what can't, and what a contract may not say of it."""

from __future__ import annotations

import importlib
from datetime import timedelta
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration

from apibase import Drop
from apibase.contract.deduplication import MISSING, Deduplication, check_key, remember_for
from tests.unit.app_channels import topic_event
from tests.unit.conftest import Desk

HOUR = timedelta(hours=1)


@pytest.fixture(scope="module")
def ledger(desk: Desk) -> Any:
    return importlib.import_module("ledger.v1.ledger_pb2")


def test_without_a_field_source_and_id_together_tell_events_apart() -> None:
    by_id = Deduplication(HOUR)

    assert by_id.identity(topic_event(), None) == by_id.identity(topic_event(topic="elsewhere"), None)
    others = [topic_event(id="event-2"), topic_event(source="stall"), topic_event(source="shopevent", id="-1")]
    assert len({by_id.identity(each, None) for each in [topic_event(), *others]}) == 4


@pytest.mark.parametrize("fields", [{"id": ""}, {"type": ""}])
def test_an_event_that_is_no_cloud_event_is_told_from_no_other_by_its_id(fields: dict[str, str]) -> None:
    with pytest.raises(Drop) as caught:
        Deduplication(HOUR).identity(topic_event(**fields), None)

    assert caught.value.code == MISSING


@pytest.mark.parametrize(
    ("path", "fields", "identity"),
    [
        ("sequence", {"sequence": 7}, ("sequence", 7)),
        ("sequence", {"sequence": 0}, ("sequence", 0)),
        ("plain", {"plain": 2**32 - 1}, ("plain", 2**32 - 1)),
        ("digest", {"digest": b"\x00\xff"}, ("digest", "00ff")),
        ("till", {"till": "t-1"}, ("till", "t-1")),
        ("counter", {"counter": 0}, ("counter", 0)),
        ("order.reference", {"order": {"reference": "o-1"}}, ("order.reference", "o-1")),
    ],
)
def test_a_field_tells_events_apart_whatever_their_ids(
    ledger: Any, path: str, fields: dict[str, Any], identity: tuple[str | int, ...]
) -> None:
    check_key(ledger.Record.DESCRIPTOR, path)
    by_field = Deduplication(HOUR, path)

    assert by_field.identity(topic_event(), ledger.Record(**fields)) == identity
    assert by_field.identity(topic_event(id=""), ledger.Record(**fields)) == identity


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("sequence", {}),
        ("plain", {}),
        ("plain", {"plain": 0}),
        ("digest", {"digest": b""}),
        ("till", {"till": ""}),
        ("till", {"counter": 1}),
        ("counter", {"till": "t-1"}),
        ("order.reference", {}),
        ("order.reference", {"order": {}}),
    ],
)
def test_events_that_lack_the_field_are_not_taken_for_one(ledger: Any, path: str, fields: dict[str, Any]) -> None:
    with pytest.raises(Drop, match=f"the field {path} is empty") as caught:
        Deduplication(HOUR, path).identity(topic_event(), ledger.Record(**fields))

    assert caught.value.code == MISSING


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("sequel", "ledger.v1.Record has no field 'sequel'"),
        ("order.number", "ledger.v1.Order has no field 'number'"),
        ("order.", "ledger.v1.Order has no field ''"),
        ("plain.value", "plain has no fields within"),
        ("order", "ledger.v1.Record.order is a message"),
        ("tags", "ledger.v1.Record.tags is repeated"),
        ("labels", "ledger.v1.Record.labels is repeated"),
        ("card", "ledger.v1.Record.card is marked debug_redact"),
        ("hidden.reference", "ledger.v1.Record.hidden is marked debug_redact"),
        ("flag", "ledger.v1.Record.flag is neither text, bytes nor a whole number"),
        ("rate", "ledger.v1.Record.rate is neither text, bytes nor a whole number"),
        ("kind", "ledger.v1.Record.kind is neither text, bytes nor a whole number"),
    ],
)
def test_a_path_that_leads_to_no_key_says_why(ledger: Any, path: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        check_key(ledger.Record.DESCRIPTOR, path)


@pytest.mark.parametrize(
    "duration",
    [Duration(), Duration(seconds=-1), Duration(nanos=-1), Duration(nanos=1), Duration(seconds=2**62)],
    ids=["nothing", "negative", "a negative part", "less than a microsecond", "for ever"],
)
def test_a_length_of_time_that_is_none_is_refused(duration: Duration) -> None:
    with pytest.raises(ValueError, match="longer than nothing and at most ten years"):
        remember_for(duration)


def test_a_length_of_time_may_be_a_part_of_a_second_and_years() -> None:
    assert remember_for(Duration(nanos=500_000_000)) == timedelta(seconds=0.5)
    assert remember_for(Duration(seconds=3600 * 24 * 365)) == timedelta(days=365)
