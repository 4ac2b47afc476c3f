"""A team's own project, with its own `service/` and its own `orders`, on the installed wheel: gen, up, one call."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
UV = Path(sys.executable).parent / "uv"

PROTO = """
syntax = "proto3";
package acme.orders.v1;

import "buf/validate/validate.proto";
import "dapr_contract/v1/annotations.proto";
import "google/protobuf/empty.proto";
import "google/type/money.proto";

service GreeterService {
  // Greets.
  rpc Greet(GreetRequest) returns (GreetResponse);
}
message GreetRequest { string name = 1 [(buf.validate.field).string.min_len = 1]; }
message GreetResponse { string text = 1; google.type.Money fee = 2; }

service GreeterEvents {
  rpc OnTick(google.protobuf.Empty) returns (google.protobuf.Empty) {
    option (dapr_contract.v1.binding) = {name: "tick"};
  }
}
"""

MAIN = """
from google.protobuf.empty_pb2 import Empty

from acme.orders.v1 import greeter_pb2, greeter_pb2_grpc
from apibase import App


class Greeter(greeter_pb2_grpc.GreeterServiceServicer):
    async def Greet(self, request, context):
        return greeter_pb2.GreetResponse(text=f"hello, {request.name}")


class Events(greeter_pb2_grpc.GreeterEventsServicer):
    async def OnTick(self, request, context):
        return Empty()


app = App()
app.add_servicer(Greeter())
app.add_servicer(Events())
app.run()
"""

TOPOLOGY = """
version: 1
common:
  resourcesPath: components
  env:
    PYTHONPATH: service:generated
apps:
  - appID: greeter
    appDirPath: ..
    appPort: 7001
    appProtocol: grpc
    enableAppHealthCheck: true
    appHealthProbeInterval: 1
    command: [python, -m, orders]
  - appID: caller
    appDirPath: ..
"""

TICK = """
apiVersion: dapr.io/v1alpha1
kind: Component
metadata: {name: tick}
spec:
  type: bindings.cron
  version: v1
  metadata: [{name: schedule, value: "@every 1s"}]
scopes: [greeter]
"""


def run(*command: str | Path, cwd: Path, **options: object) -> str:
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, capture_output=True, text=True, timeout=300, check=False, **options
    )
    assert done.returncode == 0, f"{command}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project of its own, in an environment that has the wheel and its dependencies only."""
    folder = tmp_path_factory.mktemp("acme")
    for path, text in {
        "protos/acme/orders/v1/greeter.proto": PROTO,
        "service/orders/__init__.py": "",
        "service/orders/__main__.py": MAIN,
        "compose/dapr.yaml": TOPOLOGY,
        "compose/components/tick.yaml": TICK,
        "pyproject.toml": '[project]\nname = "acme-orders"\nversion = "1"\n',
    }.items():
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder / "dist", cwd=ROOT)
    venv = folder / ".venv"
    run(UV, "venv", "--python", sys.executable, venv, cwd=folder)
    env = {**os.environ, "VIRTUAL_ENV": str(venv)}
    run(UV, "pip", "sync", "--require-hashes", ROOT / "requirements.lock", cwd=folder, env=env)
    (wheel,) = (folder / "dist").glob("apibase-*.whl")
    run(UV, "pip", "install", "--no-deps", wheel, cwd=folder, env=env)
    return folder


@pytest.mark.timeout(300)
@pytest.mark.req("R14.1")
def test_a_foreign_project_generates_starts_and_is_called(project: Path) -> None:
    apibase = project / ".venv" / "bin" / "apibase"
    env = {key: value for key, value in os.environ.items() if key not in {"VIRTUAL_ENV", "PYTHONPATH"}}
    assert "1 contracts" in run(apibase, "gen", cwd=project, env=env)
    assert "nothing changed" in run(apibase, "gen", cwd=project, env=env)
    where = run(
        project / ".venv" / "bin" / "python", "-c", "import apibase; print(apibase.__file__)", cwd=project, env=env
    )
    assert str(project) in where, "the wheel is used, not the checkout"
    with (project / "up.log").open("w") as log:
        up = subprocess.Popen(
            [apibase, "up"], cwd=project, env=env, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        deadline = time.monotonic() + 120
        while "Call it:" not in (project / "up.log").read_text():
            assert up.poll() is None, (project / "up.log").read_text()
            assert time.monotonic() < deadline, (project / "up.log").read_text()
            time.sleep(0.1)
        answer = run(
            apibase, "call", "acme.orders.v1.GreeterService/Greet", "-d", '{"name": "Ada"}', cwd=project, env=env
        )
        assert json.loads(answer)["text"] == "hello, Ada"
        refused = subprocess.run(
            [apibase, "call", "acme.orders.v1.GreeterService/Greet", "-d", "{}"],
            cwd=project,
            env=env,
            capture_output=True,
            text=True,
            check=False,
        )
        assert refused.returncode == 1
        assert re.search(r"INVALID_ARGUMENT.*name", refused.stderr, re.DOTALL)
        forged = subprocess.run(
            [apibase, "call", "acme.orders.v1.GreeterEvents/OnTick", "--app-id", "greeter"],
            cwd=project,
            env=env,
            capture_output=True,
            text=True,
            check=False,
        )
        assert forged.returncode == 1
        assert "OnTick is a listener: only the sidecar calls it" in forged.stderr
    finally:
        up.send_signal(signal.SIGINT)
        assert up.wait(60) == 0, (project / "up.log").read_text()
