"""What a changed contract breaks, found by comparing it with the accepted one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from grpc_tools import protoc

from apibase.contract.evolution import acceptable, breaks

ROOT = Path(__file__).parents[3]

EVENTS = """\
syntax = "proto3";

package cafe.v1;

import "buf/validate/validate.proto";
import "dapr_contract/v1/annotations.proto";
import "google/protobuf/duration.proto";
import "google/protobuf/empty.proto";

message CupSold {
  option (dapr_contract.v1.event) = {
    pubsub_name: "events"
    topic: "cups"
  };

  string id = 1 [(buf.validate.field).string.min_len = 1];
  string card = 2 [debug_redact = true];
  Price price = 3;
}

message Price {
  int64 cents = 1;
}

message Order {
  int64 cups = 1;
}

service CafeEvents {
  rpc OnCupSold(CupSold) returns (google.protobuf.Empty) {
    option (dapr_contract.v1.topic) = {
      pubsub_name: "events"
      name: "cups"
      dead_letter_topic: "cups.dead"
      deduplicate_for: {seconds: 60}
    };
  }
}

enum CafeErrorReason {
  CAFE_ERROR_REASON_UNSPECIFIED = 0;
  CAFE_ERROR_REASON_CLOSED = 1;
}

service CafeService {
  option (dapr_contract.v1.callers) = {
    app_ids: ["till", "kiosk"]
  };

  rpc Make(Order) returns (Order);
  rpc Look(Order) returns (Order) {
    option (dapr_contract.v1.method_callers) = {
      app_ids: ["till"]
    };
  }
}
"""


def descriptors(folder: Path, text: str) -> FileDescriptorSet:
    """Compile the contract in this process; what it imports comes from the project's own set."""
    (folder / "cafe/v1").mkdir(parents=True, exist_ok=True)
    (folder / "cafe/v1/events.proto").write_text(text)
    out = folder / "descriptors.binpb"
    options = [
        "--include_imports",
        "--include_source_info",
        f"--descriptor_set_in={ROOT / 'generated/descriptors.binpb'}",
    ]
    assert protoc.main(["protoc", f"-I{folder}", *options, f"--descriptor_set_out={out}", "cafe/v1/events.proto"]) == 0
    return FileDescriptorSet.FromString(out.read_bytes())


@pytest.fixture(scope="module")
def accepted(tmp_path_factory: pytest.TempPathFactory) -> FileDescriptorSet:
    return acceptable(descriptors(tmp_path_factory.mktemp("accepted"), EVENTS))


def changed(accepted: FileDescriptorSet, folder: Path, old: str, new: str) -> list[str]:
    assert EVENTS.count(old) >= 1
    return [str(found) for found in breaks(accepted, descriptors(folder, EVENTS.replace(old, new)))]


@pytest.mark.parametrize(
    ("old", "new", "place", "problem"),
    [
        (
            'topic: "cups"',
            'topic: "mugs"',
            "cafe/v1/events.proto:10: cafe.v1.CupSold",
            "is published to events/mugs, and was",
        ),
        (
            'option (dapr_contract.v1.event) = {\n    pubsub_name: "events"\n    topic: "cups"\n  };',
            "",
            "cafe/v1/events.proto:10: cafe.v1.CupSold",
            "is no event any more, and was published to events/cups",
        ),
        (
            "min_len = 1",
            "min_len = 9",
            "cafe/v1/events.proto:16: cafe.v1.CupSold.id",
            "has another rule: events that are",
        ),
        (
            "int64 cents = 1;",
            "int64 cents = 1 [(buf.validate.field).int64.gt = 0];",
            "cafe/v1/events.proto:22: cafe.v1.Price.cents",
            "has another rule",
        ),
        (
            "message CupSold {",
            'message CupSold {\n  option (buf.validate.message).cel = {id: "x" message: "m" expression: "this.id != this.card"};',
            "cafe/v1/events.proto:10: cafe.v1.CupSold",
            "has another rule",
        ),
        (" [debug_redact = true]", "", "cafe/v1/events.proto:17: cafe.v1.CupSold.card", "is no longer debug_redact"),
        (
            'name: "cups"',
            'name: "mugs"',
            "cafe/v1/events.proto:30: cafe.v1.CafeEvents.OnCupSold",
            "listens to events/mugs, and",
        ),
        ('"cups.dead"', '"mugs.dead"', "cafe.v1.CafeEvents.OnCupSold", "no longer sends dead letters to 'cups.dead'"),
        (
            "deduplicate_for: {seconds: 60}",
            'deduplicate_for: {seconds: 60}\n      deduplicate_by: "id"',
            "cafe.v1.CafeEvents.OnCupSold",
            "tells events apart by 'id', and did by 'their id'",
        ),
        (
            'name: "cups"',
            'name: "cups"\n      raw_payload: true',
            "cafe.v1.CafeEvents.OnCupSold",
            "reads records of another form",
        ),
        (
            'app_ids: ["till", "kiosk"]',
            'app_ids: ["till"]',
            "cafe.v1.CafeService.Make",
            "may no longer be called by kiosk",
        ),
        ('    app_ids: ["till", "kiosk"]\n', "", "cafe.v1.CafeService.Make", "may no longer be called by kiosk, till"),
    ],
)
def test_a_break_that_only_options_show_names_its_place(accepted, tmp_path, old, new, place, problem):
    found = changed(accepted, tmp_path, old, new)

    assert len(found) == 1, found
    assert place in found[0]
    assert problem in found[0]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("int64 cents = 1;", "int64 cents = 1;\n  string currency = 2;"),
        (" [(buf.validate.field).string.min_len = 1]", ""),
        ("int64 cups = 1;", "int64 cups = 1 [(buf.validate.field).int64.gt = 0];"),
        ("message Order", "// A comment is no change.\nmessage Order"),
        (
            "string card = 2 [debug_redact = true];",
            "string card = 2 [debug_redact = true];\n  string hat = 4 [debug_redact = true];",
        ),
        ('app_ids: ["till"]', 'app_ids: ["till", "web"]'),
        ('  option (dapr_contract.v1.callers) = {\n    app_ids: ["till", "kiosk"]\n  };\n', ""),
    ],
    ids=["a new field", "a rule less", "a rule of a request", "a comment", "redacted", "a caller more", "any caller"],
)
def test_what_hurts_nobody_is_no_break(accepted, tmp_path, old, new):
    assert changed(accepted, tmp_path, old, new) == []


