"""Free TCP ports on the loopback address, reserved so that stacks that start side by side don't get the same ones."""

from __future__ import annotations

import contextlib
import random
import socket
import sys
from pathlib import Path

from apibase.local.errors import StackError

LOOPBACK = "127.0.0.1"
_LOWEST = 21_000
_HIGHEST = 31_999
_EPHEMERAL = Path("/proc/sys/net/ipv4/ip_local_port_range")


class PortPool:
    """Hands out ports, each held by two locks.

    A bound socket, which answers nobody, keeps every other program away until `release`, just before the process that wants the port is
    started. A Linux abstract socket, a name that no file stands for, keeps other pools away until `close`: so a process
    can be restarted on its port. Ports are taken from below the kernel's range for outgoing connections, or the kernel
    could give a released port to one before its owner binds it.
    """

    def __init__(self, seed: int | None = None) -> None:
        self._random = random.Random(seed)  # noqa: S311  (no secret)
        self._held: dict[int, socket.socket] = {}
        self._reserved: dict[int, socket.socket] = {}

    def take(self) -> int:
        """Find a free port and hold it."""
        low, high = _range()
        for _ in range(2_000):
            port = self._random.randint(low, high)
            if port not in self._reserved and self._try(port):
                return port
        message = f"no free port between {low} and {high} on {LOOPBACK}"
        raise StackError(message)

    def take_fixed(self, port: int, wanted_by: str) -> int:
        """Hold exactly this port; an error that names it and its user if it is taken."""
        if port in self._reserved or not (_free(port) and self._try(port, hold=False)):
            message = f"port {port}, wanted by {wanted_by}, is in use; leave out --fixed-ports or free it"
            raise StackError(message)
        return port

    def release(self, *ports: int) -> None:
        """Let the processes about to start bind these ports; they stay reserved against other pools."""
        for port in ports:
            if held := self._held.pop(port, None):
                held.close()

    def close(self) -> None:
        """Give every port back."""
        for sockets in (self._held, self._reserved):
            for held in sockets.values():
                held.close()
            sockets.clear()

    def _try(self, port: int, *, hold: bool = True) -> bool:
        with contextlib.ExitStack() as undo:
            reserved = undo.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
            held = undo.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
            try:
                if sys.platform == "linux":
                    reserved.bind(f"\0apibase-port-{port}")
                if hold:
                    held.bind((LOOPBACK, port))
            except OSError:
                return False
            undo.pop_all()
        self._reserved[port] = reserved
        self._held[port] = held
        return True


def _free(port: int) -> bool:
    """Whether a server could have the port; connections that linger after a close are no obstacle to one."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            server.bind((LOOPBACK, port))
            server.listen(1)
        except OSError:
            return False
    return True


def _range() -> tuple[int, int]:
    try:
        ephemeral = int(_EPHEMERAL.read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return _LOWEST, _HIGHEST
    highest = min(_HIGHEST, ephemeral - 1)
    return (_LOWEST, highest) if highest - _LOWEST >= 1_000 else (_LOWEST, _HIGHEST)  # noqa: PLR2004
