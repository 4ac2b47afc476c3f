"""Methods by name, requests from JSON, answers to JSON, all from a descriptor set."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import pytest
from grpc_tools import protoc

from apibase.cli.contracts import Contracts
from apibase.local.errors import StackError

TOY = Path(__file__).parent.parent.parent / "sidecar/toy"
PROTOS = Path(__file__).parent.parent.parent.parent / "protos"
SHOP = """
syntax = "proto3";
package shop.v1;
import "dapr_contract/v1/annotations.proto";
import "google/protobuf/empty.proto";
import "google/protobuf/timestamp.proto";
service ShopEvents {
  rpc Sweep(google.protobuf.Empty) returns (google.protobuf.Empty) {
    option (dapr_contract.v1.binding) = {name: "sweep"};
  }
  rpc Paid(Line) returns (google.protobuf.Empty) {
    option (dapr_contract.v1.topic) = {pubsub_name: "events", name: "paid"};
  }
}
service ShopService {
  rpc Place(Request) returns (Request);
}
enum State {
  STATE_UNSPECIFIED = 0;
  STATE_OPEN = 1;
}
message Line {
  int32 quantity = 1;
}
message Request {
  string customer_id = 1;
  repeated Line lines = 2;
  State state = 3;
  map<string, uint64> stock = 4;
  google.protobuf.Timestamp due = 5;
  bool urgent = 6;
}
"""


@pytest.fixture(scope="module")
def contracts(tmp_path_factory: pytest.TempPathFactory) -> Contracts:
    file = tmp_path_factory.mktemp("descriptors") / "descriptors.binpb"
    arguments = ["protoc", f"-I{TOY}/protos", "--include_imports", f"--descriptor_set_out={file}", "toy.proto"]
    assert protoc.main(arguments) == 0
    return Contracts(file)


@pytest.fixture(scope="module")
def listening(tmp_path_factory: pytest.TempPathFactory) -> Contracts:
    folder = tmp_path_factory.mktemp("listening")
    (folder / "shop.proto").write_text(SHOP)
    arguments = [f"-I{folder}", f"-I{PROTOS}", f"-I{files('grpc_tools')}/_proto", "--include_imports"]
    assert protoc.main(["protoc", *arguments, f"--descriptor_set_out={folder}/set.binpb", "shop.proto"]) == 0
    return Contracts(folder / "set.binpb")


@pytest.mark.parametrize("name", ["toy.v1.EchoService/Count", "/toy.v1.EchoService/Count", "toy.v1.EchoService.Count"])
def test_a_method_is_found_by_each_way_to_write_it(contracts: Contracts, name: str) -> None:
    method = contracts.method(name)
    assert (method.path, method.service) == ("/toy.v1.EchoService/Count", "toy.v1.EchoService")
    assert (method.client_streams, method.server_streams) == (False, True)


@pytest.mark.parametrize("name", ["Echo", "EchoService/Echo", "toy.v1.EchoService/Eco", "Nothing.like/it"])
def test_an_unknown_method_is_answered_with_near_ones(contracts: Contracts, name: str) -> None:
    with pytest.raises(StackError, match=r"  toy\.v1\.EchoService/Echo"):
        contracts.method(name)


@pytest.mark.parametrize(("name", "told"), [("EchoService/Echo", "nearest is"), ("Nothing.like/it", "there are")])
def test_names_are_only_called_all_there_are_where_they_are(contracts: Contracts, name: str, told: str) -> None:
    with pytest.raises(StackError, match=f"^no rpc '{name}' in descriptors.binpb; {told}"):
        contracts.method(name)


def test_an_unknown_field_is_named_with_those_there_are(contracts: Contracts) -> None:
    reply = contracts.method("toy.v1.EchoService/Echo").response
    with pytest.raises(StackError) as caught:
        contracts.parse(reply, '{"appID": "x"}')
    assert str(caught.value) == "no field 'appID' in toy.v1.EchoReply; there are text, app_id, pid, env"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"customer_id": 5}', "customer_id: expected text, found 5"),
        ('{"lines": {}}', "lines: expected a list, found {}"),
        ('{"lines": [5]}', "lines[0]: expected an object, found 5"),
        (
            '{"lines": [{"quantity": 1}, {"quantity": "two"}]}',
            'lines[1].quantity: expected a whole number of 32 bits, found "two"',
        ),
        ('{"lines": [null]}', "lines[0]: expected an object, found null"),
        ('{"state": "SHUT"}', 'state: expected one of STATE_UNSPECIFIED, STATE_OPEN, found "SHUT"'),
        ('{"stock": {"A": "x"}}', 'stock["A"]: expected a positive whole number of 64 bits, found "x"'),
        ('{"due": "soon"}', 'due: expected a time such as "2026-01-31T12:00:00Z", found "soon"'),
        ('{"urgent": "yes"}', 'urgent: expected true or false, found "yes"'),
        ("5", "expected an object, found 5"),
        ("[]", "expected an object, found []"),
        ('""', 'expected an object, found ""'),
    ],
)
def test_a_wrong_type_is_told_in_plain_words(listening: Contracts, text: str, said: str) -> None:
    with pytest.raises(StackError) as caught:
        listening.parse(listening.method("shop.v1.ShopService/Place").request, text)
    assert str(caught.value) == f"the request is no shop.v1.Request: {said}"


def test_an_unknown_field_of_a_field_is_named_with_its_place(listening: Contracts) -> None:
    request = listening.method("shop.v1.ShopService/Place").request
    with pytest.raises(StackError) as caught:
        listening.parse(request, '{"customerId": "x", "due": "2026-01-01T00:00:00Z", "lines": [{"sku": 1}]}')
    assert str(caught.value) == "no field 'sku' in shop.v1.Line (lines[0]); there are quantity"


@pytest.mark.parametrize("name", ["shop.v1.ShopEvents/Sweep", "shop.v1.ShopEvents.Paid"])
def test_a_listener_is_not_called(listening: Contracts, name: str) -> None:
    with pytest.raises(StackError, match=r"^(Sweep|Paid) is a listener: only the sidecar calls it$"):
        listening.method(name)


def test_listeners_are_not_suggested(listening: Contracts) -> None:
    assert [method.name for method in listening.rpcs()] == ["Place"]
    for name in ("Sweep", "nothing"):
        with pytest.raises(StackError) as caught:
            listening.method(name)
        assert str(caught.value).splitlines()[1:] == ["  shop.v1.ShopService/Place"]


@pytest.mark.parametrize("text", ["{", '{"text": 1}', "5"])
def test_what_is_no_request_is_told_with_its_type(contracts: Contracts, text: str) -> None:
    with pytest.raises(StackError, match=r"the request is no toy\.v1\.EchoRequest"):
        contracts.parse(contracts.method("toy.v1.EchoService/Echo").request, text)


def test_an_answer_has_the_contracts_names_and_its_empty_fields(contracts: Contracts) -> None:
    reply = contracts.method("toy.v1.EchoService/Echo").response
    message = contracts.parse(reply, '{"text": "grün", "app_id": "a"}')
    assert contracts.to_json(message, indent=None) == '{"text": "grün", "app_id": "a", "pid": 0, "env": {}}'


def test_missing_descriptors_say_how_to_make_them(tmp_path: Path) -> None:
    with pytest.raises(StackError, match="make gen"):
        Contracts(tmp_path / "none.binpb")
    (tmp_path / "bad.binpb").write_bytes(b"\xff\xff")
    with pytest.raises(StackError, match="is no descriptor set"):
        Contracts(tmp_path / "bad.binpb")
