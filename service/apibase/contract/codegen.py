"""Python code and a descriptor set from contracts, with grpcio-tools and mypy-protobuf.

Imports that aren't among the contracts themselves (`dapr_contract/v1`, `buf/validate`, `google/type`) are taken from the
installed Python modules' own descriptors, so a project needs no copy of anybody's `.proto` files.
"""

from __future__ import annotations

import filecmp
import importlib
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet, MethodDescriptorProto
from google.rpc import error_details_pb2

from apibase.contract import LISTENER_OPTIONS
from apibase.contract.positions import DESCRIPTORS

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from google.protobuf.descriptor import FileDescriptor

_IMPORT = re.compile(r"""^\s*import\s+(?:public\s+|weak\s+|option\s+)?["']([^"']+)["']\s*;""", re.MULTILINE)
_COMMENT_OR_STRING = re.compile(r"""/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'""", re.DOTALL)
_WELL_KNOWN = "google/protobuf/"
_GRPC_SUFFIXES = ("_pb2_grpc.py", "_pb2_grpc.pyi")
_SUFFIXES = ("_pb2.py", "_pb2.pyi", *_GRPC_SUFFIXES)


class CodegenError(RuntimeError):
    """The contracts could not be turned into code; the message names file and remedy."""


@dataclass(frozen=True)
class Generated:
    """What a generation did: how many contracts it read, and which files of the output folder it changed."""

    contracts: int
    changed: tuple[Path, ...]


def generate(roots: Sequence[Path], out: Path) -> Generated:
    """Generate `_pb2.py`, `_pb2.pyi`, `_pb2_grpc.py`, `_pb2_grpc.pyi` and `descriptors.binpb` for every contract.

    `roots` are the folders that import paths are relative to. Files in `out` that an earlier run made and no contract
    gives any more are removed, and files that would be the same are not touched; nobody else's file ever is.

    Raises `CodegenError` with protoc's own message (file, line, column), or naming an import that can't be found.
    """
    contracts = {path.relative_to(root).as_posix(): path for root in roots for path in sorted(root.rglob("*.proto"))}
    if not contracts:
        raise CodegenError(f"no .proto file below {', '.join(map(str, roots))}")
    with tempfile.TemporaryDirectory(prefix="apibase-gen-") as scratch:
        imports = Path(scratch) / "imports.binpb"
        imports.write_bytes(_installed_imports(contracts).SerializeToString(deterministic=True))
        fresh = Path(scratch) / "out"
        fresh.mkdir()
        _protoc(contracts, roots, imports, fresh)
        return Generated(len(contracts), tuple(_replace(out, fresh)))


