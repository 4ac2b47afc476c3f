"""Building Dapr's own executables from their module, as released, with Go: once, into the cache.

Dapr's `go.mod` has replace lines, so `go install` refuses it: a module of ours repeats them (`tools/dapr/<series>`).
"""

from __future__ import annotations

import re
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from apibase.local.cache import cache_folder, ensure
from apibase.local.child import run_logged, tail
from apibase.local.errors import with_tail
from apibase.local.go_tool import Go, build_environment, find_go
from apibase.local.installed import Version, first_version
from apibase.local.pinned import digest, host_platform, tools_folder
from apibase.local.report import Progress, ToolMissing

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

COMMANDS = ("scheduler", "placement", "sentry", "daprd")
"""What is built, in this order: daprd last, because it takes longer than the others together."""

_TAGS = "allcomponents"  # `stablecomponents` lacks some that we use; without a tag daprd panics at its start.
_LINK = "-s -w -X github.com/dapr/dapr/pkg/buildinfo.version={0} -X github.com/dapr/kit/logger.DaprVersion={0}"
_REQUIRED = re.compile(r"^\s*(?:require\s+)?github\.com/dapr/dapr v(\S+)", re.MULTILINE)
_GO_LINE = re.compile(r"^go (\S+)$", re.MULTILINE)


@dataclass(frozen=True)
class DaprModule:
    """The pinned module of one series: the version of Dapr that it builds, and the oldest Go that can."""

    folder: Path
    version: str
    go: Version


def dapr_module(series: str) -> DaprModule:
    """Return the pinned module of a series such as "1.18"; `ToolMissing` names the series that there are."""
    parent = tools_folder() / "dapr"
    known = sorted(folder.name for folder in parent.iterdir() if (folder / "go.mod").is_file())
    if series not in known:
        raise ToolMissing(
            f"Dapr {series} is not a series that can be built here: there is {', '.join(known) or 'none'}"
        )
    text = (parent / series / "go.mod").read_text()
    dapr, go = _REQUIRED.search(text), _GO_LINE.search(text)
    least = first_version(go[1]) if go else None
    if dapr is None or least is None:
        raise ToolMissing(
            f"{parent / series / 'go.mod'} requires no Dapr, or names no Go version: install apibase again"
        )
    return DaprModule(parent / series, dapr[1], least)


def build_dapr(module: DaprModule, progress: Progress, commands: Sequence[str] = COMMANDS) -> Path:
    """Return the cache folder with the executables `commands`, built first if it isn't there: 4 to 8 minutes on 2 cores.

    Raises `ToolMissing` when there is no Go to build with, or when a build fails: then with the last lines of its output.
    """
    files = [module.folder / "go.mod", module.folder / "go.sum"]
    recipe = f"{_TAGS} {_LINK} {' '.join(commands)}"
    names = "dapr" if tuple(commands) == COMMANDS else f"dapr-{'-'.join(commands)}"
    key = "-".join((names, module.version, digest(files, recipe), *host_platform()))
    what = f"Dapr {module.version}"

    def make(scratch: Path) -> Path:
        try:
            go = find_go(module.go, progress)
        except ToolMissing as error:
            raise ToolMissing(f"{what} is not installed and can't be built: {error}") from error
        build = _Build(module, go, scratch, cache_folder() / key, progress)
        return build.run(files, commands)

    return ensure(key, commands, make, what, progress)


class _Build:
    """One build in a scratch folder; its log and, for a Go of ours, its caches lie beside the folder to be."""

    def __init__(self, module: DaprModule, go: Go, scratch: Path, place: Path, progress: Progress) -> None:  # noqa: PLR0913, PLR0917
        self._what = f"Dapr {module.version}"
        self._version = module.version
        self._go = go
        self._scratch = scratch
        self._log = place.with_name(f"{place.name}.log")
        self._caches = place.with_name(f"{place.name}.go")
        self._progress = progress

    def run(self, files: Sequence[Path], commands: Sequence[str]) -> Path:
        out = self._scratch / "bin"
        source = self._scratch / "module"
        for folder in (out, source):
            folder.mkdir()
        for file in files:
            shutil.copyfile(file, source / file.name)
        self._log.unlink(missing_ok=True)
        env = build_environment(self._go, self._caches, self._scratch)
        self._progress(
            f"{self._what}: building from source with Go {self._go.version}, once; 4 to 8 minutes on 2 cores"
        )
        for number, command in enumerate(commands, 1):
            self._build(command, f"{command} ({number} of {len(commands)})", source, out, env)
        shutil.rmtree(self._caches, ignore_errors=True)
        return out

    def _build(self, command: str, label: str, source: Path, out: Path, env: dict[str, str]) -> None:  # noqa: PLR0913, PLR0917
        package = f"github.com/dapr/dapr/cmd/{command}"
        started = time.monotonic()
        self._progress(f"{self._what}: {label}: building")
        code = run_logged(
            [self._go.executable, "build", "-v", "-mod=readonly", "-trimpath", "-tags", _TAGS]
            + ["-ldflags", _LINK.format(self._version), "-o", out / command, package],
            cwd=source,
            env=env,
            log=self._log,
            tick=self._tick(label, package),
        )
        if code:
            failed = f"{self._what}: building {command} failed (go ended with {code})"
            raise ToolMissing(with_tail(failed, self._log, tail(self._log)))
        self._progress(f"{self._what}: {label}: done in {time.monotonic() - started:.0f} s")

    def _tick(self, label: str, package: str) -> Callable[[float, str], None]:
        return lambda elapsed, output: self._progress(
            f"{self._what}: {label}: {phase(output, package)}, {elapsed:.0f} s"
        )


def phase(output: str, package: str) -> str:
    """Say what `go build -v` is doing, from what it wrote so far: modules that it downloads, then packages as they compile."""
    lines = output.splitlines()
    downloads = sum(line.startswith("go: downloading ") for line in lines)
    if not lines:
        return "looking at what is to be built"
    if lines[-1].startswith("go: "):
        return f"downloading modules, {downloads} so far"
    if lines[-1] == package:
        return "linking"
    return f"compiling packages, {len(lines) - downloads} so far"
