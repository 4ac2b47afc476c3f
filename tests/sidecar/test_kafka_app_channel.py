"""Every way in that Kafka has, into an app of the chassis, by the real daprd and broker: what is told of a record, and where it ends."""

from __future__ import annotations

import json
import time
import uuid
from datetime import UTC, datetime
from typing import Any

import pytest

from tests.sidecar.depot import MIB, WITHIN, Depot, cloud_event, dapr, depot, generated
from tests.sidecar.kafka_records import Record
from tests.sidecar.poison import LIMIT
from tests.sidecar.shop import eventually

__all__ = ["dapr", "depot", "generated"]

pytestmark = [pytest.mark.full, pytest.mark.asyncio(loop_scope="module")]


@pytest.mark.req("R6.4")
async def test_a_subscription_tells_its_handler_where_the_record_stands(depot: Depot) -> None:
    before = time.time()
    await depot.publish("parcels", {"id": "p-1"}, key="ann", colour="red")
    (line,) = await depot.turns("p-1")
    assert line["handler"] == "OnParcel"
    kafka = line["kafka"]
    assert (kafka["topic"], kafka["partition"], kafka["key"]) == ("parcels", 0, "ann")
    (record,) = [each for each in await depot.kafka.records("parcels") if each.offset == kafka["offset"]]
    assert json.loads(record.value)["data"] == {"id": "p-1"}
    assert datetime.fromisoformat(kafka["timestamp"]) == datetime.fromtimestamp(record.timestamp / 1000, UTC)
    assert before - 5 < record.timestamp / 1000 < time.time() + 5
    assert kafka["headers"] is None, "nothing tells them from those of daprd's call"


@pytest.mark.req("R6.1", "R6.4")
async def test_a_binding_tells_its_handler_where_the_record_stands_and_the_records_headers_apart(depot: Depot) -> None:
    record = Record(b'{"id": "a-1"}', b"ann", ((b"colour", b"red"), (b"size", "größe".encode())))
    offset = await depot.kafka.add("arrivals", record)
    (line,) = await depot.turns("a-1")
    kafka = line["kafka"]
    assert line["handler"] == "OnArrival"
    assert (kafka["topic"], kafka["partition"], kafka["offset"], kafka["key"]) == ("arrivals", 0, offset, "ann")
    (stored,) = [each for each in await depot.kafka.records("arrivals") if each.offset == offset]
    assert datetime.fromisoformat(kafka["timestamp"]) == datetime.fromtimestamp(stored.timestamp / 1000, UTC)
    assert kafka["headers"] == {"colour": "red", "size": "gr%C3%B6%C3%9Fe"}, "escapeHeaders writes them as in a URL"


@pytest.mark.req("R6.4")
async def test_a_record_without_a_key_has_none(depot: Depot) -> None:
    await depot.publish("parcels", {"id": "p-keyless"})
    await depot.kafka.add("arrivals", Record(b'{"id": "a-keyless"}'))
    for id_ in ("p-keyless", "a-keyless"):
        ((line),) = await depot.turns(id_)
        assert line["kafka"]["key"] is None
        assert line["kafka"]["partition"] == 0


@pytest.mark.req("R3.6")
async def test_rules_and_types_lead_to_their_handlers(depot: Depot) -> None:
    await depot.publish("parcels", {"id": "p-heavy", "weight": 20.5})
    await depot.publish("parcels", {"id": "p-light", "weight": 1.5})
    await depot.publish("parcels", {"id": "r-1"}, type_="depot.v1.Return")
    assert [line["handler"] for line in await depot.turns("p-heavy")] == ["OnHeavyParcel"]
    assert [line["handler"] for line in await depot.turns("p-light")] == ["OnParcel"]
    assert [line["handler"] for line in await depot.turns("r-1")] == ["OnReturn"]


@pytest.mark.req("R3.4")
@pytest.mark.parametrize("topic", ["parcels", "batches"])
async def test_an_event_of_a_type_that_nobody_listens_to_is_acknowledged(depot: Depot, topic: str) -> None:
    id_ = f"x-{topic}"
    await depot.kafka.add(topic, cloud_event(id_, type="elsewhere.v1.Thing"), cloud_event(f"{id_}-next"))
    await depot.turns(f"{id_}-next")
    assert depot.log(logger="depot", id=id_) == []
    assert id_ not in {each["id"] for each in await depot.kafka.events(f"{topic}.dead")}


@pytest.mark.req("R3.4")
@pytest.mark.parametrize("wish", ["retry once", "break once"])
async def test_what_asks_for_another_try_or_breaks_is_delivered_again(depot: Depot, wish: str) -> None:
    id_ = f"p-{wish.replace(' ', '-')}"
    event = await depot.publish("parcels", {"id": id_, "wish": wish})
    await depot.verdict(event, "RETRY")
    await depot.verdict(event, "SUCCESS")
    assert [line["turn"] for line in await depot.turns(id_, 2)] == [1, 2]


