"""One child process: started in a session of its own, its output in a file, its end noticed, and always stopped."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from apibase.local import guard, launch
from apibase.local.errors import KILLED, ChildDied, NotReady, with_tail
from apibase.local.last_words import LINES_SEARCHED, LINES_SHOWN
from apibase.local.log_file import LogFile

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from apibase.local.probes import Probe

_FIRST_PAUSE = 0.01
_LONGEST_PAUSE = 0.1
_GROUP_GRACE = 2.0
_ENDING = {signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGABRT, signal.SIGSEGV}


@dataclass(frozen=True)
class ProcessSpec:
    """What to run, and how it wants to be stopped. `grace` is in seconds."""

    name: str
    command: tuple[str, ...]
    env: Mapping[str, str]
    cwd: Path
    log_path: Path
    user: str = ""
    stop_signal: int = signal.SIGTERM
    """Asks it to stop; 0 for a process that is quickly done, and must not be interrupted."""
    kill_signal: int = signal.SIGKILL
    """Ends it when there is no time for grace; 0 as above. SIGKILL follows where this does not help."""
    death_signal: int = signal.SIGKILL
    """What the kernel sends it when the supervisor dies; 0 for nothing."""
    grace: float = 10.0
    foreground: bool = False
    """Keep our terminal: no log file, the output goes where ours goes, and Ctrl-C to the process alone."""


@dataclass
class Hooks:
    """What a process tells its owner, on the event loop."""

    on_line: Callable[[str], None] | None = None
    on_start: Callable[[ManagedProcess], None] = field(default=lambda _: None)
    on_exit: Callable[[ManagedProcess], None] = field(default=lambda _: None)


class ManagedProcess:
    """A process and everything that it starts in its session.

    `start` has no `await` in it: when it returns, whoever holds this object can stop the process, so a cancellation can't
    fall between the two.
    """

    def __init__(self, spec: ProcessSpec, hooks: Hooks | None = None) -> None:
        self.spec = spec
        self.exit_expected = False
        self.returncode: int | None = None
        self._hooks = hooks or Hooks()
        self._exited = asyncio.Event()
        self._popen: subprocess.Popen[bytes] | None = None
        self._log: LogFile | None = None

    def __repr__(self) -> str:
        return f"<{self.name} pid={self.pid} returncode={self.returncode}>"

    @property
    def name(self) -> str:
        """What a person calls this process."""
        return self.spec.name

    @property
    def pid(self) -> int:
        """The process id, which is also that of its group; 0 before the start."""
        return self._popen.pid if self._popen else 0

    @property
    def alive(self) -> bool:
        """Started, and not yet seen to end."""
        return self._popen is not None and self.returncode is None

    def start(self) -> None:
        """Start the process. Must be called on the event loop that it is to be watched from."""
        loop = asyncio.get_running_loop()
        spec = self.spec
        terminal = "tty" if spec.foreground and sys.stdin.isatty() else ""
        launcher = (sys.executable, "-I", "-S", str(Path(launch.__file__)))
        arguments = (str(os.getpid()), str(int(spec.death_signal)), spec.user, terminal)
        self._log = None if spec.foreground else LogFile(spec.log_path, self._hooks.on_line)
        self._popen = subprocess.Popen(  # noqa: S603 - a command of the stack, without a shell
            [*launcher, *arguments, *spec.command],
            stdin=None if spec.foreground else subprocess.DEVNULL,
            stdout=None if spec.foreground else subprocess.PIPE,
            stderr=None if spec.foreground else subprocess.STDOUT,
            env=dict(spec.env),
            cwd=spec.cwd,
            start_new_session=not terminal,
            bufsize=0,
        )
        self._hooks.on_start(self)
        if self._log and self._popen.stdout:
            self._log.follow(self._popen.stdout)
        threading.Thread(target=self._wait, args=(self._popen, loop), name=f"wait-{spec.name}", daemon=True).start()

    async def until(self, probe: Probe, within: float, what: str) -> None:
        """Wait until the probe says yes; `ChildDied` as soon as the process ends, `NotReady` after `within` seconds."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + within
        pause = _FIRST_PAUSE
        while not self._exited.is_set():
            if await probe():
                return
            if loop.time() >= deadline:
                message = f"{self.name} is not ready after {within:.0f} s: {what}"
                raise NotReady(with_tail(message, self.spec.log_path, self.tail()))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._exited.wait(), pause)
            pause = min(pause * 1.5, _LONGEST_PAUSE)
        raise self.died()

    async def wait(self) -> int:
        """Wait for the process to end and return its code, negative for a signal."""
        await self._exited.wait()
        return self.returncode if self.returncode is not None else 0

    async def send_signal(self, number: int) -> None:
        """Send a signal on purpose, and wait for the end if it is one that ends a process."""
        ends = number in _ENDING
        self.exit_expected = self.exit_expected or ends
        if self._popen and self.alive:
            self._popen.send_signal(number)
            if number == signal.SIGKILL:  # It can't end its children itself.
                guard.send(self.pid, number)
            if ends:
                await self._exited.wait()

    async def stop(self) -> None:
        """Ask it to stop; after its grace, kill it and whatever it started. Returns when all of them are gone."""
        self.exit_expected = True
        if self._popen is None:
            return
        if self.alive:
            if self.spec.stop_signal:
                self._popen.send_signal(self.spec.stop_signal)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._exited.wait(), self.spec.grace)
        await self._end_group()
        await self._exited.wait()
        if self._log:
            self._log.close()

    def kill_now(self) -> None:
        """End the process and its group at once, without waiting."""
        self.exit_expected = True
        if self._popen is None or not self.spec.kill_signal:
            return
        if self.spec.kill_signal != signal.SIGKILL and self.alive:
            self._popen.send_signal(self.spec.kill_signal)
        elif self.alive or guard.group_alive(self.pid):
            self._popen.kill()
            guard.send(self.pid, signal.SIGKILL)

    def tail(self, lines: int = LINES_SHOWN) -> list[str]:
        """The last lines of the log."""
        return self._log.tail(lines) if self._log else []

    def how_it_ended(self) -> str:
        """The exit code, or the signal by name."""
        code = self.returncode
        if code is None:
            return "it still runs"
        if code >= 0:
            return f"exit code {code}"
        with contextlib.suppress(ValueError):
            return f"{KILLED}{signal.Signals(-code).name}"
        return f"{KILLED}signal {-code}"

    def died(self) -> ChildDied:
        """The error for an end that nobody asked for."""
        log_path = None if self.spec.foreground else self.spec.log_path
        return ChildDied(self.name, self.how_it_ended(), log_path, self.tail(LINES_SEARCHED))

    async def _end_group(self) -> None:
        """End what the leader left behind: it may have had children of its own."""
        if self._popen and self.alive:
            self._popen.kill()
            guard.send(self.pid, signal.SIGKILL)
            await self._exited.wait()
        if not guard.group_alive(self.pid):
            return
        guard.send(self.pid, signal.SIGTERM)
        deadline = asyncio.get_running_loop().time() + _GROUP_GRACE
        while guard.group_alive(self.pid):
            if asyncio.get_running_loop().time() >= deadline:
                guard.send(self.pid, signal.SIGKILL)
                return
            await asyncio.sleep(_FIRST_PAUSE)

    def _wait(self, popen: subprocess.Popen[bytes], loop: asyncio.AbstractEventLoop) -> None:
        code = popen.wait()
        with contextlib.suppress(RuntimeError):  # The loop is closed: nobody is left to tell.
            loop.call_soon_threadsafe(self._ended, code)

    def _ended(self, code: int) -> None:
        self.returncode = code
        if self.spec.foreground:
            _take_terminal_back()
        if self._log:
            self._log.drain()
        self._exited.set()
        self._hooks.on_exit(self)


def _take_terminal_back() -> None:
    """Be the terminal's foreground job again after the one that had it: Ctrl-C is for us now."""
    if not sys.stdin.isatty():
        return
    before = signal.signal(signal.SIGTTOU, signal.SIG_IGN)  # Or the attempt itself would stop us.
    try:
        with contextlib.suppress(OSError):
            os.tcsetpgrp(sys.stdin.fileno(), os.getpgrp())
    finally:
        signal.signal(signal.SIGTTOU, before)
