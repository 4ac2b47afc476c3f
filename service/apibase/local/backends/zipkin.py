"""An embedded Zipkin: keeps spans in memory and shows them, on a loopback port."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from apibase.local.ports import LOOPBACK
from apibase.local.probes import http_ok
from apibase.local.process import ProcessSpec
from apibase.local.service import Service

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from apibase.local.binaries import ZipkinBinaries

# A small heap, and the compiler and collector that start fastest.
_JVM = ("-Xms64m", "-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Djava.awt.headless=true")


def plan_zipkin(binaries: ZipkinBinaries, port: int, logs: Path, env: Mapping[str, str]) -> Service:
    """Zipkin's collector, its query API and its pages on one port; what it has collected ends with it."""
    options = (
        f"--armeria.ports[0].ip={LOOPBACK}",
        f"--armeria.ports[0].port={port}",
        "--armeria.ports[0].protocols[0]=http",
        "--zipkin.storage.type=mem",
        "--zipkin.storage.mem.max-spans=100000",
    )
    spec = ProcessSpec(
        "zipkin", (str(binaries.java), *_JVM, "-jar", str(binaries.jar), *options), env, logs, logs / "zipkin.log"
    )
    return Service(spec, partial(http_ok, port, "/health"), "/health is not 200", within=90, ports=(port,))
