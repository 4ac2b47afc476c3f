"""What a stack tells while it works, for a console or a test to show."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class EventKind(StrEnum):
    """What happened."""

    PROGRESS = "progress"
    """Something goes on; the text says what."""
    WAITING = "waiting"
    """Started, and not ready yet; the text says what it is waited for."""
    READY = "ready"
    """Ready; the text says after how long."""
    LINE = "line"
    """A line of a process's output."""
    STOPPING = "stopping"
    """Being stopped."""
    STOPPED = "stopped"
    """Gone."""
    DIED = "died"
    """Ended by itself; the text says how."""


class Role(StrEnum):
    """What a process is for."""

    APP = "app"
    SIDECAR = "sidecar"
    PLATFORM = "platform"
    STACK = "stack"


@dataclass(frozen=True)
class Event:
    """One thing that happened to one process, or to the stack itself."""

    kind: EventKind
    role: Role
    subject: str
    """The process's name: `postgres`, `orders`, `orders' sidecar`."""
    text: str = ""
    app_id: str = ""
