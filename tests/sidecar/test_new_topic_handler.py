"""A new topic handler is one method in a `.proto`, `make gen`, and one method in Python: done so in a copy of this project."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from apibase import PubSubPublisher, Settings, Sidecar
from shop.orders.v1 import order_pb2
from shop.orders.v1.events_pb2 import OrderPlaced
from tests.sidecar.shop import eventually

ROOT = Path(__file__).parent.parent.parent
BIN = Path(sys.executable).parent
COPIED = ("protos", ".protos", "generated", "service", "compose", "tools", "docs", "pyproject.toml")

CONTRACT = "protos/shop/orders/v1/events.proto"
BEFORE_THE_NEXT_RPC = "  // Every few seconds"
RPC = """\
  // An order was accepted, here or by another replica.
  rpc OnOrderPlaced(OrderPlaced) returns (google.protobuf.Empty) {
    option (dapr_contract.v1.topic) = {
      pubsub_name: "events"
      name: "orders"
    };
  }
"""
HANDLERS = "service/orders/events.py"
BEFORE_THE_NEXT_METHOD = "    async def SweepOrders("
METHOD = """\
    async def OnOrderPlaced(self, request, context):
        logger.bind(order_id=request.order.order_id, event_id=context.id).info("heard of an order")
        return Empty()

"""
GENERATED = {
    "generated/descriptors.binpb",
    "generated/shop/orders/v1/events_pb2.py",
    "generated/shop/orders/v1/events_pb2_grpc.py",
    "generated/shop/orders/v1/events_pb2_grpc.pyi",
}
"""What `make gen` makes of a method that is new. The messages' stub, events_pb2.pyi, has no methods."""


class Project:
    """A copy of this project, run by its own code."""

    def __init__(self, folder: Path, temp: Path) -> None:
        self.folder = folder
        paths = [str(folder / "service"), str(folder / "generated")]
        self.env = {
            **os.environ,
            "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": os.pathsep.join(paths),
            "PYTHONDONTWRITEBYTECODE": "1",
            "TMPDIR": str(temp),
            "COLUMNS": "200",
        }

    def run(self, *command: str | Path) -> str:
        done = subprocess.run(
            command, cwd=self.folder, env=self.env, capture_output=True, text=True, timeout=100, check=False
        )
        assert done.returncode == 0, f"{command}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def make_gen(self) -> None:
        """Do what `make gen` does, but for installing, which would change the environment that runs the tests."""
        self.run(BIN / "python", "tools/fetch_protos.py")
        self.run(
            BIN / "apibase", "gen", "--protos", "protos", "--protos", ".protos/protovalidate", "--out", "generated"
        )

    def insert(self, path: str, text: str, before: str) -> None:
        file = self.folder / path
        old = file.read_text()
        assert old.count(before) == 1
        file.write_text(old.replace(before, text + before))

    def files(self) -> dict[str, bytes]:
        """Everything that belongs to the project; `.apibase` and `.protos` are not under version control."""
        return {
            name: path.read_bytes()
            for path in self.folder.rglob("*")
            if path.is_file()
            and (name := path.relative_to(self.folder).as_posix()).split("/")[0] not in {".apibase", ".protos"}
            and "__pycache__" not in name
        }

    def log_lines(self, app_id: str) -> list[dict[str, Any]]:
        """The JSON lines of an app's log."""
        (log,) = (self.folder / ".apibase/logs").glob(f"*/{app_id}.log")
        return [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    folder = tmp_path / "project"
    folder.mkdir()
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        elif source.is_file():
            shutil.copy2(source, folder / name)
    temp = Path(tempfile.mkdtemp(prefix="new-", dir="/tmp"))  # short, for the sockets in it
    temp.chmod(0o755)
    yield Project(folder, temp)
    shutil.rmtree(temp)


@pytest.fixture
def up(project: Project) -> Iterator[Any]:
    """Return a function that starts the project's stack and waits until it is up; it ends with the test."""
    started: list[subprocess.Popen[bytes]] = []
    output = project.folder.parent / "up.txt"

    def start() -> None:
        with output.open("w") as stream:
            command = [BIN / "apibase", "up"]
            process = subprocess.Popen(
                command, cwd=project.folder, env=project.env, stdout=stream, stderr=subprocess.STDOUT
            )
        started.append(process)
        deadline = time.monotonic() + 60
        while "End it:" not in output.read_text():
            assert process.poll() is None, output.read_text()
            assert time.monotonic() < deadline, output.read_text()
            time.sleep(0.02)

    yield start
    for process in started:
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0, output.read_text()


@pytest.mark.req("R3.2")
def test_a_new_topic_handler_is_a_method_in_a_contract_and_a_method_in_python(project: Project, up: Any) -> None:
    project.make_gen()
    before = project.files()

    project.insert(CONTRACT, RPC, BEFORE_THE_NEXT_RPC)
    project.make_gen()
    project.insert(HANDLERS, METHOD, BEFORE_THE_NEXT_METHOD)

    up()
    order_id = str(uuid.uuid4())
    event_id = asyncio.run(publish(project, OrderPlaced(order=order_pb2.Order(order_id=order_id))))
    (handled,) = asyncio.run(eventually(lambda: heard(project, order_id), within=20, what="the event is handled"))
    assert handled["event_id"] == event_id
    shown = project.run(BIN / "apibase", "routes", "--app", "orders")
    assert "shop.orders.v1.OrderEvents.OnOrderPlaced" in shown
    assert "Every call passes tracing → metrics → access_log → app_token → callers → errors → deadline → " in shown

    after = project.files()
    changed = {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
    assert changed == {CONTRACT, HANDLERS, *GENERATED}
    assert after[CONTRACT].decode().replace(RPC, "").encode() == before[CONTRACT]
    assert after[HANDLERS].decode().replace(METHOD, "").encode() == before[HANDLERS]


async def publish(project: Project, event: OrderPlaced) -> str:
    """Publish through the sidecar of `payments`, so that nothing of `orders` has a part in it but its new handler."""
    state = json.loads((project.folder / ".apibase/stack.json").read_text())
    (port,) = [each["grpc_port"] for each in state["instances"] if each["app_id"] == "payments"]
    sidecar = Sidecar(Settings(app_id="payments", dapr_grpc_endpoint=f"127.0.0.1:{port}"))
    try:
        return await PubSubPublisher(sidecar).publish(event)
    finally:
        await sidecar.close()


async def heard(project: Project, order_id: str) -> list[dict[str, Any]]:
    lines = project.log_lines("orders")
    return [line for line in lines if line["message"] == "heard of an order" and line["order_id"] == order_id]
