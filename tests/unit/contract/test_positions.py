"""The lines that messages name: right where the generator's descriptors are, and absent where they aren't."""

from __future__ import annotations

import importlib
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto

from apibase.contract import positions, where
from apibase.contract.codegen import generate
from apibase.contract.positions import line_of
from tests.unit.conftest import CONTRACTS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

    from tests.unit.conftest import Desk

CONTRACT = """\
syntax = "proto3";

// Has a line of its own.
message Page {
  string text = 1;
}

service Pages {
  // Says what it does,
  // at length.
  rpc Turn(Page) returns (Page);
  rpc Tear(Page) returns (Page);
}
"""


@pytest.fixture
def fresh_lines() -> Iterator[None]:
    positions._lines.cache_clear()
    yield
    positions._lines.cache_clear()


def line_in_source(text: str) -> int:
    lines = (CONTRACTS / "desk/v1/desk.proto").read_text().splitlines()
    (number,) = [number for number, line in enumerate(lines, 1) if line.strip().startswith(text)]
    return number


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("desk.v1.Question", "message Question {"),
        ("desk.v1.DeskEvents", "service DeskEvents {"),
        ("desk.v1.DeskEvents.OnAnswered", "rpc OnAnswered("),
        ("desk.v1.Desk.Talk", "rpc Talk("),
    ],
)
def test_messages_services_and_methods_have_the_line_that_they_are_declared_on(
    desk: Desk, name: str, source: str
) -> None:
    assert line_of(desk.pb2.DESCRIPTOR, name) == line_in_source(source)


def test_what_a_contract_does_not_declare_has_no_line(desk: Desk) -> None:
    assert line_of(desk.pb2.DESCRIPTOR, "desk.v1.Nobody") == 0


def test_a_place_is_written_as_editors_read_it(desk: Desk) -> None:
    method = desk.pb2.DESCRIPTOR.services_by_name["DeskEvents"].methods_by_name["OnMail"]

    assert where(method) == f"desk/v1/desk.proto:{line_in_source('rpc OnMail(')}: desk.v1.DeskEvents.OnMail"


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fresh_lines: None) -> Iterator[Path]:
    """Return the generated code of a contract without a package, in a folder that can be imported from."""
    protos = tmp_path / "protos"
    protos.mkdir()
    (protos / "pages-of-all.proto").write_text(CONTRACT)
    out = tmp_path / "out"
    generate([protos], out)
    monkeypatch.syspath_prepend(str(out))
    yield out
    sys.modules.pop("pages_of_all_pb2", None)


def load() -> ModuleType:
    return importlib.import_module("pages_of_all_pb2")


def test_a_contract_without_a_package_and_with_a_dash_in_its_name_has_lines_too(library: Path) -> None:
    file = load().DESCRIPTOR

    assert line_of(file, "Page") == 4
    assert line_of(file, "Pages") == 8
    assert line_of(file, "Pages.Turn") == 11
    assert where(file.services_by_name["Pages"].methods_by_name["Tear"]) == "pages-of-all.proto:12: Pages.Tear"


@pytest.mark.parametrize("left", ["nothing", "garbage", "descriptors without this contract", "a folder"])
def test_without_readable_descriptors_a_place_has_no_line_and_nothing_breaks(library: Path, left: str) -> None:
    descriptors = library / "descriptors.binpb"
    descriptors.unlink()
    if left == "garbage":
        descriptors.write_bytes(b"\xff" * 100)
    elif left == "a folder":
        descriptors.mkdir()
    elif left != "nothing":
        descriptors.write_bytes(b"")

    assert where(load().DESCRIPTOR.services_by_name["Pages"]) == "pages-of-all.proto: Pages"
    if descriptors.is_dir():
        shutil.rmtree(descriptors)


def test_descriptors_without_source_info_have_no_lines(library: Path) -> None:
    proto = FileDescriptorProto()
    load().DESCRIPTOR.CopyToProto(proto)

    assert positions.lines_in(proto) == {}
