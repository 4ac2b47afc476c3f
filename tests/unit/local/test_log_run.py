"""Log folders: one a run, the last few kept, none taken from a run that lasts."""

from __future__ import annotations

from pathlib import Path

from apibase.local.log_run import LogRun


def test_the_oldest_runs_logs_are_removed(tmp_path: Path) -> None:
    runs = []
    for _ in range(4):
        run = LogRun(tmp_path, keep=2)
        (run.folder / "app.log").touch()
        run.close()
        runs.append(run.folder)
    assert sorted(tmp_path.iterdir()) == runs[-2:]


def test_a_run_that_lasts_keeps_its_logs_however_many_come_after_it(tmp_path: Path) -> None:
    lasting = LogRun(tmp_path, keep=2)
    for _ in range(4):
        LogRun(tmp_path, keep=2).close()
    assert lasting.folder.is_dir()
    lasting.close()