def test_callers_where_anybody_could_call_shut_somebody_out(tmp_path):
    open_to_all = EVENTS.replace('  option (dapr_contract.v1.callers) = {\n    app_ids: ["till", "kiosk"]\n  };\n', "")
    before = descriptors(tmp_path / "before", open_to_all)

    found = breaks(before, descriptors(tmp_path / "after", EVENTS))

    assert [str(each) for each in found if "Make" in each.place] == [
        "cafe/v1/events.proto:50: cafe.v1.CafeService.Make: may be called by kiosk, till only, and could be by any app; add the others"
    ]


def test_a_listener_that_becomes_an_rpc_leaves_its_topic(accepted, tmp_path):
    option = EVENTS[
        EVENTS.index("    option (dapr_contract.v1.topic)") : EVENTS.index("  }\n}\n\nenum CafeErrorReason")
    ]

    assert "no longer listens to events/cups" in changed(accepted, tmp_path, option, "")[0]


def test_what_is_accepted_holds_the_project_and_its_imports_only():
    everything = FileDescriptorSet.FromString((ROOT / "generated/descriptors.binpb").read_bytes())

    kept = acceptable(everything)

    dropped = {file.name for file in everything.file} - {file.name for file in kept.file}
    assert dropped == {"google/rpc/error_details.proto"}, "it is in the set for grpcurl only"
    assert not any(file.HasField("source_code_info") for file in kept.file)


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("CupSold", "CupGone", 'message "CupSold" was deleted'),
        ("string card = 2", "string card = 7", 'field "2" with name "card" on message "CupSold" was deleted'),
        ("CAFE_ERROR_REASON_CLOSED = 1", "CAFE_ERROR_REASON_SHUT = 1", 'from "CAFE_ERROR_REASON_CLOSED" to'),
        ("  CAFE_ERROR_REASON_CLOSED = 1;\n", "", 'enum value "1" on enum "CafeErrorReason" was deleted'),
        ("rpc OnCupSold", "rpc OnSold", 'RPC "OnCupSold" on service "CafeEvents" was deleted'),
    ],
)
def test_buf_as_it_is_configured_here_compares_events_and_error_reasons(accepted, tmp_path, old, new, told):
    before, after = tmp_path / "before.binpb", tmp_path / "after.binpb"
    before.write_bytes(accepted.SerializeToString())
    after.write_bytes(acceptable(descriptors(tmp_path, EVENTS.replace(old, new))).SerializeToString())
    rules = {"version": "v2", "breaking": yaml.safe_load((ROOT / "buf.yaml").read_text())["breaking"]}

    done = subprocess.run(
        [Path(sys.executable).parent / "buf", "breaking", after, "--against", before, "--config", json.dumps(rules)],
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 100, done.stderr
    assert told.lower() in done.stdout.lower()
