"""The note of a running stack: one holder at a time, stale ones ignored, their leftovers ended."""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path

import pytest

from apibase.local import guard
from apibase.local.errors import NoStack, StackAlreadyUp
from apibase.local.state_file import InstanceState, StackState, StateFile, running_stack


def state(folder: Path, pid: int, **fields: object) -> StackState:
    instance = InstanceState("orders", 0, "grpc", 1, 2, 3, 4, 5, 6, "app.log", "sidecar.log")
    values = {"ready": True, "env": {"A": "b"}, "instances": (instance,), **fields}
    started = guard.start_time(pid)
    return StackState(pid, started, "test-id", "dapr.yaml", str(folder / "run"), str(folder), **values)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / ".apibase/stack.json"


def test_a_state_reads_back_as_it_was_written_for_its_owner_alone(path: Path, tmp_path: Path) -> None:
    file = StateFile(path)
    file.acquire()
    file.write(state(tmp_path, os.getpid()))
    assert running_stack(path) == state(tmp_path, os.getpid())
    assert path.stat().st_mode & 0o777 == 0o600
    file.release()
    assert not list(path.parent.iterdir())


def test_a_second_stack_is_refused_and_the_first_one_named(path: Path, tmp_path: Path) -> None:
    file = StateFile(path)
    file.acquire()
    file.write(state(tmp_path, os.getpid()))
    with pytest.raises(StackAlreadyUp, match=f"kill {os.getpid()}"):
        StateFile(path).acquire()
    assert path.exists()
    file.release()
    again = StateFile(path)
    again.acquire()
    again.release()


@pytest.mark.parametrize("text", ["", "{", "{}", "[]", '{"instances": [1]}'])
def test_what_cannot_be_read_counts_as_no_stack(path: Path, text: str) -> None:
    path.parent.mkdir()
    path.write_text(text)
    with pytest.raises(NoStack, match="apibase up"):
        running_stack(path)


def test_a_stack_that_is_not_ready_is_said_to_be_starting(path: Path, tmp_path: Path) -> None:
    file = StateFile(path)
    file.acquire()
    file.write(state(tmp_path, os.getpid(), ready=False))
    with pytest.raises(NoStack, match="still starting"):
        running_stack(path)
    file.release()


def test_the_note_of_a_dead_supervisor_is_ignored_and_what_it_left_is_ended(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    supervisor = subprocess.Popen(["sleep", "60"], start_new_session=True)
    child = subprocess.Popen(["sleep", "60"], start_new_session=True)
    stranger = subprocess.Popen(["sleep", "60"], start_new_session=True)
    run = tmp_path / "apibase-run"
    run.mkdir()
    processes = {str(child.pid): guard.start_time(child.pid), str(stranger.pid): "1"}
    left = state(tmp_path, supervisor.pid, processes=processes)
    file = StateFile(path)
    path.parent.mkdir()
    file.write(StackState(**{**vars(left), "run_folder": str(run)}))
    supervisor.kill()
    supervisor.wait()
    try:
        with pytest.raises(NoStack):
            running_stack(path)
        file.acquire()
        assert child.wait(10) < 0
        assert stranger.poll() is None, "a pid that has another process by now is nobody's leftover"
        assert not run.exists()
        assert not path.exists()
    finally:
        file.release()
        for process in (child, stranger):
            process.kill()
            process.wait()
