"""A real Prometheus, as Debian has it: found, started on a configuration, and asked."""

from __future__ import annotations

import asyncio
import contextlib
import json
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from apibase.local.binaries.installed import explicit_path, on_path
from apibase.local.binaries.report import ToolMissing
from apibase.local.ports import PortPool
from apibase.local.process import ManagedProcess, ProcessSpec
from tests.sidecar.shop import eventually

VARIABLE = "APIBASE_PROMETHEUS_BIN"


def prometheus_tool(name: str) -> Path:
    """Return `prometheus` or `promtool`: of the folder that the variable names, or on PATH."""
    folder = explicit_path(VARIABLE)
    found = folder / name if folder else next(on_path(name), None)
    if found is None:
        remedy = f"apt-get install prometheus, or brew install prometheus; {VARIABLE} names the folder of one elsewhere"
        raise ToolMissing(f"no {name} is installed: {remedy}")
    return found


@dataclass(frozen=True)
class Prometheus:
    """One that runs, at `address`."""

    address: str

    async def query(self, expression: str) -> list[dict[str, Any]]:
        """Return the series that an expression gives now; fail with Prometheus' own words where it is none."""
        return (await self._get("query", query=expression))["result"]

    async def alerts(self) -> set[str]:
        """Return the names of the alerts that are pending or firing."""
        return {alert["labels"]["alertname"] for alert in (await self._get("alerts"))["alerts"]}

    async def ready(self) -> bool:
        with contextlib.suppress(OSError):
            await asyncio.to_thread(urllib.request.urlopen, f"http://{self.address}/-/ready")
            return True
        return False

    async def _get(self, path: str, **parameters: str) -> Any:
        url = f"http://{self.address}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"

        def read() -> Any:
            try:
                with urllib.request.urlopen(url) as answer:
                    return json.load(answer)
            except urllib.error.HTTPError as error:
                raise AssertionError(f"{parameters}: {error.read().decode()}") from error

        return (await asyncio.to_thread(read))["data"]


@contextlib.asynccontextmanager
async def scraping(folder: Path, *configs: Path, rules: Path) -> AsyncIterator[Prometheus]:
    """Run a Prometheus that scrapes the targets of these configurations every second and tries the rules."""
    given = [yaml.safe_load(config.read_text()) for config in configs]
    every = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    targets: dict[str, list[Any]] = {}
    for job in (job for config in given for job in config["scrape_configs"]):
        targets.setdefault(job["job_name"], []).extend(job["static_configs"])
    merged = {
        "global": every,
        "rule_files": [str(rules)],
        "scrape_configs": [{"job_name": job, "static_configs": found} for job, found in targets.items()],
    }
    config = folder / "prometheus.yml"
    config.write_text(yaml.safe_dump(merged))
    ports = PortPool()
    port = ports.take()
    ports.release(port)
    address = f"127.0.0.1:{port}"
    command = (
        str(prometheus_tool("prometheus")),
        f"--config.file={config}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address={address}",
    )
    process = ManagedProcess(ProcessSpec("Prometheus", command, {}, folder, folder / "prometheus.log"))
    process.start()
    try:
        prometheus = Prometheus(address)
        await eventually(prometheus.ready, within=30, what="Prometheus is ready")
        yield prometheus
    finally:
        await process.stop()
        ports.close()
