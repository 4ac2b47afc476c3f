"""Generate the Python code of Dapr's pluggable-component protocol into generated/dapr_components, or check that it is up to date.

The contracts are Dapr's, in .protos/ (`make protos`). Within Python they can't be at `dapr.proto.components.v1`, where their
package would put them: `dapr.proto` is the SDK's. So the modules are at `dapr_components.v1`, and name each other there; what
they register, file names included, is as Dapr has it. There are messages and no stubs of gRPC's: those ask for the version of
grpcio that generated them, and this code ships.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROTOS = ROOT / ".protos" / "dapr_components"
PACKAGE = "dapr/proto/components/v1"
TARGET = ROOT / "generated" / "dapr_components" / "v1"


def protoc(*arguments: str) -> None:
    """Run grpcio-tools' protoc."""
    done = subprocess.run(
        [sys.executable, "-m", "grpc_tools.protoc", *arguments], capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(f"component_stubs: {(done.stderr or done.stdout).strip()}")


def generate(scratch: Path) -> dict[str, str]:
    """Return the text of every generated file by its name."""
    contracts = [f"{PACKAGE}/{path.name}" for path in sorted((PROTOS / PACKAGE).glob("*.proto"))]
    if not contracts:
        sys.exit("component_stubs: there are no contracts in .protos/dapr_components; run `make protos`")
    # By way of descriptors, which carry no comments.
    descriptors = scratch / "components.binpb"
    protoc(f"--proto_path={PROTOS}", f"--descriptor_set_out={descriptors}", "--include_imports", *contracts)
    protoc(
        f"--descriptor_set_in={descriptors}",
        f"--python_out={scratch}",
        f"--plugin=protoc-gen-mypy={Path(sys.executable).parent / 'protoc-gen-mypy'}",
        f"--mypy_out=quiet:{scratch}",
        *contracts,
    )
    made = {path.name: path.read_text(encoding="utf-8") for path in (scratch / PACKAGE).glob("*.py*")}
    return {
        name: text.replace("from dapr.proto.components.v1 import", "from dapr_components.v1 import")
        for name, text in made.items()
    }


def main() -> None:
    """Write the code; with --check change nothing, and fail where it would."""
    with tempfile.TemporaryDirectory(prefix="apibase-components-") as scratch:
        wanted = generate(Path(scratch))
    there = {path.name: path.read_text(encoding="utf-8") for path in TARGET.glob("*.py*")}
    if "--check" in sys.argv[1:]:
        if there != wanted:
            stale = sorted(name for name in {*there, *wanted} if there.get(name) != wanted.get(name))
            sys.exit(f"component_stubs: run `make gen`; not what the contracts give: {', '.join(stale)}")
        return
    TARGET.mkdir(parents=True, exist_ok=True)
    for name in there.keys() - wanted.keys():
        (TARGET / name).unlink()
    for name, text in wanted.items():
        if there.get(name) != text:
            (TARGET / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
