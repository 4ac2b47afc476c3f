"""Faults on request: what is to go wrong, for which operations and keys, how often. It knows no transport and no component."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Self

import grpc

if TYPE_CHECKING:
    from types import TracebackType


class InjectedStatus(Exception):
    """The operation is to fail with `code` and `message`."""

    def __init__(self, code: grpc.StatusCode, message: str) -> None:
        super().__init__(f"{code.name}: {message}")
        self.code = code
        self.message = message


class InjectedDisconnect(Exception):
    """The connection on which the operation came is to break."""


@dataclass(eq=False)
class Fault:
    """One thing that goes wrong, until it is removed, or has happened `times` times; also a context manager that removes it."""

    operation: str
    key: str
    latency: float
    status: grpc.StatusCode | None
    message: str
    drop: bool
    disconnect: bool
    rate: float
    times: int | None
    hits: int = 0
    """How often it has happened."""
    _owner: list[Fault] = field(default_factory=list, repr=False)

    @property
    def ends(self) -> bool:
        """Whether the operation goes no further."""
        return self.status is not None or self.drop or self.disconnect

    def remove(self) -> None:
        """Let it happen no more; what waits because of it goes on waiting."""
        if self in self._owner:
            self._owner.remove(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()

    def concerns(self, operation: str, keys: tuple[str, ...]) -> bool:
        """Return whether it may happen to an operation on these keys; one of them is enough."""
        if self.times is not None and self.hits >= self.times:
            return False
        return fnmatchcase(operation, self.operation) and any(fnmatchcase(key, self.key) for key in keys or ("",))


class Faults:
    """The faults of one double. The same `seed` lets the same ones of the same operations fail, at whatever rate."""

    def __init__(self, seed: int = 0) -> None:
        self._faults: list[Fault] = []
        self._random = random.Random(seed)  # noqa: S311 - it chooses what fails in a test

    def add(  # noqa: PLR0913 - keywords all, of which a fault has two or three
        self,
        *,
        operation: str = "*",
        key: str = "*",
        latency: float = 0.0,
        status: grpc.StatusCode | None = None,
        message: str = "a fault that was asked for",
        drop: bool = False,
        disconnect: bool = False,
        rate: float = 1.0,
        times: int | None = None,
    ) -> Fault:
        """Let operations on keys go wrong; both are patterns with `*` and `?`.

        After `latency` seconds the operation fails with `status`, or is never answered (`drop`), or its connection breaks
        (`disconnect`); with none of the three it goes on. `rate` is the share of the operations that it happens to.
        Raises `ValueError` for what is no fault: nothing asked for, two ends at once, a rate or a number out of range.
        """
        ends = [status is not None, drop, disconnect].count(True)
        if ends > 1:
            raise ValueError("an operation ends in one way: give one of status, drop and disconnect")
        if not ends and not latency:
            raise ValueError("this fault does nothing: give latency, status, drop or disconnect")
        if status is grpc.StatusCode.OK:
            raise ValueError("OK is no failure")
        if not 0 < rate <= 1 or latency < 0 or (times is not None and times < 1):
            raise ValueError("rate is above 0 and at most 1, latency not below 0, times at least 1")
        fault = Fault(operation, key, latency, status, message, drop, disconnect, rate, times, _owner=self._faults)
        self._faults.append(fault)
        return fault

    def parse(self, text: str) -> Fault:
        """Add a fault that is written as a command line has it: `operation=state.get,status=UNAVAILABLE,rate=0.2,times=3`.

        `drop` and `disconnect` stand alone. Raises `ValueError`, with what could stand there.
        """
        return self.add(**_fields(text))  # type: ignore[arg-type]

    def clear(self) -> None:
        """Remove every fault."""
        self._faults.clear()

    async def apply(self, operation: str, *keys: str) -> None:
        """Let happen to an operation what was asked for, in the order in which it was asked for.

        Returns where it goes on. Raises `InjectedStatus` or `InjectedDisconnect`; waits for ever, until it is cancelled,
        where no answer is to be given.
        """
        for fault in self._due(operation, keys):
            if fault.latency:
                await asyncio.sleep(fault.latency)
            if fault.drop:
                await asyncio.get_running_loop().create_future()
            if fault.disconnect:
                raise InjectedDisconnect
            if fault.status is not None:
                raise InjectedStatus(fault.status, fault.message)

    def _due(self, operation: str, keys: tuple[str, ...]) -> list[Fault]:
        """Return what happens to an operation, and count it: at once, so that those which come meanwhile see it."""
        due = []
        for fault in self._faults:
            if fault.concerns(operation, keys) and self._chosen(fault):
                fault.hits += 1
                due.append(fault)
                if fault.ends:
                    break
        return due

    def _chosen(self, fault: Fault) -> bool:
        return fault.rate >= 1 or self._random.random() < fault.rate


_NUMBERS = {"latency": float, "rate": float, "times": int}
_FLAGS = ("drop", "disconnect")
_TEXTS = ("operation", "key", "message")


def _fields(text: str) -> dict[str, object]:
    found: dict[str, object] = {}
    for part in text.split(","):
        name, is_given, value = (each.strip() for each in part.partition("="))
        if name in _FLAGS and not is_given:
            found[name] = True
        elif name in _TEXTS and is_given:
            found[name] = value
        elif name in _NUMBERS and is_given:
            try:
                found[name] = _NUMBERS[name](value)
            except ValueError:
                raise ValueError(f"{name} in the fault {text!r} is no number: {value!r}") from None
        elif name == "status" and value.upper() in grpc.StatusCode.__members__:
            found[name] = grpc.StatusCode[value.upper()]
        else:
            known = ", ".join([*(f"{each}=…" for each in (*_TEXTS, *_NUMBERS, "status")), *_FLAGS])
            raise ValueError(f"{part.strip()!r} in the fault {text!r} is none of {known}")
    return found
