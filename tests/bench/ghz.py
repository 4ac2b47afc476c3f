"""ghz, a compiled load generator: built once into the cache from the pinned module, run, and read."""

from __future__ import annotations

import asyncio
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from apibase.local.binaries.cache import cache_folder, ensure
from apibase.local.binaries.child import run_logged, tail
from apibase.local.binaries.go_tool import build_environment, find_go
from apibase.local.binaries.pinned import digest, host_platform, tools_folder
from apibase.local.binaries.report import ToolMissing, to_stderr
from apibase.local.errors import with_tail

if TYPE_CHECKING:
    from collections.abc import Mapping

_PACKAGE = "github.com/bojand/ghz/cmd/ghz"
_LEAST_GO = (1, 23)


@dataclass(frozen=True, slots=True)
class Load:
    """What ghz saw: calls that ended OK in a second, calls that did not end so, latencies in milliseconds, how long it took."""

    per_second: float
    failed: int
    p50: float
    p99: float
    seconds: float


def ghz() -> Path:
    """Return ghz's executable, built first if it is not in the cache (a minute)."""
    module = tools_folder() / "ghz"
    key = "-".join(("ghz", digest([module / "go.mod", module / "go.sum"], _PACKAGE), *host_platform()))
    caches = cache_folder() / f"{key}.go"

    def make(scratch: Path) -> Path:
        go = find_go(_LEAST_GO, to_stderr)
        out, source = scratch / "bin", scratch / "module"
        out.mkdir()
        shutil.copytree(module, source)
        log = cache_folder() / f"{key}.log"
        code = run_logged(
            [go.executable, "build", "-mod=readonly", "-trimpath", "-o", out / "ghz", _PACKAGE],
            cwd=source,
            env=build_environment(go, caches, scratch),
            log=log,
            tick=lambda elapsed, _: to_stderr(f"ghz: building, {elapsed:.0f} s"),
        )
        if code:
            raise ToolMissing(with_tail(f"ghz can't be built: go ended with {code}", log, tail(log)))
        return out

    folder = ensure(key, ["ghz"], make, "ghz", to_stderr)
    shutil.rmtree(caches, ignore_errors=True)
    return folder / "ghz"


async def load(
    address: str,
    method: str,
    request: bytes,
    *,
    protoset: Path,
    callers: int,
    seconds: float = 0.0,
    calls: int = 0,
    messages: int = 0,
    headers: Mapping[str, str] | None = None,
    core: int | None = None,
) -> Load:
    """Call a method over one connection, as daprd has one, and return what came of it.

    It goes on for some `seconds`, or until a number of `calls` is reached; each call has a deadline of 20 s. Where requests stream,
    each call sends the request so many times as `messages` says. With a `core`, ghz runs on that one alone.
    """
    process = await asyncio.create_subprocess_exec(
        *pinned(core),
        ghz(),
        *("--insecure", "--protoset", str(protoset), "--call", method, "--binary"),
        *("--concurrency", str(callers), "--connections", "1", "--timeout", "20s"),
        *(("--total", str(calls)) if calls else ("--duration", f"{seconds}s", "--duration-stop", "wait")),
        *(("--stream-call-count", str(messages)) if messages else ()),
        *(("--metadata", json.dumps(headers)) if headers else ()),
        *("--format", "json", address),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        printed, errors = await process.communicate(request)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        raise RuntimeError(f"ghz ended with {process.returncode}: {errors.decode()}")
    report = json.loads(printed)
    ended = report["statusCodeDistribution"]
    good = ended.pop("OK", 0)
    latencies = {each["percentage"]: each["latency"] / 1e6 for each in report["latencyDistribution"] or ()}
    took = report["total"] / 1e9
    return Load(good / took, sum(ended.values()), latencies.get(50, 0.0), latencies.get(99, 0.0), took)


def pinned(core: int | None) -> tuple[str, ...]:
    """Return what goes before a command so that it runs on one core."""
    return () if core is None else ("taskset", "--cpu-list", str(core))