def _protoc(contracts: dict[str, Path], roots: Sequence[Path], imports: Path, out: Path) -> None:
    """Run grpcio-tools' protoc, as a child: it ends the process on some errors."""
    plugins = Path(sys.executable).parent
    arguments = [
        *(f"--proto_path={root}" for root in roots),
        *([f"--descriptor_set_in={imports}"] if imports.stat().st_size else []),
        f"--python_out={out}",
        f"--plugin=protoc-gen-mypy={plugins / 'protoc-gen-mypy'}",
        f"--mypy_out=quiet:{out}",
        f"--grpc_python_out={out}",
        f"--plugin=protoc-gen-mypy_grpc={plugins / 'protoc-gen-mypy_grpc'}",
        f"--mypy_grpc_out=quiet:{out}",
        f"--descriptor_set_out={out / DESCRIPTORS}",
        "--include_source_info",
        "--include_imports",
        *contracts,
    ]
    done = subprocess.run(  # noqa: S603 - our own interpreter and arguments
        [sys.executable, "-m", "grpc_tools.protoc", *arguments], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise CodegenError((done.stderr or done.stdout).strip())
    descriptors = FileDescriptorSet.FromString((out / DESCRIPTORS).read_bytes())
    for file in descriptors.file:
        if file.name not in contracts:
            continue
        if file.service:
            _type_listeners(file, out)
        else:
            for suffix in _GRPC_SUFFIXES:
                (out / _made_of(file.name, suffix)).unlink(missing_ok=True)

    # So that tools which read the set, grpcurl for one, can show the details of an error.
    names = {file.name for file in descriptors.file}
    details = _with_dependencies([error_details_pb2.DESCRIPTOR])
    descriptors.file.extend(file for file in details if file.name not in names)
    (out / DESCRIPTORS).write_bytes(descriptors.SerializeToString(deterministic=True))


def _with_dependencies(files: Iterable[FileDescriptor]) -> list[FileDescriptorProto]:
    """Return files as messages, each after those that it imports."""
    found: dict[str, FileDescriptorProto] = {}

    def add(file: FileDescriptor) -> None:
        if file.name not in found:
            for dependency in file.dependencies:
                add(dependency)
            proto = FileDescriptorProto()
            file.CopyToProto(proto)
            found[file.name] = proto

    for file in files:
        add(file)
    return list(found.values())


def _made_of(contract: str, suffix: str) -> Path:
    """Return the path, within the output folder, of what protoc makes of a contract."""
    return Path(contract.removesuffix(".proto").replace("-", "_") + suffix)


def _type_listeners(contract: FileDescriptorProto, out: Path) -> None:
    """Give the listeners of a contract's servicers their own context in the stub: an `EventContext`, not gRPC's."""
    listening = [service.name for service in contract.service if any(_is_listener(method) for method in service.method)]
    if not listening:
        return
    stub = out / _made_of(contract.name, "_pb2_grpc.pyi")
    text = stub.read_text(encoding="utf-8")
    for name in listening:
        start = text.index(f"class {name}Servicer(")
        end = text.find("\ndef add_", start)
        text = (
            text[:start] + text[start:end].replace("context: _ServicerContext", "context: _EventContext") + text[end:]
        )
    stub.write_text(
        text.replace(
            "from collections import abc as _abc\n",
            "from apibase import EventContext as _EventContext\nfrom collections import abc as _abc\n",
            1,
        ),
        encoding="utf-8",
    )


def _is_listener(method: MethodDescriptorProto) -> bool:
    return any(method.options.HasExtension(extension) for extension in LISTENER_OPTIONS)


def _installed_imports(contracts: dict[str, Path]) -> FileDescriptorSet:
    """Return the descriptors of every import that is not one of the contracts, dependencies first."""
    imported: list[FileDescriptor] = []
    for path in contracts.values():
        for name in _IMPORT.findall(_code(path)):
            if name in contracts or name.startswith(_WELL_KNOWN):
                continue
            module = name.removesuffix(".proto").replace("/", ".").replace("-", "_") + "_pb2"
            try:
                imported.append(importlib.import_module(module).DESCRIPTOR)
            except ImportError as error:
                raise CodegenError(
                    f'{path}: import "{name}" is neither one of the contracts nor in an installed package (module {module})'
                ) from error
    return FileDescriptorSet(file=_with_dependencies(imported))


def _code(contract: Path) -> str:
    """Return a contract's text without its comments."""
    text = contract.read_text(encoding="utf-8")
    return _COMMENT_OR_STRING.sub(lambda found: " " if found[0].startswith("/") else found[0], text)


def _made_before(out: Path) -> set[Path]:
    """Return the files that an earlier run may have made in `out`: those of the contracts in its descriptor set."""
    descriptors = out / DESCRIPTORS
    if not descriptors.is_file():
        return set()
    return {
        _made_of(file.name, suffix)
        for file in FileDescriptorSet.FromString(descriptors.read_bytes()).file
        if file.HasField("source_code_info") and not file.name.startswith(_WELL_KNOWN)  # an import has none
        for suffix in _SUFFIXES
    }


def _replace(out: Path, fresh: Path) -> Iterable[Path]:
    """Make `out` equal to `fresh`, yielding each file that this changes."""
    wanted = {path.relative_to(fresh) for path in fresh.rglob("*") if path.is_file()}
    for name in sorted(_made_before(out) - wanted):
        if (out / name).is_file():
            (out / name).unlink()
            yield out / name
    for name in sorted(wanted):
        if (out / name).is_file() and filecmp.cmp(fresh / name, out / name, shallow=False):
            continue
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(fresh / name, out / name)
        yield out / name
