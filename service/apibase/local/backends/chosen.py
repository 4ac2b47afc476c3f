"""Which backends the components want and nobody has given: those are started, embedded, for the stack's life."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from apibase.local.components import Component


class Backend(StrEnum):
    """A server that the stack can start by itself."""

    POSTGRES = "postgres"
    REDIS = "redis"
    KAFKA = "kafka"


# A component's type, and the metadata fields that hold its server's address.
_ADDRESS_FIELDS: Mapping[Backend, Mapping[str, tuple[str, ...]]] = {
    Backend.POSTGRES: {
        "state.postgresql": ("connectionString",),
        "configuration.postgresql": ("connectionString",),
        "bindings.postgresql": ("connectionString", "url"),
        "lock.postgresql": ("connectionString",),
    },
    Backend.REDIS: {
        f"{block}.redis": ("redisHost",) for block in ("state", "pubsub", "lock", "configuration", "bindings")
    },
    Backend.KAFKA: {f"{block}.kafka": ("brokers",) for block in ("pubsub", "bindings")},
}


def address_variables(components: Iterable[Component]) -> dict[str, Backend]:
    """The environment variables from which the components read the address of a server that can be embedded."""
    found: dict[str, Backend] = {}
    for component in components:
        for backend, types in _ADDRESS_FIELDS.items():
            for name in types.get(component.type, ()):
                if variable := component.variables.get(name):
                    found[variable] = backend
    return found


def to_embed(variables: Mapping[str, Backend], environ: Mapping[str, str]) -> dict[str, Backend]:
    """Of those, the ones that are not set. A variable that is set names a server of the user's own, which is left alone."""
    return {variable: backend for variable, backend in variables.items() if not environ.get(variable)}
