"""`apibase breaking`, in a project of its own."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorSet

from dapr_contract.v1 import annotations_pb2

ROOT = Path(__file__).parents[3]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "pyproject.toml").write_text("[tool.apibase]\n")
    (tmp_path / "generated").mkdir()
    (tmp_path / "protos").mkdir()
    shutil.copy(ROOT / "generated/descriptors.binpb", tmp_path / "generated")
    return tmp_path


def apibase(project: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [Path(sys.executable).parent / "apibase", *arguments]
    return subprocess.run(command, cwd=project, capture_output=True, text=True, check=False)


def test_accepted_contracts_break_nobody_until_they_change(project):
    accepted = apibase(project, "breaking", "--accept")
    assert (accepted.returncode, accepted.stdout) == (0, "accepted the contracts of generated/descriptors.binpb\n")
    unchanged = apibase(project, "breaking")
    assert (unchanged.returncode, unchanged.stdout, unchanged.stderr) == (0, "", "")

    file = project / "generated/descriptors.binpb"
    descriptors = FileDescriptorSet.FromString(file.read_bytes())
    events = next(each for each in descriptors.file if each.name == "shop/payments/v1/events.proto")
    events.message_type[0].options.Extensions[annotations_pb2.event].topic = "elsewhere"
    file.write_bytes(descriptors.SerializeToString())
    changed = apibase(project, "breaking")

    assert changed.returncode == 1
    assert "shop.payments.v1.PaymentSettled: is published to events/elsewhere" in changed.stdout
    assert changed.stderr.startswith("1 change breaks those who have the accepted contracts")
    assert "apibase breaking --accept" in changed.stderr


def test_a_missing_file_is_named_with_its_remedy(project):
    nothing_accepted = apibase(project, "breaking")
    assert nothing_accepted.returncode == 1
    assert (
        "accepted.binpb does not exist; take the contracts as they are with: apibase breaking --accept"
        in nothing_accepted.stderr
    )

    (project / "protos/accepted.binpb").write_bytes(b"\xff")
    damaged = apibase(project, "breaking")
    assert damaged.returncode == 1
    assert "accepted.binpb is no descriptor set" in damaged.stderr

    (project / "generated/descriptors.binpb").unlink()
    assert "it is written by: make gen" in apibase(project, "breaking", "--accept").stderr
