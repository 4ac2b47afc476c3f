"""Methods by name, requests from JSON, answers to JSON, all from a descriptor set."""

from __future__ import annotations

from pathlib import Path

import pytest
from grpc_tools import protoc

from apibase.cli.contracts import Contracts
from apibase.local.errors import StackError

TOY = Path(__file__).parent.parent.parent / "sidecar/toy"


@pytest.fixture(scope="module")
def contracts(tmp_path_factory: pytest.TempPathFactory) -> Contracts:
    file = tmp_path_factory.mktemp("descriptors") / "descriptors.binpb"
    arguments = ["protoc", f"-I{TOY}/protos", "--include_imports", f"--descriptor_set_out={file}", "toy.proto"]
    assert protoc.main(arguments) == 0
    return Contracts(file)


@pytest.mark.parametrize("name", ["toy.v1.EchoService/Count", "/toy.v1.EchoService/Count", "toy.v1.EchoService.Count"])
def test_a_method_is_found_by_each_way_to_write_it(contracts: Contracts, name: str) -> None:
    method = contracts.method(name)
    assert (method.path, method.service) == ("/toy.v1.EchoService/Count", "toy.v1.EchoService")
    assert (method.client_streams, method.server_streams) == (False, True)


@pytest.mark.parametrize("name", ["Echo", "EchoService/Echo", "toy.v1.EchoService/Eco", "Nothing.like/it"])
def test_an_unknown_method_is_answered_with_near_ones(contracts: Contracts, name: str) -> None:
    with pytest.raises(StackError, match=r"  toy\.v1\.EchoService/Echo"):
        contracts.method(name)


def test_an_unknown_field_is_named(contracts: Contracts) -> None:
    method = contracts.method("toy.v1.EchoService/Echo")
    with pytest.raises(StackError, match=r'(?s)no toy.v1.EchoRequest: .*"txt"'):
        contracts.parse(method.request, '{"txt": "x"}')


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
