"""Which Vault runs here: the one that a variable names, an installed one, or the one built from source into the cache."""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

from apibase.local.binaries.cache import cache_folder, ensure, is_executable
from apibase.local.binaries.child import run_logged, tail
from apibase.local.binaries.dapr_build import phase
from apibase.local.binaries.go_tool import build_environment, find_go
from apibase.local.binaries.installed import dotted, explicit_path, first_version, on_path, reported
from apibase.local.binaries.pinned import digest, host_platform, tools_folder
from apibase.local.binaries.report import Progress, ToolMissing, to_stderr
from apibase.local.errors import with_tail

if TYPE_CHECKING:
    from pathlib import Path

VARIABLE = "APIBASE_VAULT"

_OLDEST = (1, 12)
_OLDEST_GO = (1, 22, 5)
_PACKAGE = "github.com/hashicorp/vault"
_LINK = "-s -w"
_REQUIRED = re.compile(r"^\s*(?:require\s+)?github\.com/hashicorp/vault v(\S+)", re.MULTILINE)
_OTHERWISE = f"install it from HashiCorp's own packages, or name its executable in {VARIABLE}"


@dataclass(frozen=True)
class VaultBinaries:
    """Vault's version, where it comes from, and its executable."""

    version: str
    origin: str
    vault: Path


def vault_binaries(progress: Progress = to_stderr) -> VaultBinaries:
    """Return Vault 1.12 or newer, built once if none is installed (6 to 10 minutes on 2 cores, downloads included).

    In this order: the file that `APIBASE_VAULT` names; `vault` on PATH; the cache.

    Raises `ToolMissing`, with the way to get it, when there is none and it can't be built.
    """
    if vault := explicit_path(VARIABLE):
        if version := _fitting_version(vault):
            return VaultBinaries(version, VARIABLE, vault)
        raise ToolMissing(f"{VARIABLE} is {vault}, which is no Vault 1.12 or newer: correct it or unset it")
    for vault in on_path("vault"):
        if version := _fitting_version(vault):
            return VaultBinaries(version, f"installed in {vault.parent}", vault)
    module = tools_folder() / "vault"
    required = _REQUIRED.search((module / "go.mod").read_text())
    if required is None:
        raise ToolMissing(f"{module / 'go.mod'} requires no Vault: install apibase again")
    return VaultBinaries(required[1], "built from source", _build(module, required[1], progress) / "vault")


def _fitting_version(vault: Path) -> str:
    """Return the version of this Vault, "" if it is none that fits."""
    text = reported(vault, "version") if is_executable(vault) else ""
    version = first_version(text) if text.startswith("Vault v") else None
    return dotted(version) if version and version >= _OLDEST else ""


def _build(module: Path, version: str, progress: Progress) -> Path:
    """Return the cache's folder with the executable."""
    files = module / "go.mod", module / "go.sum"
    key = "-".join(("vault", version, digest(files, f"{_PACKAGE} {_LINK}"), *host_platform()))
    what = f"Vault {version}"
    caches = cache_folder() / f"{key}.go"
    log = cache_folder() / f"{key}.log"

    def make(scratch: Path) -> Path:
        try:
            go = find_go(_OLDEST_GO, progress)
        except ToolMissing as error:
            raise ToolMissing(f"{what} is not installed and can't be built: {error}; {_OTHERWISE}") from error
        out, source = scratch / "bin", scratch / "module"
        out.mkdir()
        source.mkdir()
        for file in files:
            shutil.copyfile(file, source / file.name)
        log.unlink(missing_ok=True)
        progress(f"{what}: building it from source, once, with Go {go.version}")
        code = run_logged(
            [
                go.executable,
                *("build", "-v", "-mod=readonly", "-trimpath", "-ldflags", _LINK, "-o", out / "vault", _PACKAGE),
            ],
            cwd=source,
            env=build_environment(go, caches, scratch),
            log=log,
            tick=lambda elapsed, output: progress(f"{what}: {phase(output, _PACKAGE)}, {elapsed:.0f} s"),
        )
        if code:
            raise ToolMissing(with_tail(f"{what} can't be built: go ended with {code}; {_OTHERWISE}", log, tail(log)))
        return out

    folder = ensure(key, ["vault"], make, what, progress)
    if caches.exists():
        progress(f"{what}: removing the modules and packages that only the build needed")
        shutil.rmtree(caches, ignore_errors=True)
    return folder
