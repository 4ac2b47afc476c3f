"""docs/mock-components.md: its example is a project, and its test passes there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

DOCUMENT = Path(__file__).parent.parent.parent / "docs" / "mock-components.md"
FENCED = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.mark.req("R14.4")
def test_the_example_of_the_document_passes_as_it_stands(tmp_path: Path) -> None:
    blocks = FENCED.findall(DOCUMENT.read_text(encoding="utf-8"))
    stock, resiliency, topology = (text for language, text in blocks if language == "yaml")
    [test] = (text for language, text in blocks if language == "python")
    components = tmp_path / "compose" / "components"
    components.mkdir(parents=True)
    (components / "stock.yaml").write_text(stock)
    (components / "resiliency.yaml").write_text(resiliency)
    (tmp_path / "compose" / "dapr.yaml").write_text(topology)
    (tmp_path / "test_stock.py").write_text(test)
    (tmp_path / "pytest.ini").write_text(
        "[pytest]\nasyncio_mode = auto\nasyncio_default_fixture_loop_scope = function\nfilterwarnings = error\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout
