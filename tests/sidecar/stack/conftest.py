"""A toy project for each test, which must leave nothing behind."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from grpc_tools import protoc

from tests.sidecar.stack.toy_project import SOURCE, EchoCaller, Toy


@pytest.fixture
def toy(tmp_path: Path) -> Iterator[Toy]:
    root = tmp_path / "toy"
    shutil.copytree(SOURCE, root)
    (root / "generated").mkdir()
    descriptors = root / "generated/descriptors.binpb"
    arguments = ["protoc", f"-I{root}/protos", "--include_imports", f"--descriptor_set_out={descriptors}", "toy.proto"]
    assert protoc.main(arguments) == 0
    temp = Path(tempfile.mkdtemp(prefix="toy-", dir="/tmp"))  # Short, for the sockets in it.
    temp.chmod(0o755)
    toy = Toy(root, temp)
    yield toy
    for process in toy.started:
        process.kill()
        process.wait()
    left = toy.left_behind()
    shutil.rmtree(temp)
    assert left == [] or left == [str(toy.state)]


@pytest.fixture
async def echo(toy: Toy) -> AsyncIterator[EchoCaller]:
    caller = EchoCaller(toy)
    yield caller
    await caller.close()
