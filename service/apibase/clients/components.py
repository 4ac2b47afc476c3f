"""What the sidecar has loaded: components, by name, with what they can do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import grpc

from apibase.contract.reasons import chassis_reason
from apibase.errors import SidecarError
from dapr_contract.v1 import errors_pb2

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dapr.proto import api_v1


@dataclass(frozen=True, slots=True)
class Component:
    """A component that the sidecar has loaded: `type` is Dapr's (`state.postgresql`), `capabilities` are what daprd says it can do."""

    name: str
    type: str
    version: str
    capabilities: frozenset[str]

    @property
    def rolls_back(self) -> bool:
        """Whether a transaction that fails leaves nothing behind. Redis' does; Dapr does not undo it."""
        return "TRANSACTIONAL" in self.capabilities and self.type != "state.redis"


def components_of(metadata: api_v1.GetMetadataResponse) -> dict[str, Component]:
    """Return what a sidecar's metadata lists."""
    return {
        each.name: Component(each.name, each.type, each.version, frozenset(each.capabilities))
        for each in metadata.registered_components
    }


def not_loaded(name: str, loaded: Mapping[str, Component]) -> SidecarError:
    """Return what is told where a component is asked for that the sidecar has not loaded."""
    there = ", ".join(sorted(loaded)) or "none"
    return SidecarError(
        grpc.StatusCode.FAILED_PRECONDITION,
        chassis_reason(errors_pb2.ERROR_REASON_COMPONENT_NOT_FOUND),
        f"the sidecar has not loaded a component {name!r} (it has {there}); check the component's name, scopes and folder",
        component=name,
    )
