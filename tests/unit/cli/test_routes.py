"""`apibase routes`: a row for every way in and every event out, from the contracts alone."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from apibase.cli.contracts import Contracts
from apibase.cli.route_rows import Row, narrowed, read_routes
from apibase.cli.routes import print_rows
from apibase.contract.codegen import generate

ROOT = Path(__file__).parent.parent.parent.parent
APIBASE = Path(sys.executable).parent / "apibase"
CONTRACT = """
syntax = "proto3";
package yard.v1;
import "dapr_contract/v1/annotations.proto";
import "google/protobuf/empty.proto";

message Cart {
  message Emptied {
    option (dapr_contract.v1.event) = {pubsub_name: "events" topic: "carts"};
  }
  string id = 1;
}
service YardService {
  rpc Get(Cart) returns (Cart) { option idempotency_level = NO_SIDE_EFFECTS; }
  rpc Put(stream Cart) returns (Cart) {
    option (dapr_contract.v1.method_callers) = {app_ids: ["shop", "audit"]};
  }
  rpc Shut(Cart) returns (stream Cart) { option (dapr_contract.v1.method_callers) = {}; }
}
service YardEvents {
  rpc OnHeavy(Cart) returns (google.protobuf.Empty) {
    option (dapr_contract.v1.topic) = {pubsub_name: "events" name: "loads" dead_letter_topic: "loads.dead"
      match: "event.data.weight > 100" priority: 3 deduplicate_for: {seconds: 172800} deduplicate_by: "id"};
  }
  rpc OnLoad(Cart) returns (google.protobuf.Empty) {
    option (dapr_contract.v1.topic) = {pubsub_name: "events" name: "loads" dead_letter_topic: "loads.dead"
      deduplicate_for: {seconds: 5400}};
  }
  rpc OnRecord(Cart) returns (google.protobuf.Empty) {
    option (dapr_contract.v1.topic) = {pubsub_name: "lake" name: "records" raw_payload: true
      bulk: {max_messages_count: 10 max_await_duration_ms: 50} metadata: {key: "consumerGroup" value: "yard"}};
  }
  rpc OnTick(google.protobuf.Empty) returns (google.protobuf.Empty) {
    option (dapr_contract.v1.binding) = {name: "tick"};
  }
  rpc Sweep(google.protobuf.Empty) returns (google.protobuf.Empty) {
    option (dapr_contract.v1.job) = {name: "sweep" schedule: "@every 1m" repeats: 3 max_retries: 5
      retry_interval: {seconds: 2}};
  }
  rpc Remind(google.protobuf.Empty) returns (google.protobuf.Empty) {
    option (dapr_contract.v1.job) = {due_time: "30s"};
  }
}
"""
WRONG = """
syntax = "proto3";
package wrong.v1;
import "dapr_contract/v1/annotations.proto";
import "google/protobuf/empty.proto";
message Lost {
  option (dapr_contract.v1.event) = {topic: "nowhere"};
}
service Mixed {
  rpc Ask(Lost) returns (Lost);
  rpc OnLost(Lost) returns (google.protobuf.Empty) {
    option (dapr_contract.v1.binding) = {name: "lost"};
  }
}
service Twice {
  rpc OnLost(Lost) returns (google.protobuf.Empty) {
    option (dapr_contract.v1.topic) = {pubsub_name: "events" name: "lost"};
  }
  rpc OnLostToo(Lost) returns (google.protobuf.Empty) {
    option (dapr_contract.v1.topic) = {pubsub_name: "events" name: "lost"};
  }
}
"""


def project(folder: Path, name: str, contract: str) -> Path:
    """Make a project of one contract, whose code is generated where nobody imports it from."""
    proto = folder / "protos" / name / "v1" / f"{name}.proto"
    proto.parent.mkdir(parents=True)
    proto.write_text(contract)
    (folder / "pyproject.toml").touch()
    generate([folder / "protos"], folder / "generated")
    return folder


@pytest.fixture(scope="module")
def yard(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return project(tmp_path_factory.mktemp("yard"), "yard", CONTRACT)


@pytest.fixture(scope="module")
def rows(yard: Path) -> dict[str, Row]:
    """Return the rows by what reaches, or leaves."""
    found = read_routes(Contracts(yard / "generated/descriptors.binpb"))
    assert found.problems == ()
    return {row.handler.rpartition(".")[2] or row.message: row for row in found.rows}


def apibase(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([APIBASE, *arguments], cwd=folder, capture_output=True, text=True, check=False, timeout=60)


def shown(rows: list[Row], width: int) -> list[str]:
    """Return what a terminal of that width shows."""
    stream = io.StringIO()
    print_rows(Console(file=stream, width=width, force_terminal=True, color_system=None), rows)
    return stream.getvalue().splitlines()


def test_every_row_says_where_it_comes_from_and_where_it_is_declared(rows: dict[str, Row]) -> None:
    assert [(row.kind, row.route, row.message, row.details) for row in rows.values()] == [
        ("rpc", "yard.v1.YardService/Get", "yard.v1.Cart", ("no side effects",)),
        ("rpc", "yard.v1.YardService/Put", "yard.v1.Cart", ("streams requests", "callers: audit, shop")),
        ("rpc", "yard.v1.YardService/Shut", "yard.v1.Cart", ("streams responses", "callers: none")),
        (
            "topic",
            "events/loads if event.data.weight > 100 (priority 3)",
            "yard.v1.Cart",
            ("dead letters: loads.dead", "once in 2 d by id"),
        ),
        ("topic", "events/loads", "yard.v1.Cart", ("dead letters: loads.dead", "once in 90 min by source and id")),
        ("topic", "lake/records", "yard.v1.Cart", ("raw", "bulk of 10 within 50 ms", "consumerGroup=yard")),
        ("binding", "tick", "google.protobuf.Empty", ()),
        ("job", "sweep @every 1m", "google.protobuf.Empty", ("repeats: 3", "retries: 5", "retried every 2 s")),
        ("job", "yard.v1.YardEvents.Remind", "google.protobuf.Empty", ("due: 30s",)),
        ("publishes", "events/carts", "yard.v1.Cart.Emptied", ()),
    ]
    lines = CONTRACT.splitlines()
    for name, row in rows.items():
        file, _, line = row.contract.partition(":")
        assert file == "yard/v1/yard.proto"
        if row.kind != "publishes":
            assert f"rpc {name}(" in lines[int(line) - 1]
            assert row.handler == f"yard.v1.{'YardService' if row.kind == 'rpc' else 'YardEvents'}.{name}"


@pytest.mark.parametrize("width", [80, 120, 150, 250])
def test_the_table_fits_and_leaves_nothing_out(rows: dict[str, Row], width: int) -> None:
    lines = shown(list(rows.values()), width)
    text = "".join(line.replace(" ", "") for line in lines)

    assert max(map(len, lines)) <= width
    for row in rows.values():
        assert row.contract in text
        for detail in row.details:
            assert detail.replace(" ", "") in text


def test_a_line_holds_a_row_where_there_is_room(rows: dict[str, Row]) -> None:
    (line,) = [line for line in shown(list(rows.values()), 250) if "OnHeavy" in line]

    assert (
        line.split()
        == (
            "topic events/loads if event.data.weight > 100 (priority 3) Cart dead letters: loads.dead, once in 2 d by id "
            f"yard.v1.YardEvents.OnHeavy {rows['OnHeavy'].contract}"
        ).split()
    )


def test_what_goes_into_a_pipe_has_a_line_for_each_row(yard: Path, rows: dict[str, Row]) -> None:
    done = apibase(yard, "routes")

    assert (done.returncode, done.stderr) == (0, "")
    for row in rows.values():
        assert len([line for line in done.stdout.splitlines() if line.rstrip().endswith(row.contract)]) == 1


def test_json_has_full_names_and_every_option(yard: Path, rows: dict[str, Row]) -> None:
    done = apibase(yard, "routes", "--json")

    assert done.returncode == 0, done.stderr
    listed = json.loads(done.stdout)
    assert len(listed) == len(rows)
    by_handler = {each["handler"]: each for each in listed}
    put = by_handler["yard.v1.YardService.Put"]
    assert put["route"] == "yard.v1.YardService/Put"
    assert put["options"] == {
        "response": "yard.v1.Cart",
        "client_streaming": True,
        "server_streaming": False,
        "idempotency_level": "IDEMPOTENCY_UNKNOWN",
        "callers": ["audit", "shop"],
    }
    heavy = by_handler["yard.v1.YardEvents.OnHeavy"]["options"]
    assert (heavy["match"], heavy["priority"], heavy["deduplicate_by"]) == ("event.data.weight > 100", 3, "id")
    assert by_handler["yard.v1.YardEvents.Remind"]["options"]["name"] == "yard.v1.YardEvents.Remind"


def test_contradictions_are_told_as_a_start_tells_them_all_of_them(tmp_path: Path) -> None:
    done = apibase(project(tmp_path, "wrong", WRONG), "routes")

    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines() == [
        (
            "wrong contract: wrong/v1/wrong.proto:9: wrong.v1.Mixed mixes listeners with rpcs (Ask); a service with listeners is "
            "never served, so move the rpcs to a service of their own"
        ),
        (
            "wrong contract: wrong/v1/wrong.proto:19: wrong.v1.Twice.OnLostToo and wrong/v1/wrong.proto:16: wrong.v1.Twice.OnLost "
            "both listen to wrong.v1.Lost on topic 'lost' of 'events'; take one away"
        ),
        "wrong contract: wrong/v1/wrong.proto:6: wrong.v1.Lost: option (dapr_contract.v1.event) has no pubsub_name; give it one",
    ]


def test_a_project_without_contracts_is_told_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").touch()
    done = apibase(tmp_path, "routes")

    assert done.returncode == 1
    assert "make gen" in done.stderr


def test_an_app_is_asked_only_while_something_runs(yard: Path) -> None:
    done = apibase(yard, "routes", "--app", "yard")

    assert done.returncode == 1
    assert "no stack is up" in done.stderr


def test_the_rows_of_an_app_are_those_that_it_says_it_has(rows: dict[str, Row]) -> None:
    every = list(rows.values())
    topics = [("topic", "events/loads"), ("topic", "lake/records")]
    tick = ("binding", "tick")

    assert narrowed(every, {"yard.v1.YardService"}, [*topics, tick]) == every
    assert {row.kind for row in narrowed(every, {"yard.v1.YardService"}, [])} == {"rpc", "publishes"}
    assert narrowed(every, set(), []) == []
    listeners = narrowed(every, set(), [*topics, tick, ("topic", "events/other"), ("binding", "mail")])
    assert {row.kind for row in listeners} == {"topic", "binding", "job", "publishes"}
    assert listeners[-2:] == [Row("topic", "", "events/other"), Row("binding", "", "mail")]
    # Two apps can listen to one topic: a service of which something is missing is another app's.
    assert narrowed(every, set(), topics) == [Row("topic", "", "events/loads"), Row("topic", "", "lake/records")]


def test_the_topic_of_an_archive_is_told_as_that_of_dead_letters() -> None:
    loads = Row("topic", "yard.v1", "events/loads", handler="yard.v1.YardEvents.OnLoad")
    loads.options.update(pubsub_name="events", name="loads", dead_letter_topic="loads.dead")
    listened = [("topic", "events/loads"), ("topic", "events/loads.dead"), ("topic", "other/loads.dead")]

    _, archived, other = narrowed([loads], set(), listened)

    assert archived.details == ("dead letters of a topic above",)
    assert other.details == ()


def test_what_is_of_no_contract_has_a_place_of_its_own(rows: dict[str, Row]) -> None:
    lines = shown([*rows.values(), Row("topic", "", "events/other")], 80)

    assert lines[-2].rstrip() == "(of no contract)"
    assert lines[-1].split() == ["topic", "events/other"]


def test_the_reference_system_is_shown() -> None:
    done = apibase(ROOT, "routes")

    assert done.returncode == 0, done.stderr
    assert "shop.orders.v1.OrderEvents.OnPaymentSettled" in done.stdout
    assert "callers: orders" in done.stdout
