"""The sides that the contract suite runs on: the stand-in sidecar, and the real daprd of each series, with the same components."""

from __future__ import annotations

import json
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from apibase import Settings, Sidecar
from apibase.local.options import StackOptions
from apibase.local.ports import PortPool
from apibase.local.stack import Stack
from apibase.local.topology import Topology, read_topology
from apibase.testing.stand_in.server import Server
from tests.plugins.stack_logs import running
from tests.sidecar.redis_values import RedisValues

HERE = Path(__file__).parent
TOPOLOGY = HERE / "compose" / "dapr.yaml"
SECRETS = {
    "database": "hunter2-of-the-database",
    "api-key": "key-of-the-provider",
    "nested": {"user": "ann", "pin": "1234"},
}
# The configuration stores, by the number of their database in Redis.
CONFIGURATION = {"settings": 0, "defaults": 1}


@dataclass
class Side:
    """One sidecar under test. `name` is `stand-in`, or the series of the real daprd."""

    name: str
    settings: Settings
    """Those of the app `contract`, which is beside it."""
    sidecar: Sidecar
    files: Path
    """The folder of the binding `files`."""
    stack: Stack | None = None
    server: Server | None = None
    """The stand-in itself."""
    _keys: str = field(default_factory=lambda: uuid.uuid4().hex[:8])
    _number: int = 0

    def key(self, name: str = "key") -> str:
        """Return a key that no other test has."""
        self._number += 1
        return f"{name}-{self._keys}-{self._number}"

    async def set_configuration(
        self, key: str, value: str | None, *, version: str = "", store: str = "settings"
    ) -> None:
        """Change a value in a configuration store, past the sidecar; None takes it away."""
        if self.server is not None:
            items = self.server.configurations.store(store)
            items.delete(key) if value is None else items.set(key, value, version)
            return
        assert self.stack is not None
        values = RedisValues(self.stack.environment("contract")["REDIS_HOST"], CONFIGURATION[store])
        await (values.delete(key) if value is None else values.set(key, value, version))


@asynccontextmanager
async def real(series: str, folder: Path) -> AsyncIterator[Side]:
    """Run the real daprd of a series, with its backends."""
    environment = write_files(folder)
    options = StackOptions(env={"contract": environment}, dapr=series)
    ports = PortPool()
    app_port = ports.take()
    ports.release(app_port)
    async with Stack(_with_port(read_topology(TOPOLOGY), app_port), options) as stack:
        running.append(stack)
        settings = Settings(
            app_id="contract",
            app_port=int(stack.environment("contract")["APP_PORT"]),
            dapr_grpc_endpoint=stack.sidecar("contract").grpc_address,
            dapr_http_port=int(stack.environment("contract")["DAPR_HTTP_PORT"]),
        )
        sidecar = Sidecar(settings)
        await sidecar.wait_ready(20)
        try:
            yield Side(series, settings, sidecar, folder / "files", stack)
        finally:
            await sidecar.close()
            running.remove(stack)
            ports.close()


def _with_port(topology: Topology, port: int) -> Topology:
    """Return it with another port of the app's: as that is ours to open, the stack would take the file's, and two suites the same."""
    apps = (
        replace(app, ports=replace(app.ports, app=port)) if app.app_id == "contract" else app for app in topology.apps
    )
    return replace(topology, apps=tuple(apps))


@asynccontextmanager
async def stand_in(folder: Path) -> AsyncIterator[Side]:
    """Run the stand-in, in this process, with the same resource files."""
    app = read_topology(TOPOLOGY).app("contract")
    ports = PortPool()
    app_port = ports.take()
    ports.release(app_port)
    server = Server(app_id="contract", resources=app.resources, env=write_files(folder), http_port=0, clock_runs=True)
    async with server:
        server.expect(f"127.0.0.1:{app_port}", probes=True)
        sidecar = Sidecar(server.settings(app_port=app_port))
        try:
            yield Side("stand-in", sidecar.settings, sidecar, folder / "files", server=server)
        finally:
            await sidecar.close()
            ports.close()


def write_files(folder: Path) -> dict[str, str]:
    """Write what components read from files, and return the variables that name them."""
    (folder / "files").mkdir()
    (folder / "secrets.json").write_text(json.dumps({**SECRETS, "sqlite-file": str(folder / "by-reference.db")}))
    return {
        "SECRETS_FILE": str(folder / "secrets.json"),
        "SQLITE_FILE": str(folder / "state.db"),
        "FILES_FOLDER": str(folder / "files"),
        "CONTRACT_SECRET_PROVIDER": "key-in-the-environment",
    }
