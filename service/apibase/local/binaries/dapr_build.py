"""Building Dapr's own executables from their module, as released, with Go: once, into the cache.

Dapr's `go.mod` has replace lines, so `go install` refuses it: a module of ours repeats them (`tools/dapr/<series>`).
"""

from __future__ import annotations

import re
import shutil
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from apibase.local.binaries.cache import cache_folder, ensure
from apibase.local.binaries.child import run_logged, tail
from apibase.local.binaries.go_tool import Go, build_environment, find_go
from apibase.local.binaries.installed import Version, first_version
from apibase.local.binaries.pinned import digest, host_platform, tools_folder
from apibase.local.binaries.report import Progress, ToolMissing
from apibase.local.errors import with_tail

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

COMMANDS = ("scheduler", "placement", "sentry", "daprd")
"""What is built, in this order: daprd last, because it takes longer than the others together."""

_TAGS = "allcomponents"  # `stablecomponents` lacks some that we use; without a tag daprd panics at its start.
_LINK = "-s -w -X github.com/dapr/dapr/pkg/buildinfo.version={0} -X github.com/dapr/kit/logger.DaprVersion={0}"
_OTHERWISE = "`dapr init --slim --runtime-version {}` installs it, APIBASE_DAPR_BIN names a folder that has it"
_REQUIRED = re.compile(r"^\s*(?:require\s+)?github\.com/dapr/dapr v(\S+)", re.MULTILINE)
_GO_LINE = re.compile(r"^go (\S+)$", re.MULTILINE)
_TOOLCHAIN_LINE = re.compile(r"^toolchain go(\d+\.\d+)", re.MULTILINE)


@dataclass(frozen=True)
class DaprModule:
    """The pinned module of one series: the version of Dapr that it builds, and the oldest Go that can.

    `go_series`, such as "1.22", is the only one that can where a newer Go does not compile it: the module's toolchain line.
    """

    folder: Path
    version: str
    go: Version
    go_series: str = ""

    @property
    def files(self) -> tuple[Path, Path]:
        """The module's two files; `go.sum` has a hash for everything that the build reads."""
        return self.folder / "go.mod", self.folder / "go.sum"


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
    toolchain = _TOOLCHAIN_LINE.search(text)
    return DaprModule(parent / series, dapr[1], least, toolchain[1] if toolchain else "")


def build_dapr(module: DaprModule, progress: Progress, commands: Sequence[str] = COMMANDS) -> Path:
    """Return the cache folder with the executables `commands`, built first if it isn't there.

    All four take 4 to 8 minutes on 2 cores, downloads included. Raises `ToolMissing` when there is no Go to build with,
    or when a build fails: then with the last lines of its output.
    """
    recipe = f"{_TAGS} {_LINK} {' '.join(commands)}"
    names = "dapr" if tuple(commands) == COMMANDS else f"dapr-{'-'.join(commands)}"
    key = "-".join((names, module.version, digest(module.files, recipe), *host_platform()))
    what = f"Dapr {module.version}"
    caches = cache_folder() / f"{key}.go"

    def make(scratch: Path) -> Path:
        try:
            go = find_go(module.go, progress, module.go_series)
        except ToolMissing as error:
            message = f"{what} is not installed and can't be built: {error}; {_OTHERWISE.format(module.version)}"
            raise ToolMissing(message) from error
        env = build_environment(go, caches, scratch)
        return _Build(module, go, env, scratch, cache_folder() / f"{key}.log", progress).run(commands)

    folder = ensure(key, commands, make, what, progress)
    if caches.exists():
        progress(f"{what}: removing the modules and packages that only the build needed")
        shutil.rmtree(caches, ignore_errors=True)
    return folder


@dataclass(frozen=True)
class _Build:
    """One build in a scratch folder, with its log beside the folder to be."""

    module: DaprModule
    go: Go
    env: dict[str, str]
    scratch: Path
    log: Path
    progress: Progress

    def run(self, commands: Sequence[str]) -> Path:
        out = self.scratch / "bin"
        source = self.scratch / "module"
        out.mkdir()
        source.mkdir()
        for file in self.module.files:
            shutil.copyfile(file, source / file.name)
        self.log.unlink(missing_ok=True)
        what = f"Dapr {self.module.version}"
        self.progress(f"{what}: building it from source, once, with Go {self.go.version}")
        for number, command in enumerate(commands, 1):
            started = time.monotonic()
            label = f"{what}: {command}, {number} of {len(commands)}"
            self.progress(f"{label}: building")
            if code := self._build(command, label, source, out):
                failed = f"{what} can't be built: go ended with {code} at {command}"
                message = f"{failed}; {_OTHERWISE.format(self.module.version)}"
                raise ToolMissing(with_tail(message, self.log, tail(self.log)))
            self.progress(f"{label}: done in {time.monotonic() - started:.0f} s")
        return out

    def _build(self, command: str, label: str, source: Path, out: Path) -> int:
        package = f"github.com/dapr/dapr/cmd/{command}"
        flags = ["-v", "-mod=readonly", "-trimpath", "-tags", _TAGS, "-ldflags", _LINK.format(self.module.version)]
        return run_logged(
            [self.go.executable, "build", *flags, "-o", out / command, package],
            cwd=source,
            env=self.env,
            log=self.log,
            tick=lambda elapsed, output: self.progress(f"{label}: {phase(output, package)}, {elapsed:.0f} s"),
        )


def phase(output: str, package: str) -> str:
    """Say what `go build -v` is at, from what it wrote: modules as it downloads them, then packages as it compiles."""
    lines = output.splitlines()
    downloads = sum(line.startswith("go: downloading ") for line in lines)
    if not lines:
        return "reading the module graph"
    if lines[-1].startswith("go: "):
        return f"downloading modules, {downloads} so far"
    if lines[-1] == package:
        return "linking"
    return f"compiling packages, {len(lines) - downloads} so far"
