"""Shows the logs of the processes of a test that failed, and only then."""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from apibase.local.stack import Stack

_LINES = 15

running: list[Stack] = []
"""The stacks that are up now."""


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.when == "call" and report.failed:
        for stack in running:
            for log in sorted(stack.log_folder.glob("*")):
                lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
                # Of Dapr's own processes only what they complain of.
                tail = [line for line in lines if '"level":"info"' not in line][-_LINES:]
                report.sections.append((f"{log.name}, last {len(tail)} lines", "\n".join(tail)))
    return report
