"""The toy project in a folder of its own, and what runs on its behalf."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import grpc.aio
from google.protobuf.message import Message

from apibase.cli.contracts import Contracts
from apibase.local.stack import Stack

SOURCE = Path(__file__).parent.parent / "toy"
APIBASE = Path(sys.executable).parent / "apibase"
MARK = "APIBASE_TOY_TEST"
ECHO = "toy.v1.EchoService/Echo"
UP = "End it:"


@dataclass
class Toy:
    """The toy project in a folder of its own, and everything that was started from it."""

    root: Path
    temp: Path
    started: list[subprocess.Popen[str]] = field(default_factory=list)

    @property
    def state(self) -> Path:
        return self.root / ".apibase/stack.json"

    def environment(self, **variables: str) -> dict[str, str]:
        path = f"{APIBASE.parent}{os.pathsep}{os.environ['PATH']}"
        own = {"PATH": path, "TMPDIR": str(self.temp), MARK: str(self.temp), "COLUMNS": "200"}
        return {**os.environ, **own, **variables}

    def start(self, *arguments: str, **variables: str) -> subprocess.Popen[str]:
        """Start `apibase`; its output goes to a file."""
        with self.output.open("w") as output:
            process = subprocess.Popen(
                [APIBASE, *arguments],
                cwd=self.root,
                env=self.environment(**variables),
                stdout=output,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                text=True,
            )
        self.started.append(process)
        return process

    @property
    def output(self) -> Path:
        return self.root / "output.txt"

    def until_printed(self, process: subprocess.Popen[str], text: str) -> str:
        deadline = time.monotonic() + 60
        while text not in self.output.read_text():
            assert process.poll() is None, self.output.read_text()
            assert time.monotonic() < deadline, self.output.read_text()
            time.sleep(0.01)
        return self.output.read_text()

    def call(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [APIBASE, "call", *arguments]
        return subprocess.run(
            command, cwd=self.root, env=self.environment(), capture_output=True, text=True, check=False
        )

    def processes(self) -> list[str]:
        """What runs on this project's behalf: by the mark in the environment, or the temporary folder in the command."""
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                command = (entry / "cmdline").read_bytes()
                marked = f"{MARK}={self.temp}".encode() in (entry / "environ").read_bytes().split(b"\0")
            except OSError:
                continue
            if command and (marked or str(self.temp).encode() in command):
                found.append(command.replace(b"\0", b" ").decode()[:150])
        return found

    def left_behind(self) -> list[str]:
        """Processes and files that are still there; the guard of a killed supervisor gets a moment."""
        deadline = time.monotonic() + 8
        while self._left() and time.monotonic() < deadline:
            time.sleep(0.02)
        return self._left()

    def _left(self) -> list[str]:
        return [*self.processes(), *map(str, self.temp.iterdir()), *([str(self.state)] if self.state.exists() else [])]


class EchoCaller:
    """Calls Echo through the caller's sidecar."""

    def __init__(self, toy: Toy) -> None:
        self._method = Contracts(toy.root / "generated/descriptors.binpb").method(ECHO)
        self._channels: list[grpc.aio.Channel] = []

    async def __call__(self, stack: Stack, text: str = "hi", app_id: str = "echo") -> Message:
        channel = grpc.aio.insecure_channel(stack.sidecar("caller").grpc_address)
        self._channels.append(channel)
        method = self._method
        call = channel.unary_unary(method.path, method.request.SerializeToString, method.response.FromString)
        return await call(method.request(text=text), metadata=(("dapr-app-id", app_id),), timeout=10)

    async def close(self) -> None:
        for channel in self._channels:
            await channel.close()
