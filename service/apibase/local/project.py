"""The project that the CLI works in: its root folder, and what `[tool.apibase]` in its pyproject.toml says."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from apibase.local.errors import TopologyError

if TYPE_CHECKING:
    from pathlib import Path

_SETTINGS = {
    "topology": "compose/dapr.yaml",
    "demo": "",
    "descriptors": "generated/descriptors.binpb",
    "accepted": "protos/accepted.binpb",
    "call": "",
}


@dataclass(frozen=True)
class Project:
    """Where a project keeps what the CLI needs. Paths are absolute."""

    root: Path
    topology: Path
    descriptors: Path
    accepted: Path
    """The contracts as they were last accepted: what `apibase breaking` compares with."""
    demo: str
    """The demo's object reference, `module:function`; "" for none."""
    call: str = ""
    """What `apibase up` suggests to put after `apibase call`; "" to have it find an rpc itself."""

    @property
    def state_folder(self) -> Path:
        """Where the CLI keeps its logs and the running stack's state; for nobody's version control."""
        return self.root / ".apibase"

    @property
    def state_file(self) -> Path:
        """What runs where, while a stack is up."""
        return self.state_folder / "stack.json"

    @property
    def log_folder(self) -> Path:
        """A folder per run of the stack."""
        return self.state_folder / "logs"

    @classmethod
    def find(cls, start: Path, topology: Path | None = None) -> Project:
        """Find the nearest parent folder with a pyproject.toml and read its settings; `topology` overrides them."""
        start = start.resolve()
        root = next((folder for folder in (start, *start.parents) if (folder / "pyproject.toml").is_file()), None)
        settings = dict(_SETTINGS)
        if root is None:
            root = start
        else:
            settings |= _read(root / "pyproject.toml")
        return cls(
            root=root,
            topology=(topology or root / settings["topology"]).resolve(),
            descriptors=root / settings["descriptors"],
            accepted=root / settings["accepted"],
            demo=settings["demo"],
            call=settings["call"],
        )


def _read(file: Path) -> dict[str, str]:
    try:
        table = tomllib.loads(file.read_text()).get("tool", {}).get("apibase", {})
    except tomllib.TOMLDecodeError as error:
        message = f"{file}: {error}"
        raise TopologyError(message) from error
    found: dict[str, str] = {}
    for key, default in _SETTINGS.items():
        value = table.get(key, default)
        if not isinstance(value, str):
            message = f"{file}: tool.apibase.{key}: expected a string, found {value!r}"
            raise TopologyError(message)
        found[key] = value
    return found
