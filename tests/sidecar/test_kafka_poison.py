"""Poison on a topic of Kafka, by the real daprd: hostile records, and hostile headers of good ones, block nobody."""

from __future__ import annotations

import json
import uuid

import pytest

from tests.sidecar.depot import PARCEL, WITHIN, Depot, cloud_event, dapr, depot, generated
from tests.sidecar.kafka_records import Record
from tests.sidecar.poison import HANDLED, OURS, POISON, THEIRS, end_of, good
from tests.sidecar.shop import eventually

__all__ = ["dapr", "depot", "generated"]

pytestmark = [pytest.mark.full, pytest.mark.asyncio(loop_scope="module")]


HOSTILE_HEADERS = {
    "text that is not ASCII": (b"size", "größe".encode()),
    "bytes": (b"blob", bytes(range(256))),
    "binary by gRPC's name": (b"blob-bin", bytes(range(256))),
    "a name that gRPC refuses": ("größe (cm)\x00".encode(), b"1"),
    "a name that is no text": (b"\xff\xfe", b"1"),
    "no name": (b"", b"1"),
    "a line end": (b"line", b"a\r\nb: c"),
    "forged coordinates": (b"__offset", b"999999"),
    "a forged key": (b"__key", b"forged"),
    "a forged token": (b"dapr-api-token", b"x"),
    "a forged caller": (b"dapr-caller-app-id", b"x"),
    "gRPC's own": (b"grpc-timeout", b"1n"),
    "a pseudo header": (b":authority", b"x"),
    "no trace": (b"traceparent", b"\x00garbage"),
    "another component": (b"pubsubName", b"other"),
    "another content type": (b"datacontenttype", b"application/octet-stream"),
    "huge": (b"huge", b"x" * 300_000),
}


# What daprd can't put into a call. `bare-log` passes every header on; `log` escapes their values and leaves odd names out,
# which 1.14 does not know yet.
# What looks as if another app had called is refused by the app itself.
NEVER = {"huge", "a forged caller"}
ODD_NAMES = {"a name that gRPC refuses", "a name that is no text", "no name"}
ODD_VALUES = {"text that is not ASCII", "bytes", "a line end", "no trace"}
NOT_DELIVERED = {
    ("parcels", "1.18"): NEVER,
    ("parcels", "1.14"): NEVER | ODD_NAMES,
    ("bare", "1.18"): NEVER | ODD_NAMES | ODD_VALUES,
    ("bare", "1.14"): NEVER | ODD_NAMES | ODD_VALUES,
}


@pytest.mark.req("R3.4", "R6.4")
@pytest.mark.parametrize("name", HOSTILE_HEADERS)
@pytest.mark.parametrize("topic", ["parcels", "bare"])
async def test_hostile_headers_of_a_record_block_no_subscription(
    depot: Depot, dapr: str, topic: str, name: str
) -> None:
    id_ = f"h-{uuid.uuid4().hex}"
    hostile = Record(cloud_event(id_).value, b"k", (HOSTILE_HEADERS[name],))
    offset = await depot.kafka.add(topic, hostile, cloud_event(f"{id_}-next"))
    await depot.turns(f"{id_}-next")
    taken = depot.log(logger="depot", id=id_)
    assert bool(taken) is (name not in NOT_DELIVERED[topic, dapr])
    if not taken:
        assert "dlcode" not in await depot.dead(f"{topic}.dead", id_)
    elif (topic, dapr) == ("parcels", "1.18"):
        assert (taken[0]["kafka"]["offset"], taken[0]["kafka"]["key"]) == (offset, "k"), "forged by no header"


@pytest.mark.req("R3.4", "R3.6")
@pytest.mark.parametrize("topic", ["parcels", "batches"])
async def test_null_is_a_dead_letter_without_a_value(depot: Depot, topic: str) -> None:
    async def tombstones() -> int:
        return sum(record.value == b"" for record in await depot.kafka.records(f"{topic}.dead"))

    before = await tombstones()
    mark = uuid.uuid4().hex
    await depot.kafka.add(topic, Record(b"null"), Record(good(mark, PARCEL)))
    await depot.turns(mark)

    async def one_more() -> bool:
        return await tombstones() == before + 1

    await eventually(one_more, within=WITHIN, what="Dapr has written its dead letter, as Kafka says null")


