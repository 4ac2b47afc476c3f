"""Where the time of a server goes: py-spy's samples of its event loop's thread, while it is loaded."""

from __future__ import annotations

import asyncio
import re
import shutil
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tests.bench.chain.rounds import CELLS, LOAD_CORE, REQUEST, SERVER_CORE
from tests.bench.chain.servers import HEADERS, SERVERS, SERVICE, running
from tests.bench.ghz import ghz, load, pinned

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tests.bench.chain.servers import Surroundings

_RATE = 200  # samples a second: what py-spy takes without slowing the server much
_SETTLE_SECONDS = 2.0
_SHOWN = 40
_FRAME = re.compile(r"(?P<function>.+) \((?P<file>.+?)(?::\d+)?\)$")
_LOOP = "run (asyncio/runners.py)"  # newer samplers say "Runner.run"
_BELOW_PYTHON = "(below Python: gRPC's core and Cython, uvloop, the kernel)"


@dataclass(frozen=True, slots=True)
class Profile:
    """How often each function was seen at work itself, and how often it or what it called was, of all samples."""

    samples: int
    own: Counter[str]
    within: Counter[str]

    def table(self) -> str:
        """Return the hottest functions as a table in Markdown."""
        rows = [
            f"| {name} | {own / self.samples:.1%} | {self.within[name] / self.samples:.1%} |"
            for name, own in self.own.most_common(_SHOWN)
        ]
        return "\n".join(["| function | itself | with what it calls |", "| --- | ---: | ---: |", *rows])

    def by_package(self) -> str:
        """Return the samples by the package of the function at work, as a table in Markdown."""
        packages: Counter[str] = Counter()
        for name, own in self.own.items():
            packages[_package(name)] += own
        rows = [f"| {name} | {own / self.samples:.1%} |" for name, own in packages.most_common()]
        return "\n".join(["| code of | itself |", "| --- | ---: |", *rows])


def py_spy() -> str:
    """Return py-spy's executable. Raises `RuntimeError` where it is missing."""
    found = shutil.which("py-spy", path=str(Path(sys.executable).parent)) or shutil.which("py-spy")
    if found is None:
        raise RuntimeError("py-spy is missing, with which the profile is made: pip install py-spy")
    return found


async def sample(around: Surroundings, cell_name: str, server: str, seconds: float) -> Profile:
    """Load a server on a core of its own and sample it; py-spy has the load's core.

    Raises `RuntimeError` where py-spy is missing or may not look into other processes.
    """
    spy = py_spy()
    ghz()
    cell = CELLS[cell_name]
    samples = around.folder / f"{server}.folded"
    async with running(server, around, SERVER_CORE) as process:
        loading = asyncio.ensure_future(
            load(
                process.address,
                f"{SERVICE}/{cell.method}",
                REQUEST,
                protoset=around.protoset,
                callers=cell.callers,
                seconds=seconds + 2 * _SETTLE_SECONDS,
                messages=cell.messages if cell.streams_in else 0,
                headers=HEADERS,
                core=LOAD_CORE,
            )
        )
        await asyncio.sleep(_SETTLE_SECONDS)
        spying = await asyncio.create_subprocess_exec(
            *(*pinned(LOAD_CORE), spy, "record", "--pid", str(process.pid), "--threads", "--format", "raw"),
            *("--rate", str(_RATE), "--duration", f"{seconds:.0f}", "--output", str(samples)),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        printed, _ = await spying.communicate()
        await loading
    if spying.returncode:
        raise RuntimeError(f"py-spy ended with {spying.returncode}: {printed.decode()}")
    return read(samples.read_text().splitlines())


def read(lines: Iterable[str]) -> Profile:
    """Read py-spy's folded stacks: `thread;function (file:line);… count`; threads that run no event loop are left out."""
    own: Counter[str] = Counter()
    within: Counter[str] = Counter()
    total = 0
    for line in lines:
        stack, _, count = line.rpartition(" ")
        frames = [_name(frame) for frame in stack.split(";")]
        if not any(frame.endswith(_LOOP) for frame in frames):
            continue
        last = _BELOW_PYTHON if frames[-1].endswith(_LOOP) else frames[-1]
        own[last] += int(count)
        for name in {*frames, last}:
            within[name] += int(count)
        total += int(count)
    return Profile(total, own, within)


def text(profile: Profile, server: str, cell_name: str, line: str) -> str:
    """Return the page about a profile."""
    cell = CELLS[cell_name]
    return (
        f"# Where the time goes: {SERVERS[server].title}\n\n"
        f"The thread of the event loop, {profile.samples:,} samples by py-spy at {_RATE} a second, while ghz calls `{cell.method}` with "
        f"{cell.callers} callers; the server has one core, load and sampler the other. {line}\n\n"
        f"{profile.by_package()}\n\n{profile.table()}\n"
    )


def _name(frame: str) -> str:
    found = _FRAME.match(frame)
    return f"{found['function']} ({found['file']})" if found else frame


def _package(name: str) -> str:
    if name == _BELOW_PYTHON:
        return name
    found = _FRAME.match(name)
    file = found["file"] if found else name
    if file.startswith("<"):
        return "Python itself"
    first = file.split("/")[0]
    return {"trace": "opentelemetry", "context": "opentelemetry"}.get(first, first if "/" in file else "other modules")
