"""The binding `bindings.localstorage`: files in a folder, as Dapr's component has them."""

from __future__ import annotations

import base64
import binascii
import contextlib
import json
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

from apibase.testing.stand_in.json_forms import plain_json

if TYPE_CHECKING:
    from collections.abc import Mapping

OPERATIONS = ("create", "get", "list", "delete")


def on_files(root: str, operation: str, data: bytes, metadata: Mapping[str, str]) -> bytes:
    """Do one operation and return its answer. Raises `OSError` with the component's words."""
    folder = Path(root).resolve()
    name = metadata.get("fileName", "") or (str(uuid.uuid4()) if operation == "create" else "")
    # What leads out of the folder ends at its root.
    path = folder / Path("/", name).resolve().relative_to("/")
    match operation:
        case "create":
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(_content(data))
            return plain_json({"fileName": str(path.relative_to(folder))})
        case "get":
            if not path.exists():
                raise OSError(f"file not found: {path}")
            return path.read_bytes()
        case "list":
            if not path.exists():
                raise OSError(f"error getting stats for path {path}: stat {path}: no such file or directory")
            if not path.is_dir():
                raise OSError(f"unable to list files as the file specified is not a directory: {path}")
            files = sorted(str(file) for file in path.rglob("*") if file.is_file())
            return plain_json(files) if files else b"null"
        case _:
            if not path.exists():
                raise OSError(f"error deleting file {path}: remove {path}: no such file or directory")
            path.unlink()
            return b""


def _content(data: bytes) -> bytes:
    """Return what is written: a JSON string's text, and what base64 stands for."""
    if data.startswith(b'"'):
        with contextlib.suppress(ValueError):
            data = str(json.loads(data)).encode()
    try:
        return base64.b64decode(data, validate=True) if data else data
    except binascii.Error:
        return data
