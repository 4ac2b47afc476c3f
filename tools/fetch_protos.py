"""Fetch the contracts that ours import into .protos/, where buf and the generator read them; nothing is fetched twice.

`buf/validate` comes from its Go module, pinned with its checksum in tools/protos, the protocol of Dapr's pluggable
components from Dapr's own, the version that is built here; `google/type` and `google/rpc` come from the installed
googleapis-common-protos.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from importlib.metadata import distribution, version
from pathlib import Path

from apibase.local.binaries.dapr_build import dapr_module
from apibase.local.binaries.dapr_tool import SERIES
from apibase.local.binaries.go_tool import build_environment, find_go
from apibase.local.binaries.report import ToolMissing

ROOT = Path(__file__).resolve().parent.parent
TARGET = ROOT / ".protos"
MODULE = "github.com/bufbuild/protovalidate"
DAPR = "github.com/dapr/dapr"
_LEAST_GO = (1, 21)


def fetch_protovalidate(target: Path) -> None:
    """Copy `buf/validate/validate.proto` out of the module that tools/protos/go.mod names."""
    copy_from_module(ROOT / "tools" / "protos", MODULE, _LEAST_GO, "proto/protovalidate", "buf/validate", target)


def fetch_components(target: Path) -> None:
    """Copy the protocol of pluggable components out of Dapr's module."""
    dapr = dapr_module(SERIES)
    copy_from_module(dapr.folder, DAPR, dapr.go, "", "dapr/proto/components/v1", target)


def copy_from_module(pinned: Path, module: str, least: tuple[int, ...], root: str, package: str, target: Path) -> None:
    """Copy the contracts of a package out of a Go module that `pinned`'s go.mod and go.sum name."""
    with tempfile.TemporaryDirectory(prefix="apibase-protos-") as scratch:
        go = find_go(least, print)
        done = subprocess.run(
            [go.executable, "mod", "download", "-json", module],
            cwd=pinned,
            env=build_environment(go, Path(scratch) / "caches", Path(scratch)),
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            sys.exit(f"fetch_protos: go could not download {module}:\n{done.stdout}{done.stderr}")
        destination = target / package
        destination.mkdir(parents=True)
        for source in (Path(json.loads(done.stdout)["Dir"]) / root / package).glob("*.proto"):
            shutil.copyfile(source, destination / source.name)


def fetch_googleapis(target: Path) -> None:
    """Copy the google/type and google/rpc contracts out of the installed package."""
    for file in distribution("googleapis-common-protos").files or ():
        if file.suffix == ".proto" and file.parts[:2] in {("google", "type"), ("google", "rpc")}:
            destination = target / Path(*file.parts)
            destination.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(Path(str(file.locate())), destination)


def main() -> None:
    """Fetch what is missing or of another version than the pinned one."""
    wanted = {
        "protovalidate": ((ROOT / "tools" / "protos" / "go.sum").read_text(), fetch_protovalidate),
        "dapr_components": (dapr_module(SERIES).version, fetch_components),
        "googleapis": (version("googleapis-common-protos"), fetch_googleapis),
    }
    for name, (stamp, fetch) in wanted.items():
        target = TARGET / name
        stamp_file = TARGET / f"{name}.stamp"
        if target.is_dir() and stamp_file.is_file() and stamp_file.read_text() == stamp:
            continue
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
        try:
            fetch(target)
        except ToolMissing as error:
            sys.exit(f"fetch_protos: {error}")
        stamp_file.write_text(stamp)
        print(f"fetched the {name} contracts")


if __name__ == "__main__":
    main()