@pytest.mark.req("R3.4", "R3.6")
@pytest.mark.parametrize(("wish", "code"), [("drop", "ASKED_FOR"), ("refuse", "NEVER")])
async def test_what_can_never_be_handled_is_a_dead_letter_with_its_reason(depot: Depot, wish: str, code: str) -> None:
    event = await depot.publish("parcels", {"id": f"p-{wish}", "wish": wish})
    letter = await depot.dead("parcels.dead", event)
    assert (letter["dlcode"], letter["dlhandler"]) == (code, "depot.v1.DepotEvents.OnParcel")
    assert letter["dlreason"]
    assert (letter["dlpubsub"], letter["dltopic"]) == ("log", "parcels")
    assert letter["data"] == {"id": f"p-{wish}", "wish": wish}
    assert len(await depot.turns(f"p-{wish}")) == 1


@pytest.mark.req("R3.4", "R3.6")
async def test_an_event_whose_retries_are_used_up_is_daprds_dead_letter_and_blocks_nobody(depot: Depot) -> None:
    event = await depot.publish("parcels", {"id": "p-hopeless", "wish": "always retry"})
    letter = await depot.dead("parcels.dead", event)
    assert "dlreason" not in letter
    await depot.publish("parcels", {"id": "p-after-hopeless"})
    await depot.turns("p-after-hopeless")


@pytest.mark.req("R3.4", "R3.6")
async def test_retry_without_an_inbound_retry_is_an_events_death_at_once(depot: Depot) -> None:
    await depot.kafka.add("bare", cloud_event("e-bare", {"id": "e-bare", "wish": "retry once"}))
    assert "dlreason" not in await depot.dead("bare.dead", "e-bare")
    assert len(await depot.turns("e-bare")) == 1


@pytest.mark.req("R3.4", "R3.6")
async def test_an_event_whose_dead_letter_can_not_be_published_is_delivered_again_before_the_next(depot: Depot) -> None:
    drop = {"id": "l-drop", "wish": "drop once"}
    await depot.kafka.add("locked", cloud_event("l-drop", drop), cloud_event("l-next"))
    line = await depot.verdict("l-drop", "RETRY")
    assert "ASKED_FOR: the parcel asked for it; its dead letter could not be published" in line["reason"]
    await depot.turns("l-next")
    assert [line["id"] for line in depot.log(logger="depot", handler="OnLockedParcel")] == [
        "l-drop",
        "l-drop",
        "l-next",
    ]
    await depot.verdict("l-drop", "SUCCESS")


@pytest.mark.req("R3.4", "R3.6")
@pytest.mark.parametrize("topic", ["parcels", "batches"])
async def test_an_event_whose_dead_letter_is_too_large_is_daprds_own_dead_letter(depot: Depot, topic: str) -> None:
    id_ = f"g-{topic}"
    # More than daprd's API takes (`--max-body-size`); its own dead letters don't pass it.
    large = cloud_event(id_, {"id": id_, "wish": "drop"}, huge="x" * (4 * MIB))
    await depot.kafka.add(topic, large, cloud_event(f"{id_}-next"))
    await depot.turns(f"{id_}-next")
    line = await depot.verdict(id_, "DROP")
    assert line["reason"].startswith("ASKED_FOR: the parcel asked for it; its dead letter is too large")
    await depot.dead(f"{topic}.dead", id_)
    assert large.value in [each.value for each in await depot.kafka.records(f"{topic}.dead")], "as it came"


@pytest.mark.req("R3.5", "R6.4")
async def test_each_entry_of_a_batch_gets_its_own_verdict_which_takes_effect(depot: Depot) -> None:
    wishes = {"b-ok": "", "b-drop": "drop", "b-retry": "retry once", "b-hopeless": "always retry", "b-ok-too": ""}
    records = [cloud_event(id_, {"id": id_, "wish": wish}) for id_, wish in wishes.items()]
    keyed = [Record(each.value, b"key", ((b"n", str(n).encode()),)) for n, each in enumerate(records)]
    first = await depot.kafka.add("batches", *keyed)
    assert (await depot.dead("batches.dead", "b-drop"))["dlcode"] == "ASKED_FOR"
    assert "dlcode" not in await depot.dead("batches.dead", "b-hopeless")
    await depot.verdict("b-retry", "RETRY")
    await depot.verdict("b-retry", "SUCCESS")
    await depot.kafka.add("batches", cloud_event("b-after"))
    await depot.turns("b-after")
    for id_, count in {"b-ok": 1, "b-drop": 1, "b-retry": 2, "b-ok-too": 1}.items():
        assert len(depot.log(logger="depot", id=id_)) == count, id_
    (line,) = await depot.turns("b-ok")
    assert (line["kafka"]["topic"], line["kafka"]["offset"], line["kafka"]["key"]) == ("batches", first, "key")
    assert line["kafka"]["headers"] == {"n": "0"}
    assert len([each for each in await depot.kafka.events("batches.dead") if each["id"] == "b-drop"]) == 1


