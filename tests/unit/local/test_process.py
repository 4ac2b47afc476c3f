"""Child processes: their output, their readiness, their death, and that they always end."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from apibase.local import guard
from apibase.local.errors import ChildDied, NotReady
from apibase.local.process import Hooks, ManagedProcess, ProcessSpec

Make = Callable[..., ManagedProcess]


@pytest.fixture
async def make(tmp_path: Path) -> AsyncIterator[Make]:
    made: list[ManagedProcess] = []

    def make(script: str, hooks: Hooks | None = None, **settings: object) -> ManagedProcess:
        command = (sys.executable, "-S", "-c", textwrap.dedent(script))
        spec = ProcessSpec("child", command, {"PATH": os.environ["PATH"]}, tmp_path, tmp_path / "child.log", **settings)
        made.append(ManagedProcess(spec, hooks))
        return made[-1]

    yield make
    for process in made:
        process.kill_now()
        await process.stop()


def alive(pid: int) -> bool:
    return (
        bool(guard.start_time(pid)) and Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    )


async def logged(process: ManagedProcess, text: str) -> bool:
    return text in "\n".join(process.tail())


async def until_logged(process: ManagedProcess, text: str) -> None:
    await process.until(lambda: logged(process, text), 10, f"no {text} in its log")


async def until_dead(*pids: int) -> None:
    deadline = time.monotonic() + 10
    while any(map(alive, pids)):
        assert time.monotonic() < deadline, pids
        await asyncio.sleep(0.01)


async def test_output_goes_to_the_file_and_line_by_line_to_the_listener(make: Make) -> None:
    lines: list[str] = []
    process = make(
        "import sys; print('one'); print('zwei ä', file=sys.stderr); print('end', end='')", Hooks(lines.append)
    )
    process.start()
    assert await process.wait() == 0
    await process.stop()
    assert sorted(process.tail()) == ["end", "one", "zwei ä"] or process.tail()[-1] == "end"
    assert sorted(lines) == ["end", "one", "zwei ä"]


async def test_a_child_that_ends_before_it_is_ready_is_named_with_its_code_and_its_last_lines(make: Make) -> None:
    process = make("for n in range(100): print('line', n)\nraise SystemExit(3)")
    process.start()
    with pytest.raises(ChildDied) as caught:
        await process.until(lambda: logged(process, "never"), 30, "never ready")
    assert str(caught.value).startswith("child ended with exit code 3\n")
    assert "line 99" in str(caught.value)
    assert "line 84" not in str(caught.value)
    assert str(process.spec.log_path) in str(caught.value)


async def test_a_child_that_lives_but_is_not_ready_in_time_is_named_with_what_it_lacks(make: Make) -> None:
    process = make("import time; print('here', flush=True); time.sleep(60)")
    process.start()
    await until_logged(process, "here")
    with pytest.raises(NotReady, match=r"(?s)child is not ready after 0 s: its port is shut.*here"):
        await process.until(lambda: logged(process, "never"), 0.05, "its port is shut")


async def test_an_end_by_a_signal_is_told_by_the_signals_name(make: Make) -> None:
    ended: list[ManagedProcess] = []
    process = make("import time; time.sleep(60)", Hooks(on_exit=ended.append))
    process.start()
    os.kill(process.pid, signal.SIGSEGV)
    assert await process.wait() == -signal.SIGSEGV
    assert process.how_it_ended() == "killed by SIGSEGV"
    assert ended == [process]


async def test_stop_is_patient_with_a_child_that_drains(make: Make) -> None:
    process = make("""
        import signal, time
        def drain(*_):
            time.sleep(0.2); print('drained', flush=True); raise SystemExit(0)
        signal.signal(signal.SIGTERM, drain)
        print('up', flush=True)
        time.sleep(60)
    """)
    process.start()
    await until_logged(process, "up")
    await process.stop()
    assert process.returncode == 0
    assert process.tail()[-1] == "drained"


async def test_stop_kills_a_child_that_does_not_listen_when_its_grace_is_over(make: Make) -> None:
    process = make(
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(60)",
        grace=0.1,
    )
    process.start()
    await until_logged(process, "up")
    await process.stop()
    assert process.returncode == -signal.SIGKILL


async def test_stop_ends_what_the_child_had_started_too(make: Make) -> None:
    process = make("""
        import subprocess, sys, signal
        child = subprocess.Popen(['sleep', '60'])
        print('started', child.pid, flush=True)
        signal.pause()
    """)
    process.start()
    await until_logged(process, "started")
    grandchild = int(process.tail()[-1].split()[1])
    await process.stop()
    await until_dead(grandchild)


async def test_a_cancelled_start_leaves_a_process_that_can_be_stopped(make: Make) -> None:
    process = make("import time; time.sleep(60)")

    async def start_and_wait() -> None:
        process.start()
        await process.until(lambda: logged(process, "never"), 30, "never")

    task = asyncio.create_task(start_and_wait())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert process.alive
    await process.stop()
    assert not alive(process.pid)


async def test_a_missing_command_ends_with_127_and_says_so(tmp_path: Path) -> None:
    spec = ProcessSpec("child", ("no-such-command",), {"PATH": "/usr/bin"}, tmp_path, tmp_path / "child.log")
    process = ManagedProcess(spec)
    process.start()
    assert await process.wait() == 127
    assert process.tail() == ["no-such-command: not found"]
    await process.stop()


async def test_a_signal_on_purpose_makes_the_end_an_expected_one(make: Make) -> None:
    process = make("import time; time.sleep(60)")
    process.start()
    await process.send_signal(signal.SIGCONT)
    assert not process.exit_expected
    await process.send_signal(signal.SIGKILL)
    assert process.exit_expected
    assert process.how_it_ended() == "killed by SIGKILL"


SUPERVISOR = """
import asyncio, sys
from pathlib import Path
from apibase.local.guardian import Guardian
from apibase.local.process import Hooks, ManagedProcess, ProcessSpec

