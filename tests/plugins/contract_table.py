"""The contract suite's table: what was asked of which side, and what came of it. `--contract-table FILE` writes it after a run."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import pytest

_SUITE = Path(__file__).parent.parent / "contract"
_SIDES = ("stand-in", "1.18", "1.14")
_STORES = ("postgres", "postgres1", "redis", "sqlite")
_HEAD = """\
# The contract suite

What the clients promise, by the same tests on the stand-in sidecar and on the real daprd (`tests/contract`). A cell has the number of cases
that passed; ✗ is one that did not, · a test that does not run there. A number in brackets names a difference: there the test asserts what is
said below instead.

Written by `make contract-table`.
"""


@dataclass
class _Cell:
    passed: int = 0
    failed: int = 0
    notes: set[str] = field(default_factory=set)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--contract-table", metavar="FILE", help="write the contract suite's table, in Markdown")


def pytest_configure(config: pytest.Config) -> None:
    if file := config.getoption("--contract-table"):
        config.pluginmanager.register(_Table(Path(file)), "contract-table-writer")


class _Table:
    def __init__(self, file: Path) -> None:
        self._file = file
        self._rows: dict[tuple[str, str], dict[tuple[str, str], _Cell]] = defaultdict(lambda: defaultdict(_Cell))
        self._differences: dict[str, tuple[str, str, str]] = {}

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call: pytest.CallInfo[None]):
        report = yield
        spec = getattr(item, "callspec", None)
        if (
            item.path.is_relative_to(_SUITE)
            and spec
            and "side" in spec.params
            and (report.when == "call" or report.failed)
        ):
            side, store = str(spec.params["side"]), str(spec.params.get("store", ""))
            store = store if store in _STORES else ""  # those of secrets are one row
            cell = self._rows[item.path.stem.removeprefix("test_"), item.originalname][side, store]
            cell.passed += report.passed
            cell.failed += report.failed
            if difference := item.funcargs.get("difference"):
                cell.notes.add(difference)
        return report

    def pytest_sessionfinish(self) -> None:
        notes = sorted({note for cells in self._rows.values() for cell in cells.values() for note in cell.notes})
        numbers = {note: number for number, note in enumerate(notes, 1)}
        cases = sum(cell.passed for cells in self._rows.values() for cell in cells.values())
        failed = sum(cell.failed for cells in self._rows.values() for cell in cells.values())
        parts = [_HEAD, f"{datetime.now(UTC).date().isoformat()}: {cases} cases passed, {failed} failed.\n"]
        by_store = {row: cells for row, cells in self._rows.items() if any(store for _, store in cells)}
        others = {row: cells for row, cells in self._rows.items() if row not in by_store}
        columns = [(side, store) for side in _SIDES for store in _STORES]
        if by_store:
            parts += ["## State stores\n", _markdown(by_store, columns, numbers)]
        if others:
            parts += ["## Everything else\n", _markdown(others, [(side, "") for side in _SIDES], numbers)]
        if notes:
            parts += ["## Differences\n", "\n".join(f"{number}. {note}" for note, number in numbers.items()) + "\n"]
        self._file.write_text("\n".join(parts), encoding="utf-8")


def _markdown(
    rows: dict[tuple[str, str], dict[tuple[str, str], _Cell]], columns: list[tuple[str, str]], numbers: dict[str, int]
) -> str:
    present = [column for column in columns if any(column in cells for cells in rows.values())]
    lines = [
        f"| building block | what | {' | '.join(' '.join(filter(None, column)) for column in present)} |",
        f"| --- | --- |{' :---: |' * len(present)}",
    ]
    for (module, test), cells in sorted(rows.items()):
        told = " | ".join(_told(cells.get(column), numbers) for column in present)
        lines.append(f"| {module.replace('_', ' ')} | {test.removeprefix('test_').replace('_', ' ')} | {told} |")
    return "\n".join(lines) + "\n"


def _told(cell: _Cell | None, numbers: dict[str, int]) -> str:
    if cell is None:
        return "·"
    notes = "".join(f" [{numbers[note]}]" for note in sorted(cell.notes))
    return ("✗" if cell.failed else str(cell.passed)) + notes