async def test_a_record_that_is_no_cloud_event_is_read_as_the_message_itself(depot: Depot) -> None:
    await depot.kafka.add("raw", Record(b'{"id": "w-1"}', b"k"), Record(b"\x0a\x03w-2"), Record(b"neither \xff"))
    await depot.kafka.add("raw", Record(b'{"id": "w-3"}'))
    (line,) = await depot.turns("w-1")
    assert (line["handler"], line["kafka"]["key"]) == ("OnRaw", "k")
    await depot.turns("w-2")
    await depot.turns("w-3")

    async def buried() -> list[dict[str, Any]]:
        return await depot.kafka.events("raw.dead")

    (letter,) = await eventually(buried, within=WITHIN, what="the record is a dead letter")
    assert letter["dlcode"] == "UNDECODABLE"


@pytest.mark.req("R6.1", "R6.5")
@pytest.mark.parametrize("wish", ["retry once", "break once"])
async def test_a_binding_record_whose_handler_fails_is_delivered_again_before_the_next(depot: Depot, wish: str) -> None:
    id_ = f"a-{wish.replace(' ', '-')}"
    await depot.kafka.add(
        "arrivals",
        Record(json.dumps({"id": id_, "wish": wish}).encode()),
        Record(json.dumps({"id": f"{id_}-next"}).encode()),
    )
    await depot.turns(f"{id_}-next")
    taken = [line["id"] for line in depot.log(logger="depot") if line["id"].startswith(id_)]
    assert taken == [id_, id_, f"{id_}-next"]


@pytest.mark.req("R6.1", "R6.5")
@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"no JSON \xff\x00", "is no depot.v1.Parcel"),
        (b'{"id": 7}', "is no depot.v1.Parcel"),
        (b'{"id": ""}', "id: "),
        (b"", "is no depot.v1.Parcel"),
        (b"[" * 50_000, "is no depot.v1.Parcel"),
        (b"x" * (LIMIT + 1), f"the data has {LIMIT + 1} bytes, more than APIBASE_MAX_MESSAGE_BYTES allows"),
        (b'{"id": "a-no", "wish": "drop"}', "the parcel asked for it"),
    ],
    ids=["no JSON", "wrong type", "breaks a rule", "nothing", "deep", "one byte too large", "dropped by the handler"],
)
async def test_a_poison_binding_record_does_not_block_its_partition(depot: Depot, data: bytes, said: str) -> None:
    def dropped() -> list[str]:
        return [line["message"] for line in depot.log(level="WARNING") if "OnArrival dropped an ev" in line["message"]]

    before = len(dropped())
    good = f"a-{uuid.uuid4().hex}"
    await depot.kafka.add("arrivals", Record(data), Record(json.dumps({"id": good}).encode()))
    await depot.turns(good)
    (message,) = dropped()[before:]
    assert said in message


@pytest.mark.req("R6.1")
async def test_a_binding_record_as_large_as_may_be_is_handled(depot: Depot) -> None:
    parcel = {"id": "a-large", "more": ""}
    parcel["more"] = "x" * (LIMIT - len(json.dumps(parcel)))
    await depot.kafka.add("arrivals", Record(json.dumps(parcel).encode()))
    assert [line["handler"] for line in await depot.turns("a-large")] == ["OnArrival"]


@pytest.mark.req("R6.4")
@pytest.mark.parametrize(("topic", "handler"), [("parcels", "OnParcel"), ("arrivals", "OnArrival")])
async def test_the_order_within_a_partition_is_kept_though_some_are_tried_again(
    depot: Depot, topic: str, handler: str
) -> None:
    ids = [f"o-{topic}-{number}" for number in range(60)]
    parcels = [{"id": id_, "wish": "retry once" if number % 20 == 7 else ""} for number, id_ in enumerate(ids)]
    records = [
        cloud_event(parcel["id"], parcel) if topic == "parcels" else Record(json.dumps(parcel).encode())
        for parcel in parcels
    ]
    await depot.kafka.add(topic, *records[:30])
    await depot.kafka.add(topic, *records[30:])
    await depot.turns(ids[-1])
    taken = [line["id"] for line in depot.log(logger="depot", handler=handler) if line["id"].startswith(f"o-{topic}-")]
    again = [id_ for number, id_ in enumerate(ids) for id_ in [id_] * (2 if number % 20 == 7 else 1)]
    assert taken == again


@pytest.mark.req("R6.1", "R6.5")
@pytest.mark.parametrize(
    ("wish", "code"), [("always retry", "ABORTED"), ("refuse", "FAILED_PRECONDITION"), ("lack", "INTERNAL")]
)
async def test_a_binding_record_that_always_fails_is_passed_over_when_its_retries_are_used_up(
    depot: Depot, wish: str, code: str
) -> None:
    id_ = f"a-{uuid.uuid4().hex}"
    before = len(depot.log(source="arrivals", code=code))
    await depot.kafka.add(
        "arrivals",
        Record(json.dumps({"id": id_, "wish": wish}).encode()),
        Record(json.dumps({"id": f"{id_}-next"}).encode()),
    )
    await depot.turns(f"{id_}-next")
    assert len(depot.log(logger="depot", id=id_)) == 6, "once, and five retries"
    assert len(depot.log(source="arrivals", code=code)) == before + 6
