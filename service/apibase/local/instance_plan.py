"""From an app of the topology to its replicas, each with ports, environment, a sidecar to start and an app to start."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from apibase.local.errors import StackError
from apibase.local.instance import Instance, app_environment, choose_ports, dapr_variables, plan_app, without_proxy
from apibase.local.log_levels import VARIABLE, levels_file
from apibase.local.sidecar import Platform, plan_sidecar

if TYPE_CHECKING:
    from pathlib import Path

    from apibase.local.options import StackOptions
    from apibase.local.ports import PortPool
    from apibase.local.toolbox import Toolbox
    from apibase.local.topology import AppSpec


class InstancePlanner:
    """Plans instances on one platform. Nothing is started here, so a wrong command is known before anything runs."""

    def __init__(
        self, options: StackOptions, tools: Toolbox, platform: Platform, ports: PortPool, *, run: Path, logs: Path
    ) -> None:
        self._options = options
        self._tools = tools
        self._platform = platform
        self._ports = ports
        self._run = run
        self._logs = logs

    def plan(self, app: AppSpec) -> list[Instance]:
        """The replicas of an app."""
        count = self._options.replicas.get(app.app_id, 1)
        if count < 1:
            message = f"{app.app_id}: {count} replicas; at least 1 is needed"
            raise StackError(message)
        return [self._replica(app, replica, count) for replica in range(count)]

    def _replica(self, app: AppSpec, replica: int, count: int) -> Instance:
        options = self._options
        label = app.app_id if count == 1 else f"{app.app_id}.{replica}"
        ports = choose_ports(app, self._ports, fixed=options.fixed_ports and replica == 0)
        # The backends' addresses win over the file's, which are defaults for other ways to run it.
        given = {**app.env, **self._platform.env, **options.env.get(app.app_id, {})}
        sidecar_env = {**without_proxy(os.environ), "TMPDIR": str(self._run / "tmp"), **given}
        awaited = app.calls_only or (
            app.started_by_us and app.app_id not in {options.foreground, *options.sidecar_only}
        )
        sidecar = plan_sidecar(
            self._tools.dapr.daprd, app, label, ports, self._platform, self._logs, sidecar_env, with_app=awaited
        )
        service = None
        if app.started_by_us:
            levels = {VARIABLE: str(levels_file(self._run, app.app_id))}
            env = app_environment(os.environ, levels, given, dapr_variables(app, ports))
            log = self._logs / f"{label}.log"
            service = plan_app(app, label, ports, env, log, foreground=app.app_id == options.foreground)
        return Instance(app, replica, label, ports, sidecar, service)
