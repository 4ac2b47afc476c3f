"""`apibase up`, `call`, `run` and `demo` as a person uses them, on real processes."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time

import pytest

from apibase.local import guard
from apibase.local.binaries.dapr_tool import SERIES
from tests.sidecar.stack.toy_project import APIBASE, ECHO, UP, Toy


@pytest.mark.req("R14.1")
def test_up_shows_where_everything_runs_and_call_goes_through_a_sidecar(toy: Toy) -> None:
    up = toy.start("up")
    printed = toy.until_printed(up, UP)
    assert re.search(r"│ echo\s*│\s*\d+ │", printed)
    line = f"apibase call {ECHO} -d '{{}}'"
    assert line in printed

    answer = toy.call(ECHO, "-d", '{"text": "hi"}')
    assert answer.returncode == 0, answer.stderr
    assert json.loads(answer.stdout)["text"] == "hi"
    trace = re.fullmatch(r"trace: ([0-9a-f]{32})\n", answer.stderr)
    assert trace
    assert trace[1] in toy.until_printed(up, trace[1]), "the app's own log line has the trace"

    stream = toy.call("toy.v1.EchoService/Count", "-d", '{"up_to": 2}')
    assert [json.loads(line)["text"] for line in stream.stdout.splitlines()] == ["1", "2"]
    (toy.root / "words").write_text('{"text": "a"}\n{"text": "b"}\n')
    joined = toy.call("toy.v1.EchoService/Join", "-d", "@words", "--app-id", "other", "--from", "echo")
    assert (json.loads(joined.stdout)["text"], json.loads(joined.stdout)["app_id"]) == ("a b", "other")

    unknown = toy.call(ECHO, "--app-id", "ech")
    assert unknown.stderr == "apibase: --app-id ech: not in the stack; there are caller, echo, other\n"
    elsewhere = toy.call(ECHO, "--app-id", "caller")
    assert elsewhere.returncode == 1
    assert elsewhere.stderr.endswith("caller does not serve toy.v1.EchoService; echo does\n")

    refused = toy.call("toy.v1.EchoService/Refuse")
    assert refused.returncode == 1
    assert refused.stdout == ""
    assert refused.stderr.splitlines()[1:] == [
        "INVALID_ARGUMENT: no",
        "  reason: NOT_TODAY (toy)",
        "    day: monday",
        "  field text: too short",
    ]

    second = subprocess.run(
        [APIBASE, "up"], cwd=toy.root, env=toy.environment(), capture_output=True, text=True, check=False
    )
    assert second.returncode == 1
    assert f"kill {up.pid}" in second.stderr

    up.send_signal(signal.SIGINT)
    assert up.wait(30) == 0
    assert toy.left_behind() == []
    assert (toy.root / ".apibase/logs").is_dir()


@pytest.mark.req("R14.1")
def test_up_ends_and_names_a_child_that_is_killed(toy: Toy) -> None:
    up = toy.start("up")
    toy.until_printed(up, UP)
    state = json.loads(toy.state.read_text())
    assert state["dapr"] == SERIES
    victim = next(instance for instance in state["instances"] if instance["app_id"] == "other")
    os.kill(victim["app_pid"], signal.SIGKILL)
    assert up.wait(30) == 1
    said = toy.output.read_text()
    assert said.count("SIGKILL") == 1
    assert "apibase: other was killed by SIGKILL\n" in said
    assert "  | " not in said, "what was printed before is not printed again"
    assert victim["app_log"] in said
    assert toy.left_behind() == []


@pytest.mark.req("R14.1")
def test_run_joins_the_stack_that_is_up_and_ends_with_the_apps_own_code(toy: Toy) -> None:
    up = toy.start("up", "--skip", "echo")
    toy.until_printed(up, UP)
    with (toy.root / "run.txt").open("w") as output:
        run = subprocess.Popen([APIBASE, "run", "echo"], cwd=toy.root, env=toy.environment(), stdout=output)
    toy.started.append(run)
    deadline = time.monotonic() + 30
    while "serving" not in (toy.root / "run.txt").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    while (answer := toy.call(ECHO, "-d", '{"text": "joined"}')).returncode:
        assert time.monotonic() < deadline, answer.stderr
    assert json.loads(answer.stdout)["app_id"] == "echo"
    assert json.loads(answer.stdout)["env"]["TOY_POSTGRES"] == json.loads(toy.state.read_text())["env"]["TOY_POSTGRES"]
    assert toy.call(ECHO, "-d", '{"text": "die"}').returncode == 1
    assert run.wait(30) == 7
    assert up.poll() is None, "the stack that it joined lives on"
    up.send_signal(signal.SIGTERM)
    assert up.wait(30) == 0
    assert toy.left_behind() == []


@pytest.mark.req("R14.1")
def test_run_alone_starts_what_the_app_needs(toy: Toy) -> None:
    run = toy.start(
        "run", "echo", "--", "python", "-c", "import os; print(os.environ['TOY_REDIS']); raise SystemExit(5)"
    )
    assert run.wait(30) == 5
    assert "\n127.0.0.1:" in toy.output.read_text()
    assert toy.left_behind() == []


@pytest.mark.req("R14.1")
def test_what_cannot_be_run_is_refused_before_anything_is_started(toy: Toy) -> None:
    topology = toy.root / "compose/dapr.yaml"
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        topology.write_text(topology.read_text().replace("7002", str(port)))
        refused = {
            ("run", "caller"): "apibase: caller has no command; give one: apibase run caller -- python call.py\n",
            (
                "up",
                "--fixed-ports",
            ): f"apibase: port {port}, wanted by other's app, is in use; leave out --fixed-ports or free it\n",
            ("demo", "--dapr", "9"): "Dapr 9 ",
            ("demo", "never"): "apibase: expected an exit code, found 'never'; there are echo, other, caller\n",
            ("demo", "--", "--help"): "",
        }
        for arguments, said in refused.items():
            process = toy.start(*arguments, APIBASE_DAPR_BIN="")
            assert process.wait(30) == (0 if "--help" in arguments else 1), toy.output.read_text()
            assert said in toy.output.read_text()
            assert "ready" not in toy.output.read_text()
    assert list((toy.root / ".apibase").glob("logs/*")) == []
    assert toy.left_behind() == []


@pytest.mark.req("R14.1")
def test_the_demos_exit_code_is_the_jobs(toy: Toy) -> None:
    demo = toy.start("demo", "4")
    assert demo.wait(60) == 4, toy.output.read_text()
    assert "demo on 127.0.0.1:" in toy.output.read_text()
    assert toy.left_behind() == []


@pytest.mark.req("R14.1")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name)
def test_a_signal_while_it_starts_leaves_nothing_behind(toy: Toy, number: signal.Signals) -> None:
    up = toy.start("up")
    toy.until_printed(
        up, random.choice(["starting", "redis ready", "scheduler ready", "postgres ready", "sidecar ready"])
    )
    up.send_signal(number)
    assert up.wait(30) in {128 + number, 0}, toy.output.read_text()
    assert toy.left_behind() == []


@pytest.mark.req("R14.1")
def test_a_second_ctrl_c_ends_it_at_once_and_still_leaves_nothing_behind(toy: Toy) -> None:
    up = toy.start("up")
    toy.until_printed(up, UP)
    up.send_signal(signal.SIGINT)
    up.send_signal(signal.SIGINT)
    assert up.wait(10) == 0
    assert toy.left_behind() == []


@pytest.mark.req("R14.1")
@pytest.mark.skipif(sys.platform != "linux", reason="marks in the environment are read from /proc")
def test_a_supervisor_that_is_killed_leaves_no_process_and_no_file(toy: Toy) -> None:
    up = toy.start("up")
    toy.until_printed(up, UP)
    stack_id = json.loads(toy.state.read_text())["stack_id"]
    assert guard.marked(stack_id)
    up.kill()
    up.wait()
    assert toy.left_behind() == []
    assert guard.marked(stack_id) == []


@pytest.mark.full
@pytest.mark.timeout(300)
@pytest.mark.req("R14.1")
def test_up_interrupted_at_ten_random_moments_leaves_nothing_behind(toy: Toy) -> None:
    for _ in range(10):
        moment, number = (
            random.uniform(0.1, 5),
            random.choice([signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL]),
        )
        up = toy.start("up")
        with contextlib.suppress(subprocess.TimeoutExpired):
            up.wait(moment)
        up.send_signal(number)
        up.wait(30)
        assert toy.left_behind() == [], (moment, number, toy.output.read_text())
