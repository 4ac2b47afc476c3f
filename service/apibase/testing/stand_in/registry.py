"""The components of the stand-in: those of resource files, those that a test declares, and what each of them keeps."""

from __future__ import annotations

from typing import TYPE_CHECKING

from apibase.testing.stand_in.component import Component
from apibase.testing.stand_in.secrets import SecretStore
from apibase.testing.stand_in.state_dialects import store_class

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from apibase.testing.stand_in.clock import Clock
    from apibase.testing.stand_in.state_rows import Store

_DEFAULT_TYPES = {
    "state": "state.in-memory",
    "pubsub": "pubsub.in-memory",
    "secretstores": "secretstores.local.file",
    "configuration": "configuration.in-memory",
    "lock": "lock.in-memory",
    "bindings": "bindings.in-memory",
}
"""What a component is that is made when it is first asked for."""


class Registry:
    """Components by name. With `any_component`, one that nobody has declared is made when it is first used."""

    def __init__(
        self,
        components: Iterable[Component],
        app_id: str,
        clock: Clock,
        *,
        env: Mapping[str, str] | None = None,
        any_component: bool = False,
    ) -> None:
        self._app_id = app_id
        self._clock = clock
        self._env = env
        self.any_component = any_component
        self._components: dict[str, Component] = {}
        self._stores: dict[str, Store] = {}
        self._secrets: dict[str, SecretStore] = {}
        for component in components:
            self.add(component)

    def add(self, component: Component) -> None:
        """Load a component, unless its scopes leave this app out. Raises `OSError` where a file of it can't be read."""
        if component.loaded_by(self._app_id):
            self._components[component.name] = component
            if component.block == "secretstores":
                self._secrets[component.name] = SecretStore(component, self._env)

    @property
    def components(self) -> list[Component]:
        """All of them, in the order in which they were declared."""
        return list(self._components.values())

    def of_block(self, block: str) -> list[Component]:
        """Return those of a building block."""
        return [each for each in self._components.values() if each.block == block]

    def component(self, name: str, block: str = "") -> Component | None:
        """Return the component of that name, if it is one of the building block."""
        found = self._components.get(name)
        if found is None and block and name and self.any_component:
            self.add(Component(name, _DEFAULT_TYPES[block]))
            found = self._components[name]
        return found if found is not None and block in {"", found.block} else None

    def state_store(self, name: str) -> Store | None:
        """Return what a state store keeps."""
        component = self.component(name, "state")
        if component is None:
            return None
        if name not in self._stores:
            made = store_class(component.type, component.version)
            self._stores[name] = made(name, f"{self._app_id}||", self._clock)
        return self._stores[name]

    def secret_store(self, name: str) -> SecretStore | None:
        """Return the secrets of a store."""
        return self._secrets.get(name) if self.component(name, "secretstores") else None
