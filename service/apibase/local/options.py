"""How a stack is to be started."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from apibase.local.binaries.dapr_tool import SERIES

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from apibase.local.events import Event
    from apibase.local.sidecar import Platform
    from apibase.local.toolbox import Toolbox
    from apibase.local.topology import AppSpec, Topology


def _ignore(_: Event) -> None:
    """Take an event and do nothing with it."""


@dataclass(frozen=True)
class StackOptions:
    """Every field has a default that starts the whole topology, once, and leaves nothing behind."""

    apps: frozenset[str] | None = None
    """The apps to start; None for all."""
    replicas: Mapping[str, int] = field(default_factory=dict)
    """How many of an app; 1 where it isn't named."""
    env: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Environment variables by app id, for the app and its sidecar; they win over the topology file."""
    sidecar_only: frozenset[str] = frozenset()
    """Apps that somebody else starts: they get a port and a sidecar."""
    foreground: str = ""
    """The app that gets our terminal: its sidecar is started with the others, itself by `run_foreground`."""
    fixed_ports: bool = False
    """Use the ports that the topology file names."""
    data_dir: Path | None = None
    """Where the backends keep their data from run to run; None for the run's own folder."""
    log_runs: Path | None = None
    """A folder in which this run gets a folder for its logs, and old runs' are removed."""
    log_dir: Path | None = None
    """Where the logs go, without `log_runs`; None for the run's own folder, which is removed at the end."""
    state_file: Path | None = None
    """The note by which other commands find the stack; None to leave none."""
    join: Platform | None = None
    """Another stack's backends, control plane and name resolution, to be used instead of starting any."""
    zipkin: bool = False
    """Whether to start a Zipkin, and have every call of the apps and their sidecars traced to it."""
    otlp: str = ""
    """The address (`host:port`) of a receiver of OTLP over gRPC without TLS, to which every call is traced."""
    dapr: str = SERIES
    """The series of Dapr to run, where `tools` does not settle it."""
    tools: Toolbox | None = None
    """The programs to use; None to look for them."""
    lines: bool = False
    """Whether the processes' output is told, line by line, as events."""
    on_event: Callable[[Event], None] = _ignore

    def chosen(self, topology: Topology) -> list[AppSpec]:
        """The apps to start; `TopologyError` for an app that is named here and not there."""
        for app_id in {*(self.apps or ()), *self.replicas, *self.env, *self.sidecar_only}:
            topology.app(app_id)
        return [app for app in topology.apps if self.apps is None or app.app_id in self.apps]
