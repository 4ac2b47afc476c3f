"""An embedded Redis: one server for all components that name one, on a loopback port, with every write on disk."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from apibase.local.ports import LOOPBACK
from apibase.local.probes import redis_ok
from apibase.local.process import ProcessSpec
from apibase.local.service import Service

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from apibase.local.binaries import RedisBinaries


def plan_redis(binaries: RedisBinaries, port: int, data: Path, logs: Path, env: Mapping[str, str]) -> Service:
    """A server that survives a kill without losing an acknowledged write: append-only file, synced always."""
    data.mkdir(parents=True, exist_ok=True)
    options = {
        "bind": LOOPBACK,
        "port": str(port),
        "dir": str(data),
        "protected-mode": "yes",
        "appendonly": "yes",
        "appendfsync": "always",
        "save": "",
        "daemonize": "no",
    }
    arguments = [word for key, value in options.items() for word in (f"--{key}", value)]
    spec = ProcessSpec("redis", (str(binaries.server), *arguments), env, data, logs / "redis.log")
    return Service(spec, partial(redis_ok, port), "it does not answer PING", within=20, ports=(port,))
