"""Output bindings: what an operation takes and answers, and what one that fails says."""

from __future__ import annotations

import grpc
import pytest
from google.protobuf.wrappers_pb2 import StringValue
from pydantic import BaseModel

from apibase import BindingsClient, NotSupported, SidecarError
from apibase.contract.reasons import chassis_reason
from dapr_contract.v1 import errors_pb2
from tests.contract.beside import Beside
from tests.contract.sides import Side


class Parcel(BaseModel):
    name: str
    weight: float


@pytest.fixture
def files(side: Side) -> BindingsClient:
    return BindingsClient(side.sidecar, "files")


@pytest.mark.req("R6.2")
async def test_an_operation_gets_data_and_metadata_and_answers_data(side: Side, files: BindingsClient) -> None:
    name = side.key("parcel")
    made = await files.invoke("create", Parcel(name="mug", weight=0.4), metadata={"fileName": name})

    assert made.decode(dict[str, str]) == {"fileName": name}
    assert Parcel.model_validate_json((side.files / name).read_bytes()) == Parcel(name="mug", weight=0.4)
    assert (await files.invoke("get", metadata={"fileName": name})).decode(Parcel).name == "mug"


@pytest.mark.req("R6.2")
@pytest.mark.parametrize(
    ("data", "written"),
    [
        (b"\x00\xff\x01", b"\x00\xff\x01"),
        ("grüße!", "grüße!".encode()),
        ({"a": [1, None]}, b'{"a":[1,null]}'),
        (b"", b""),
    ],
    ids=["bytes", "text", "JSON", "nothing"],
)
async def test_data_of_any_kind_goes_out(side: Side, files: BindingsClient, data: bytes | str, written: bytes) -> None:
    name = side.key("data")
    await files.invoke("create", data, metadata={"fileName": name})

    assert (side.files / name).read_bytes() == written
    assert (await files.invoke("get", metadata={"fileName": name})).data == written


async def test_a_message_goes_out_as_json(side: Side, files: BindingsClient, beside: Beside) -> None:
    name = side.key("message")
    question = beside.desk.pb2.Question(text="why")
    await files.invoke("create", question, metadata={"fileName": name})

    assert (await files.invoke("get", metadata={"fileName": name})).decode(beside.desk.pb2.Question) == question


async def test_what_was_made_is_listed_and_deleted(side: Side, files: BindingsClient) -> None:
    name = side.key("listed")
    await files.invoke("create", b"!", metadata={"fileName": name})

    assert str(side.files / name) in (await files.invoke("list", metadata={"fileName": "."})).decode(list[str])
    assert (await files.invoke("delete", metadata={"fileName": name})).data == b""
    assert not (side.files / name).exists()


async def test_an_answer_that_is_not_what_it_is_read_as_is_data_loss(side: Side, files: BindingsClient) -> None:
    name = side.key("text")
    await files.invoke("create", "no JSON", metadata={"fileName": name})
    answer = await files.invoke("get", metadata={"fileName": name})

    for kind in (Parcel, StringValue):
        with pytest.raises(SidecarError, match=f"the answer of the binding is no .*{kind.__name__}") as caught:
            answer.decode(kind)
        assert (caught.value.code, caught.value.component) == (grpc.StatusCode.DATA_LOSS, "files")


async def test_an_operation_that_fails_names_the_component(files: BindingsClient) -> None:
    with pytest.raises(SidecarError, match="file not found") as caught:
        await files.invoke("get", metadata={"fileName": "none"})

    assert (caught.value.code, caught.value.component) == (grpc.StatusCode.INTERNAL, "files")
    assert not caught.value.retryable


async def test_an_operation_that_the_component_does_not_have_is_not_supported(files: BindingsClient) -> None:
    with pytest.raises(NotSupported, match="'files' does not support the operation 'shred'") as caught:
        await files.invoke("shred")
    assert caught.value.component == "files"


async def test_a_component_that_is_not_loaded_is_named_with_those_that_are(side: Side) -> None:
    with pytest.raises(SidecarError, match=r"has not loaded a component 'nothing' \(it has .*files") as caught:
        await BindingsClient(side.sidecar, "nothing").invoke("create")
    assert caught.value.reason == chassis_reason(errors_pb2.ERROR_REASON_COMPONENT_NOT_FOUND)


async def test_an_input_binding_does_no_operation(side: Side) -> None:
    with pytest.raises(NotSupported, match="'tick' does not support"):
        await BindingsClient(side.sidecar, "tick").invoke("create")
