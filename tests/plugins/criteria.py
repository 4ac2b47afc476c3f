"""Which test proves which criterion: the marker `req`, and `--criteria`, which prints the table instead of running."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import pytest

CRITERIA = Path(__file__).parent.parent / "criteria.txt"


def read_criteria() -> dict[str, str]:
    lines = CRITERIA.read_text(encoding="utf-8").splitlines()
    return dict(line.split(" ", 1) for line in lines if line.startswith("R"))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--criteria", action="store_true", help="print all criteria with the tests that carry them")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    known = read_criteria()
    carried: dict[str, list[str]] = defaultdict(list)
    for item in items:
        for marker in item.iter_markers("req"):
            for criterion in marker.args:
                if criterion not in known:
                    raise pytest.UsageError(f"{item.nodeid}: there is no criterion {criterion!r} in {CRITERIA.name}")
                carried[criterion].append(item.nodeid.split("[")[0])
    config.stash[_CARRIED] = {criterion: sorted(set(carried[criterion])) for criterion in known}


_CARRIED = pytest.StashKey[dict[str, list[str]]]()


def pytest_collection_finish(session: pytest.Session) -> None:
    if not session.config.getoption("--criteria"):
        return
    session.items.clear()


def pytest_sessionfinish(session: pytest.Session) -> None:
    if session.config.getoption("--criteria"):
        session.exitstatus = pytest.ExitCode.OK


def pytest_report_collectionfinish(config: pytest.Config) -> list[str]:
    if not config.getoption("--criteria"):
        return []
    known = read_criteria()
    lines = []
    for criterion, tests in config.stash[_CARRIED].items():
        lines.append(f"{criterion:<6} {known[criterion][:110]}")
        lines += [f"         {test}" for test in tests] or ["         —"]
    carried = sum(bool(tests) for tests in config.stash[_CARRIED].values())
    return [*lines, "", f"{carried} of {len(known)} criteria are carried by a test"]
