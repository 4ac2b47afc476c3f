"""`apibase log-level` as a person uses it, on a stack that is up."""

from __future__ import annotations

import json
import subprocess
import time

import pytest

from tests.sidecar.stack.toy_project import APIBASE, UP, Toy

TOPOLOGY = """
version: 1
apps:
  - appID: based
    appDirPath: ..
    appProtocol: grpc
    appPort: 7001
    command: [python, based.py]
  - appID: echo
    appDirPath: ..
    appProtocol: grpc
    appPort: 7002
    command: [python, toy_app.py]
"""

APP = """
from loguru import logger

from apibase import App

app = App()


@app.method("say")
async def say(request):
    logger.debug("a detail of {}", request.text())
    return "said"


app.run()
"""


def log_level(toy: Toy, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [APIBASE, "log-level", *arguments],
        cwd=toy.root,
        env=toy.environment(),
        capture_output=True,
        text=True,
        check=False,
    )


def levels_said(toy: Toy) -> list[list[str]]:
    """Return what each replica of the app on API Base has said of its levels."""
    folder = json.loads(toy.state.read_text())["log_folder"]
    logs = sorted((toy.root / folder).glob("based*.log"))
    lines = [[json.loads(line) for line in log.read_text().splitlines()] for log in logs if "daprd" not in log.name]
    return [[line["levels"] for line in each if line["logger"] == "apibase.log_levels"] for each in lines]


@pytest.mark.req("R10.4", "R14.1")
def test_what_an_app_logs_is_changed_while_it_runs(toy: Toy) -> None:
    (toy.root / "compose/dapr.yaml").write_text(TOPOLOGY)
    (toy.root / "based.py").write_text(APP)
    up = toy.start("up", "--replicas", "based=2")
    toy.until_printed(up, UP)

    assert log_level(toy, "based").stdout == "based: as its settings say\n"
    changed = log_level(toy, "based", "__main__=debug", "grpc=INFO")
    assert (changed.returncode, changed.stdout) == (0, "based: __main__=DEBUG,grpc=INFO\n"), changed.stderr
    assert log_level(toy, "based", "grpc=OFF").stdout == "based: __main__=DEBUG,grpc=OFF\n"
    assert log_level(toy, "based").stdout == "based: __main__=DEBUG,grpc=OFF\n"
    assert log_level(toy, "based", "--reset").stdout == "based: as its settings say\n"
    assert levels_said(toy) == [["__main__=DEBUG,grpc=INFO", "__main__=DEBUG,grpc=OFF", ""]] * 2

    started = time.monotonic()
    foreign = log_level(toy, "echo", "DEBUG")
    assert foreign.returncode == 1
    assert "does not say so; is the app on API Base?" in foreign.stderr
    assert time.monotonic() - started < 15
    assert log_level(toy, "echo").stdout == "echo: as its settings say\n", "what nobody heeds is not said to hold"

    unknown = log_level(toy, "ech", "DEBUG")
    assert unknown.stderr == "apibase: no app 'ech' runs in the stack that is up; there is based, echo\n"
    wrong = log_level(toy, "based", "grpc=loud")
    assert wrong.returncode == 2
    assert "'loud' is no level" in wrong.stderr

    up.terminate()
    assert up.wait(60) == 0


def test_without_a_stack_it_says_so(toy: Toy) -> None:
    done = log_level(toy, "based", "DEBUG")

    assert (done.returncode, done.stderr) == (
        1,
        "apibase: no stack is up in this project; start one with: apibase up\n",
    )
