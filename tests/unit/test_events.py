"""What a listener is told of an event: Kafka's coordinates, from wherever daprd puts them."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from apibase import EventContext
from apibase.events import KafkaCoordinates

RECORD = {"__topic": "stock", "__partition": "2", "__offset": "7", "__timestamp": "1700000000123", "__key": "MUG"}
READ = KafkaCoordinates("stock", 2, 7, datetime(2023, 11, 14, 22, 13, 20, 123000, tzinfo=UTC), "MUG")


@pytest.mark.req("R6.4")
def test_a_records_coordinates_are_read_from_the_bindings_metadata_or_from_the_topics_headers() -> None:
    assert EventContext(kind="binding", source="stock", metadata=RECORD).kafka == READ
    assert EventContext(kind="topic", source="stock", headers=RECORD).kafka == READ


@pytest.mark.req("R6.4")
def test_a_records_headers_are_told_apart_where_daprd_does_not_mix_them_with_its_own() -> None:
    record = {**RECORD, "colour": "red", "__mine": "too"}

    binding = EventContext(kind="binding", source="stock", metadata=record).kafka
    topic = EventContext(kind="topic", source="stock", headers={**record, "user-agent": "grpc-go"}).kafka

    assert binding is not None
    assert binding.headers == {"colour": "red", "__mine": "too"}
    assert topic is not None
    assert topic.headers is None


def test_metadata_wins_over_headers() -> None:
    other = {**RECORD, "__offset": "8"}

    assert EventContext(kind="binding", source="stock", metadata=RECORD, headers=other).kafka == READ


@pytest.mark.parametrize("left_out", ["__partition", "__offset"])
def test_what_kafka_did_not_bring_has_no_coordinates(left_out: str) -> None:
    metadata = {key: value for key, value in RECORD.items() if key != left_out}

    assert EventContext(kind="binding", source="stock", metadata=metadata).kafka is None
    assert EventContext(kind="binding", source="stock").kafka is None


@pytest.mark.parametrize("value", ["", "x", "1.5", "9" * 5000])
@pytest.mark.parametrize("field", ["__partition", "__offset"])
def test_coordinates_that_are_no_numbers_are_none(field: str, value: str) -> None:
    assert KafkaCoordinates.read({**RECORD, field: value}) is None


@pytest.mark.parametrize("stamp", ["", "soon", "²", "1" * 30, "9" * 5000, "253402300800000", "-99999999999999999"])
def test_a_timestamp_that_no_calendar_has_is_none(stamp: str) -> None:
    read = KafkaCoordinates.read({**RECORD, "__timestamp": stamp})

    assert read == KafkaCoordinates("stock", 2, 7, None, "MUG")


@pytest.mark.parametrize("stamp", ["0", "-1000"])
def test_old_timestamps_are_timestamps(stamp: str) -> None:
    read = KafkaCoordinates.read({**RECORD, "__timestamp": stamp})

    assert read is not None
    assert read.timestamp == datetime.fromtimestamp(int(stamp) / 1000, UTC)


def test_a_record_without_a_key_has_none_and_one_with_an_empty_key_has_that() -> None:
    bare = {key: value for key, value in RECORD.items() if key not in {"__key", "__topic", "__timestamp"}}

    assert KafkaCoordinates.read(bare) == KafkaCoordinates("", 2, 7)
    assert KafkaCoordinates.read({**bare, "__key": ""}) == KafkaCoordinates("", 2, 7, None, "")
