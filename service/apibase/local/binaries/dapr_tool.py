"""Which Dapr runs here: the one that a variable names, an installed one that fits, or the one built into the cache."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from apibase.local.binaries.cache import is_executable
from apibase.local.binaries.dapr_build import COMMANDS, build_dapr, dapr_module
from apibase.local.binaries.go_build_info import go_program
from apibase.local.binaries.installed import explicit_path, fits, need_executables, on_path, release, reported
from apibase.local.binaries.report import Progress, ToolMissing, to_stderr

if TYPE_CHECKING:
    from collections.abc import Iterator

VARIABLE = "APIBASE_DAPR_BIN"
SERIES = "1.18"
"""The series of Dapr that is used unless another is asked for."""

_NEEDED = ("daprd", "placement", "scheduler")


@dataclass(frozen=True)
class DaprBinaries:
    """Dapr's executables, of one version, and where they come from.

    `sentry` is None where an installation has none, as `dapr init --slim` leaves it: `sentry_binary` gets one.
    """

    version: str
    origin: str
    daprd: Path
    placement: Path
    scheduler: Path
    sentry: Path | None

    @property
    def series(self) -> str:
        """The "1.18" of 1.18.2; a build of one's own, which has no number, is taken for one of the default series."""
        version = release(self.version)
        return f"{version[0]}.{version[1]}" if version else SERIES


def dapr_binaries(series: str = SERIES, progress: Progress = to_stderr) -> DaprBinaries:
    """Return daprd, placement and scheduler of a series, building them once if they aren't there (4 to 8 minutes).

    In this order: the folder that `APIBASE_DAPR_BIN` names, of whatever patch version; an installation, that is a
    folder on PATH or `~/.dapr/bin` which has all three, of one released version that is not older than the one that is
    built here (everything is tested with that one); the cache.

    Raises `ToolMissing`, with the way to get it, when there is none and it can't be built.
    """
    if folder := explicit_path(VARIABLE):
        return _explicit(folder, series)
    module = dapr_module(series)
    for folder in _installations():
        version = reported(folder / "daprd")
        if fits(version, module.version):
            if not (other := _strangers(folder, version)):
                return _binaries(folder, version, f"installed in {folder}")
            progress(
                f"Dapr {version} in {folder} is passed over: {', '.join(other)} there is missing or of another version"
            )
    folder = build_dapr(module, progress)
    return _binaries(folder, module.version, "built from source")


def sentry_binary(dapr: DaprBinaries, progress: Progress = to_stderr) -> Path:
    """Return the sentry for these executables: their own, else one of the same series, built once (a minute or two).

    Raises `ToolMissing` as `dapr_binaries` does.
    """
    if dapr.sentry:
        return dapr.sentry
    return build_dapr(dapr_module(dapr.series), progress, ["sentry"]) / "sentry"


def _explicit(folder: Path, series: str) -> DaprBinaries:
    need_executables(VARIABLE, folder, *_NEEDED)
    version = reported(folder / "daprd")
    if not version:
        raise ToolMissing(f"{VARIABLE} is {folder}, whose daprd does not tell its version: correct it or unset it")
    # A build of one's own reports `edge`, a pre-release `1.18.3-rc.1`: whoever names its folder knows what it is.
    if release(version) and not version.startswith(f"{series}."):
        raise ToolMissing(
            f"{VARIABLE} is {folder}, which has Dapr {version} where {series} is wanted: correct it or unset it"
        )
    return _binaries(folder, version, VARIABLE)


def _installations() -> Iterator[Path]:
    """Yield the folders with a daprd: those of PATH, what links there lead to, and the Dapr CLI's."""
    seen = set()
    cli = Path("~/.dapr/bin/daprd").expanduser()
    for daprd in (*on_path("daprd"), *([cli] if is_executable(cli) else [])):
        for folder in (daprd.parent, daprd.resolve().parent):
            if folder not in seen and is_executable(folder / "daprd"):
                seen.add(folder)
                yield folder


def _strangers(folder: Path, version: str) -> list[str]:
    """Return which of the executables beside daprd aren't Dapr's of this version: they can't be asked, but read."""
    return [name for name in _NEEDED if name != "daprd" and not _is_dapr(folder / name, version)]


def _is_dapr(file: Path, version: str) -> bool:
    program = go_program(file) if is_executable(file) else None
    return program is not None and program.package == _package(file.name) and program.version in {"", version}


def _package(name: str) -> str:
    return f"github.com/dapr/dapr/cmd/{name}"


def _binaries(folder: Path, version: str, origin: str) -> DaprBinaries:
    found = {name: folder / name for name in COMMANDS}
    sentry = found.pop("sentry")
    program = go_program(sentry) if is_executable(sentry) else None
    ours = program is not None and program.package == _package("sentry")
    return DaprBinaries(version, origin, **found, sentry=sentry if ours else None)
