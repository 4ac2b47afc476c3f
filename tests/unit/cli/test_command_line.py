"""The command line around the commands: help, options, signals, and what is told when it can't work."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from apibase.cli import COMMANDS
from apibase.cli.call import read_headers
from apibase.cli.choices import load_function, read_replicas, read_seconds
from apibase.cli.runner import Interruption, run_command
from apibase.local.errors import StackError, TopologyError
from apibase.local.events import Event, EventKind, Role
from apibase.local.project import Project

APIBASE = Path(sys.executable).parent / "apibase"


def apibase(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PATH": f"{APIBASE.parent}{os.pathsep}{os.environ['PATH']}"}
    return subprocess.run(
        [APIBASE, *arguments], cwd=cwd, env=env, capture_output=True, text=True, check=False, timeout=60
    )


def test_help_lists_every_command(tmp_path: Path) -> None:
    done = apibase("--help", cwd=tmp_path)
    assert done.returncode == 0
    assert all(f" {name} " in done.stdout for name in COMMANDS)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("up",), "compose/dapr.yaml does not exist"),
        (("call", "a.B/C"), "no stack is up in this project; start one with: apibase up"),
        (("demo",), "tool.apibase.demo is not set"),
        (("run", "orders"), "compose/dapr.yaml does not exist"),
    ],
)
def test_a_command_that_cannot_work_here_says_why_in_one_line(
    tmp_path: Path, arguments: tuple[str, ...], said: str
) -> None:
    (tmp_path / "pyproject.toml").touch()
    done = apibase(*arguments, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("apibase: ")
    assert said in done.stderr


def test_without_the_extras_the_remedy_is_told() -> None:
    script = "import sys; sys.modules['typer'] = None; from apibase.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == "apibase: the command line needs typer; install it with: pip install 'apibase[local]'\n"


def test_replicas_and_durations_are_read_or_refused() -> None:
    assert read_replicas(["orders=2", "payments=1"]) == {"orders": 2, "payments": 1}
    assert [read_seconds(text) for text in ("5s", "500ms", "1m", "2.5")] == [5, 0.5, 60, 2.5]
    for wrong in ("orders", "orders=0", "=2", "orders=two"):
        with pytest.raises(typer.BadParameter, match="APP=N"):
            read_replicas([wrong])
    with pytest.raises(typer.BadParameter, match="a duration"):
        read_seconds("soon")
    with pytest.raises(typer.BadParameter, match="a duration"):
        read_seconds("0s")


@pytest.mark.parametrize("words", [(), *((name,) for name in COMMANDS), ("dlq", "list"), ("dlq", "replay")])
def test_help_gives_no_type_to_flags_and_a_name_to_values(tmp_path: Path, words: tuple[str, ...]) -> None:
    options = apibase(*words, "--help", cwd=tmp_path).stdout.partition("─ Options ─")[2]
    assert "--help" in options
    assert not {"<bool>", "<str>", "<path>"} & set(options.split())


def test_metadata_is_read_as_text_and_binary_metadata_as_base64() -> None:
    read = read_headers(["X-Tenant: a: b ", "x-empty:", "X-Key-Bin: /wA="])
    assert read == [("x-tenant", "a: b"), ("x-empty", ""), ("x-key-bin", b"\xff\x00")]


@pytest.mark.parametrize(
    "header", ["no colon", ": x", "a b: x", "ä: x", "name: \N{EURO SIGN}", "name: a\tb", "x-bin: a"]
)
def test_metadata_that_grpc_does_not_take_is_refused_before_the_call(tmp_path: Path, header: str) -> None:
    done = apibase("call", "a.v1.S/M", "-H", header, cwd=tmp_path)
    assert done.returncode == 2
    assert "Invalid value for --header" in done.stderr


@pytest.mark.parametrize(
    ("reference", "said"),
    [
        ("json", "module:function"),
        ("no_such_module:run", "No module"),
        ("json:nothing", "nothing"),
        ("json:__name__", "no"),
    ],
)
def test_a_demo_that_cannot_be_imported_is_named_with_its_setting(tmp_path: Path, reference: str, said: str) -> None:
    with pytest.raises(StackError, match=f"tool.apibase.demo.*{said}"):
        load_function(reference, "tool.apibase.demo", tmp_path)


def test_a_project_is_the_nearest_folder_with_a_pyproject_and_its_settings_count(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text('[tool.apibase]\ntopology = "t.yaml"\ndemo = "a:b"\n')
    (tmp_path / "deep/er").mkdir(parents=True)
    project = Project.find(tmp_path / "deep/er")
    assert (project.root, project.topology, project.demo) == (tmp_path, tmp_path / "t.yaml", "a:b")
    assert project.descriptors == tmp_path / "generated/descriptors.binpb"
    (tmp_path / "pyproject.toml").write_text("[tool.apibase]\ntopology = 1\n")
    with pytest.raises(TopologyError, match=r"pyproject.toml: tool.apibase.topology: expected a string, found 1"):
        Project.find(tmp_path)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize(("normal", "code"), [(False, None), (True, 0)])
def test_a_signal_ends_a_command_in_good_order(number: int, *, normal: bool, code: int | None) -> None:
    done: list[str] = []

    async def command(interruption: Interruption) -> int:
        interruption.normal = normal
        killed = asyncio.Event()

        def kill() -> None:
            done.append("killed")
            killed.set()

        interruption.kill = kill
        os.kill(os.getpid(), number)
        try:
            await asyncio.Event().wait()
        finally:
            os.kill(
                os.getpid(), number
            )  # A second one, while it cleans up, is heard and does not cut the cleaning short.
            await killed.wait()
            done.append("cleaned up")
        return 0

    with pytest.raises(typer.Exit) as caught:
        run_command(command)
    assert done == ["killed", "cleaned up"]
    assert caught.value.exit_code == (128 + number if code is None else code)


def test_output_that_nobody_reads_any_more_ends_a_command_as_a_hang_up_does() -> None:
    shown: list[str] = []

    def show(event: Event) -> None:
        shown.append(event.text)
        raise BrokenPipeError

    async def command(interruption: Interruption) -> int:
        tell = interruption.unless_gone(show)
        tell(Event(EventKind.PROGRESS, Role.STACK, "stack", "one"))
        tell(Event(EventKind.PROGRESS, Role.STACK, "stack", "two"))
        await asyncio.Event().wait()
        return 0

    with pytest.raises(typer.Exit) as caught:
        run_command(command)
    assert shown == ["one"]
    assert caught.value.exit_code == 128 + signal.SIGHUP
