"""The demo's own file of cases, and what is said of one that is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from orders.demo import read_cases, run

GOOD = '{"name": "mug", "request": {"customer_id": "ann"}, "expect": "SETTLED"}'


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("{", "this is no case"),
        ("[]", "this is no case"),
        ('{"name": "mug", "expect": "SETTLED"}', "'request' is missing"),
        ('{"name": "mug", "request": {"customer": "ann"}, "expect": "SETTLED"}', "customer"),
    ],
)
def test_a_wrong_line_is_named_before_anything_is_started(tmp_path: Path, line: str, says: str) -> None:
    file = tmp_path / "cases.jsonl"
    file.write_text(f"{GOOD}\n\n{line}\n")

    with pytest.raises(ValueError, match=rf"cases\.jsonl:3: .*{says}"):
        read_cases(file)
    with pytest.raises(SystemExit, match=r"cases\.jsonl:3"):
        run.prepare(["--file", str(file)], ["orders"])  # type: ignore[attr-defined]


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"--file: .*nowhere"):
        run.prepare(["--file", str(tmp_path / "nowhere")], ["orders"])  # type: ignore[attr-defined]