@pytest.mark.req("R3.4")
async def test_null_with_a_trace_in_its_headers_ends_no_sidecar(depot: Depot, dapr: str) -> None:
    if dapr == "1.14":
        pytest.skip("1.14 can't leave headers out, so the record is not for it")
    mark = uuid.uuid4().hex
    headers = ((b"traceid", b"x"), (b"traceparent", b"x"), (b"tracestate", b"x"))
    await depot.kafka.add("parcels", Record(b"null", None, headers), Record(good(mark, PARCEL)))
    await depot.turns(mark)


@pytest.mark.req("R6.4")
@pytest.mark.parametrize(("name", "forged"), [("forged coordinates", "offset"), ("a forged key", "key")])
async def test_a_header_forges_where_a_record_stands_unless_the_component_leaves_it_out(
    depot: Depot, name: str, forged: str
) -> None:
    id_ = f"f-{uuid.uuid4().hex}"
    await depot.kafka.add("bare", Record(cloud_event(id_).value, b"k", (HOSTILE_HEADERS[name],)))
    (line,) = await depot.turns(id_)
    assert str(line["kafka"][forged]) == HOSTILE_HEADERS[name][1].decode()


@pytest.mark.req("R6.1", "R6.4")
@pytest.mark.parametrize("name", HOSTILE_HEADERS)
async def test_hostile_headers_of_a_record_block_no_binding(depot: Depot, dapr: str, name: str) -> None:
    id_ = f"i-{uuid.uuid4().hex}"
    await depot.kafka.add(
        "arrivals",
        Record(json.dumps({"id": id_}).encode(), b"k", (HOSTILE_HEADERS[name],)),
        Record(json.dumps({"id": f"{id_}-next"}).encode()),
    )
    await depot.turns(f"{id_}-next")
    # 1.14 can't write a name that is no text into its call: it tries again as often as `backOffMaxRetries` says, and goes on.
    lost = dapr == "1.14" and name == "a name that is no text"
    assert len(depot.log(logger="depot", id=id_)) == (0 if lost else 1)


async def ended(depot: Depot, topic: str, mark: str, record: bytes) -> str:
    """Wait until a record has ended, and return where."""
    dead = f"{topic}.dead"

    async def look() -> str:
        if depot.log(logger="depot", id=mark):
            return HANDLED
        if any(each.value == record for each in await depot.kafka.records(dead)):
            return THEIRS
        letters = [event for event in await depot.kafka.events(dead) if event.get("id") == mark]
        return f"{OURS}{letters[0]['dlcode']}" if letters and letters[0].get("dlreason") else ""

    return await eventually(look, within=WITHIN, what=f"{mark} has ended")


@pytest.mark.req("R3.3", "R3.4", "R3.6")
@pytest.mark.parametrize("topic", ["parcels", "batches"])
@pytest.mark.parametrize("name", [name for name in POISON if name != "nothing but null"])
async def test_poison_ends_where_the_table_says_and_the_next_good_event_is_handled(
    depot: Depot, name: str, topic: str
) -> None:
    mark = uuid.uuid4().hex
    record = POISON[name].record(mark, PARCEL)
    await depot.kafka.add(topic, Record(record))
    await depot.kafka.add(topic, Record(good(f"{mark}-next", PARCEL)))
    await depot.turns(f"{mark}-next")
    assert await ended(depot, topic, mark, record) == end_of(name, batches=topic == "batches")
    assert len(depot.log(logger="depot", id=mark)) <= 1


@pytest.mark.req("R3.4")
@pytest.mark.parametrize(
    "name", ["a wrong type", "breaks a rule", "one byte too large", "an extension nested deeper than protobuf reads"]
)
async def test_poison_on_a_topic_without_dead_letters_is_dropped_and_blocks_nobody(depot: Depot, name: str) -> None:
    mark = uuid.uuid4().hex
    await depot.kafka.add("loose", Record(POISON[name].record(mark, PARCEL)), Record(good(f"{mark}-next", PARCEL)))
    await depot.turns(f"{mark}-next")
    assert depot.log(logger="depot", id=mark) == []
