"""`make demo`, as a person runs it: the same outcomes each time, and nothing left behind, also when it is interrupted."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
APIBASE = Path(sys.executable).parent / "apibase"


class Demo:
    """A demo in its own folder for temporary files, under a name that all of its processes inherit."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        # Short, for the sockets in it.
        self.temp = Path(tempfile.mkdtemp(prefix="t-", dir="/tmp"))
        self.temp.chmod(0o755)
        self.mark = f"apibase-test-{self.temp.name}"
        self.log = folder / f"{self.temp.name}.log"
        env = {**os.environ, "TMPDIR": str(self.temp), "APIBASE_TEST_MARK": self.mark}
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [APIBASE, "demo", *arguments],
                cwd=ROOT,
                env=env,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def wait(self, seconds: float = 100) -> int:
        return self.process.wait(seconds)

    def outcomes(self) -> list[str]:
        """The rows of the table, without times and trace ids, which no two runs share."""
        return [row.strip() for row in re.findall(r"^(.*\S) +\d+ +[0-9a-f]{32} *$", self.log.read_text(), re.MULTILINE)]

    def processes(self) -> list[str]:
        """The processes that carry this demo's mark in their environment."""
        found = []
        for environ in Path("/proc").glob("[0-9]*/environ"):
            try:
                if self.mark.encode() in environ.read_bytes():
                    found.append((environ.parent / "cmdline").read_text().replace("\0", " ")[:100])
            except OSError:
                continue
        return found

    def left_behind(self) -> list[str]:
        """Processes and files that are still there, after a moment for the kernel to bury the dead."""
        deadline = time.monotonic() + 5
        while self.processes() and time.monotonic() < deadline:
            time.sleep(0.05)
        return [*self.processes(), *map(str, self.temp.iterdir())]


@pytest.mark.req("R14.1")
def test_the_demo_ends_as_its_file_expects_and_leaves_nothing_behind(tmp_path: Path) -> None:
    demo = Demo(tmp_path)
    assert demo.wait() == 0, demo.log.read_text()
    text = demo.log.read_text()
    assert "every order ended as the file expects" in text
    assert len(demo.outcomes()) == 39, text
    assert demo.left_behind() == []


@pytest.mark.full
@pytest.mark.timeout(600)
def test_ten_demos_in_a_row_have_the_same_outcomes_and_leave_nothing_behind(tmp_path: Path) -> None:
    seen = set()
    for _ in range(10):
        demo = Demo(tmp_path)
        assert demo.wait() == 0, demo.log.read_text()
        assert demo.left_behind() == []
        seen.add(tuple(demo.outcomes()))
    assert len(seen) == 1
    assert len(seen.pop()) == 39


def test_payments_killed_during_the_demo_loses_nothing_and_charges_nobody_twice(tmp_path: Path) -> None:
    demo = Demo(tmp_path, "--", "--kill", "payments")
    assert demo.wait() == 0, demo.log.read_text()
    assert "kill -9 payments" in demo.log.read_text()
    assert "every order ended as the file expects" in demo.log.read_text()
    assert demo.left_behind() == []


@pytest.mark.parametrize("seed", [*range(3), *(pytest.param(seed, marks=pytest.mark.full) for seed in range(3, 10))])
def test_ctrl_c_at_any_moment_leaves_nothing_behind(tmp_path: Path, seed: int) -> None:
    moment = random.Random(seed).uniform(0.2, 7)
    demo = Demo(tmp_path)
    try:
        code = demo.process.wait(moment)
    except subprocess.TimeoutExpired:
        demo.process.send_signal(signal.SIGINT)
        code = demo.wait(60)
    assert code in {0, 130}, demo.log.read_text()
    assert demo.left_behind() == [], f"after {moment:.1f} s"


def test_a_demo_that_is_killed_takes_its_processes_with_it(tmp_path: Path) -> None:
    demo = Demo(tmp_path)
    deadline = time.monotonic() + 60
    while "orders ready" not in demo.log.read_text():
        assert time.monotonic() < deadline, demo.log.read_text()
        time.sleep(0.05)
    demo.process.kill()
    demo.wait()
    assert demo.left_behind() == []
