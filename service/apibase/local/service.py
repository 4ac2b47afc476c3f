"""A process together with the way to tell that it is ready."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from apibase.local.probes import Probe
    from apibase.local.process import ProcessSpec


@dataclass(frozen=True)
class Service:
    """What to start, on which ports, and when it counts as ready."""

    spec: ProcessSpec
    ready: Probe
    waits_for: str
    """What the probe asks, in words for a person."""
    within: float
    """Seconds until its absence is an error."""
    ports: tuple[int, ...] = ()
    """To be released to it just before the start."""
    meanwhile: str = ""
    """What is shown while it is waited for, where `waits_for` is for the one who has to find out why it never came."""