async def main():
    folder = Path(sys.argv[1])
    guardian = Guardian("test")
    if sys.argv[2] == "guarded":
        guardian.start()
        guardian.remove(folder / "left")
    script = "import subprocess, time; p = subprocess.Popen(['sleep', '60']); print(p.pid, flush=True); time.sleep(60)"
    spec = ProcessSpec("child", (sys.executable, "-S", "-c", script), {"PATH": "/usr/bin:/bin"}, folder, folder / "log")
    process = ManagedProcess(spec, Hooks(on_start=lambda process: guardian.watch(process.pid, 15)))
    process.start()
    print(process.pid, flush=True)
    await process.wait()

asyncio.run(main())
"""


def start_supervisor(folder: Path, how: str) -> tuple[subprocess.Popen[str], int]:
    process = subprocess.Popen([sys.executable, "-c", SUPERVISOR, folder, how], stdout=subprocess.PIPE, text=True)
    assert process.stdout
    return process, int(process.stdout.readline())


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's death signal is Linux's")
@pytest.mark.parametrize("how", ["guarded", "unguarded"])
async def test_children_do_not_outlive_a_supervisor_that_is_killed(tmp_path: Path, how: str) -> None:
    (tmp_path / "left").mkdir()
    (tmp_path / "left/file").touch()
    supervisor, child = start_supervisor(tmp_path, how)
    log, deadline = tmp_path / "log", time.monotonic() + 10
    while not (log.exists() and log.read_text().strip()):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)
    grandchild = int(log.read_text())
    supervisor.kill()
    supervisor.communicate()
    await until_dead(child)
    if how == "guarded":  # The kernel's signal reaches the child alone; its children, and files, are the guard's.
        await until_dead(grandchild)
        while (tmp_path / "left").exists():
            assert time.monotonic() < deadline
            await asyncio.sleep(0.01)
    elif alive(grandchild):
        os.kill(grandchild, signal.SIGKILL)
