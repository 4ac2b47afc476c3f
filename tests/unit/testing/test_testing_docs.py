"""docs/testing.md: its examples, as a project of their own, do what they say, and fast."""

from __future__ import annotations

import json
import os
import re
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs/testing.md").read_text(encoding="utf-8")
BLOCKS = dict(re.findall(r"```(?:python|yaml|ini)\n# (\S+)\n(.*?)```", PAGE, re.DOTALL))
FIRST = "tests/test_payments.py"

# Each test many times, and how long each took.
MEASURE = """
import json
from pathlib import Path

def pytest_generate_tests(metafunc):
    metafunc.fixturenames.append("turn")
    metafunc.parametrize("turn", range(30))

seconds = {"call": [], "setup": [], "teardown": []}

def pytest_runtest_logreport(report):
    seconds[report.when].append(report.duration)

def pytest_sessionfinish():
    Path("seconds.json").write_text(json.dumps(seconds))
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    for name, text in BLOCKS.items():
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    (tmp_path / "compose").symlink_to(ROOT / "compose")
    return tmp_path


def run(project: Path, *arguments: str) -> str:
    environment = {**os.environ, "PYTHONPATH": f"{project}:{ROOT / 'service'}:{ROOT / 'generated'}"}
    command = [sys.executable, "-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider", *arguments]
    ended = subprocess.run(
        command, cwd=project, env=environment, capture_output=True, text=True, timeout=100, check=False
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


@pytest.mark.req("R14.4", "R17.1")
def test_every_example_does_what_it_says(project: Path) -> None:
    tests = [name for name in BLOCKS if name.startswith("tests/")]
    assert len(tests) == 5
    assert re.search(r"^1[0-9] passed", run(project, *tests), re.MULTILINE)


@pytest.mark.req("R14.4")
def test_the_first_example_is_short_and_takes_a_hundredth_of_a_second(project: Path) -> None:
    assert len(BLOCKS[FIRST].strip().splitlines()) <= 15
    (project / "tests/conftest.py").write_text(MEASURE)

    run(project, FIRST)

    seconds = json.loads((project / "seconds.json").read_text())
    median = {phase: statistics.median(durations) for phase, durations in seconds.items()}
    assert len(seconds["call"]) == 30
    assert median["call"] < 0.010, median
    # Sidecar and app are started and ended for each test.
    assert median["setup"] + median["teardown"] < 0.060, median
