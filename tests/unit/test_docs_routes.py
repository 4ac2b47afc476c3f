"""docs/routes.md shows what is really printed: each of its blocks is produced here anew."""

from __future__ import annotations

import asyncio
import os
import pty
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from apibase.contract.codegen import generate
from tests.unit.fake_dapr import FakeDapr

if TYPE_CHECKING:
    from apibase import Settings

ROOT = Path(__file__).parent.parent.parent
DOCUMENT = (ROOT / "docs" / "routes.md").read_text(encoding="utf-8")
BIN = Path(sys.executable).parent
FENCED = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
COLUMNS = "120"

APP = """
from desk.v1 import desk_pb2, desk_pb2_grpc

from apibase import App, run


async def handler(self, request, context):
    raise NotImplementedError


def build():
    app = App()
    for service in desk_pb2.DESCRIPTOR.services_by_name.values():
        base = getattr(desk_pb2_grpc, f"{service.name}Servicer")
        app.add_servicer(type(service.name, (base,), {method.name: handler for method in service.methods})())
    return app


run(build)
"""


@dataclass(frozen=True)
class Example:
    """A section of the document: what a contract says, and what its app says when it starts."""

    title: str
    contract: str
    said: str


def blocks(text: str, kind: str) -> list[str]:
    return [body for found, body in FENCED.findall(text) if found == kind]


def examples() -> list[Example]:
    """Return the sections; the first block below their heading begins every file."""
    start = blocks(DOCUMENT.partition("\n## Contradictions\n")[2], "proto")[0]
    sections = re.split(r"^### (.+)\n", DOCUMENT, flags=re.MULTILINE)[1:]
    found = []
    for title, body in zip(sections[::2], sections[1::2], strict=True):
        (contract,) = blocks(body, "proto")
        (said,) = blocks(body, "console")
        found.append(Example(title, start + contract, said))
    return found


EXAMPLES = examples()


def project(folder: Path, example: Example) -> Path:
    proto = folder / "protos/desk/v1/desk.proto"
    proto.parent.mkdir(parents=True)
    proto.write_text(example.contract)
    (folder / "pyproject.toml").touch()
    (folder / "desk_app.py").write_text(APP)
    generate([folder / "protos"], folder / "generated")
    return folder


def test_the_document_has_the_examples_that_it_promises() -> None:
    assert len(EXAMPLES) >= 4


def test_the_table_is_that_of_the_reference_system_on_a_terminal() -> None:
    (table,) = [block for block in blocks(DOCUMENT, "console") if block.startswith("$ apibase routes\n")]

    assert on_a_terminal("apibase", "routes") == table.splitlines()[1:]


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.title)
async def test_a_contradiction_is_told_as_it_is_shown(example: Example, settings: Settings, tmp_path: Path) -> None:
    folder = project(tmp_path / "project", example)
    async with FakeDapr(settings.sidecar_address) as dapr:
        dapr.components = {"statestore": "state.postgresql", "letters": "pubsub.redis"}
        env = {
            **os.environ,
            "APP_ID": "desk",
            "APP_PORT": "0",
            "DAPR_GRPC_ENDPOINT": settings.sidecar_address,
            "APIBASE_LOG_FORMAT": "text",
            "APIBASE_LOG_LEVEL": "ERROR",
            "PYTHONPATH": f"{folder}{os.pathsep}{folder / 'generated'}",
        }
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "desk_app",
            cwd=folder,
            env=env,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        output, _ = await asyncio.wait_for(process.communicate(), 60)

    said = re.sub(r"^\d\d:\d\d:\d\d\.\d{3}", "12:00:00.000", output.decode(), flags=re.MULTILINE)
    command, *shown = example.said.splitlines()
    assert command == "$ python -m desk"
    assert said.splitlines() == shown
    assert process.returncode == 2


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.title)
def test_what_the_contract_alone_shows_is_told_without_a_start(example: Example, tmp_path: Path) -> None:
    done = subprocess.run(
        [BIN / "apibase", "routes"], cwd=project(tmp_path, example), capture_output=True, text=True, check=False
    )

    seen = "is told by `apibase routes` too" in section(example.title)
    assert (done.returncode, done.stderr) == ((2, example.said.partition("\n")[2]) if seen else (0, ""))


def section(title: str) -> str:
    return DOCUMENT.partition(f"### {title}\n")[2].partition("\n### ")[0]


def on_a_terminal(*command: str) -> list[str]:
    """Return the lines that a command prints on a terminal of the document's width, without blanks at their ends."""
    ours, theirs = pty.openpty()
    env = {
        **os.environ,
        "COLUMNS": COLUMNS,
        "LINES": "50",
        "TERM": "dumb",
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
    }
    with subprocess.Popen(command, cwd=ROOT, env=env, stdout=theirs, stderr=subprocess.STDOUT) as process:
        os.close(theirs)
        output = b""
        try:
            while chunk := os.read(ours, 65536):
                output += chunk
        except OSError:  # how Linux tells the end of it
            pass
        os.close(ours)
    assert process.returncode == 0, output.decode()
    return [line.rstrip() for line in output.decode().splitlines()]
