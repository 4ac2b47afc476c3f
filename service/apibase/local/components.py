"""The Dapr components that a set of apps will load, as far as the local stack must know them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import yaml

from apibase.local.errors import TopologyError
from apibase.local.topology_fields import is_mapping

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from apibase.local.topology import AppSpec

_SUFFIXES = {".yaml", ".yml"}


@dataclass(frozen=True)
class Component:
    """A component file's document. `variables` maps a metadata field to the environment variable that it is read from."""

    file: Path
    name: str
    type: str
    scopes: frozenset[str]
    variables: dict[str, str]

    def loaded_by(self, app_id: str) -> bool:
        """Whether daprd loads it for this app: no scopes means every app."""
        return not self.scopes or app_id in self.scopes


def components_of(apps: Iterable[AppSpec]) -> tuple[Component, ...]:
    """The components that at least one of the apps loads, each once."""
    found: dict[tuple[Path, str], Component] = {}
    for app in apps:
        for folder in app.resources:
            for component in read_components(folder):
                if component.loaded_by(app.app_id):
                    found[component.file, component.name] = component
    return tuple(found.values())


def read_components(folder: Path) -> tuple[Component, ...]:
    """Read every document of kind Component in a folder's YAML files; like daprd, not in folders below it."""
    files = sorted(file for file in folder.iterdir() if file.suffix in _SUFFIXES and file.is_file())
    return tuple(component for file in files for component in _in_file(file))


def _in_file(file: Path) -> list[Component]:
    try:
        documents = list(yaml.safe_load_all(file.read_text()))
    except (OSError, yaml.YAMLError) as error:
        message = f"{file}: {error}"
        raise TopologyError(message) from error
    return [_component(file, document) for document in documents if _is_component(document)]


def _is_component(document: object) -> bool:
    return is_mapping(document) and document.get("kind") == "Component"


def _component(file: Path, document: dict[str, object]) -> Component:
    metadata, spec = document.get("metadata"), document.get("spec")
    if not is_mapping(metadata) or not isinstance(name := metadata.get("name"), str):
        message = f"{file}: metadata.name: a component needs a name"
        raise TopologyError(message)
    if not is_mapping(spec) or not isinstance(kind := spec.get("type"), str):
        message = f"{file}: spec.type: component {name!r} needs a type, such as state.postgresql"
        raise TopologyError(message)
    scopes = document.get("scopes") or []
    items = spec.get("metadata") or []
    if not isinstance(scopes, list) or not isinstance(items, list):
        message = f"{file}: component {name!r}: scopes and spec.metadata must be lists"
        raise TopologyError(message)
    variables = {
        str(item["name"]): str(item["envRef"])
        for item in items
        if is_mapping(item) and item.get("name") and item.get("envRef")
    }
    return Component(file, name, kind, frozenset(map(str, scopes)), variables)
