"""A secret store in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

import grpc

from apibase.testing.components.component import MockComponent, Refused
from dapr_components.v1 import common_pb2, secretstore_pb2

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from google.protobuf.descriptor import ServiceDescriptor
    from google.protobuf.message import Message

    from apibase.testing.components.component import Call, Unary
    from apibase.testing.faults import Faults

_SERVICE = secretstore_pb2.DESCRIPTOR.services_by_name["SecretStore"]


class MockSecretStore(MockComponent):
    """The component type `secretstores.mock`."""

    kind = "secrets"

    def __init__(self, folder: Path, name: str, faults: Faults, calls: list[Call]) -> None:
        super().__init__(folder, name, faults, calls)
        self.secrets: dict[str, str | dict[str, str]] = {}
        """What it has, by name: a value, or values by key; to be changed at any time."""

    def keys_of(self, request: Message) -> tuple[str, ...]:
        """Return the secret's name."""
        return (request.key,) if isinstance(request, secretstore_pb2.GetSecretRequest) else ()

    def services(self) -> Mapping[ServiceDescriptor, Mapping[str, Unary]]:
        """Return how the protocol is answered."""
        return {
            _SERVICE: {
                "Init": lambda _: secretstore_pb2.SecretStoreInitResponse(),
                "Features": lambda _: common_pb2.FeaturesResponse(features=["MULTIPLE_KEY_VALUES_PER_SECRET"]),
                "Get": self._get,
                "BulkGet": self._bulk_get,
            }
        }

    def _values(self, name: str) -> dict[str, str]:
        found = self.secrets[name]
        return {name: found} if isinstance(found, str) else found

    def _get(self, request: secretstore_pb2.GetSecretRequest) -> secretstore_pb2.GetSecretResponse:
        if request.key not in self.secrets:
            raise Refused(grpc.StatusCode.NOT_FOUND, f"no secret {request.key!r}")
        return secretstore_pb2.GetSecretResponse(data=self._values(request.key))

    def _bulk_get(self, _: secretstore_pb2.BulkGetSecretRequest) -> secretstore_pb2.BulkGetSecretResponse:
        return secretstore_pb2.BulkGetSecretResponse(
            data={name: secretstore_pb2.SecretResponse(secrets=self._values(name)) for name in self.secrets}
        )
