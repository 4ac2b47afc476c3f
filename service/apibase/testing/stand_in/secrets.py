"""Secret stores that read a file, or the environment."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
from dapr.proto import api_v1

from apibase.testing.stand_in.api_errors import ApiError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from apibase.testing.stand_in.api import ApiCall, Operations
    from apibase.testing.stand_in.component import Component
    from apibase.testing.stand_in.registry import Registry

Secrets = dict[str, dict[str, str]]


class SecretStore:
    """The secrets of one component: those of its file or of the environment, read once, and those that a test sets."""

    def __init__(self, component: Component, env: Mapping[str, str] | None = None) -> None:
        self._component = component
        self._secrets: Secrets = {}
        if component.type == "secretstores.local.env":
            prefix = component.option("prefix")
            variables = os.environ if env is None else env
            self._secrets = {
                name.removeprefix(prefix): {name.removeprefix(prefix): value}
                for name, value in variables.items()
                if name.startswith(prefix)
            }
        elif file := component.option("secretsFile"):
            content = json.loads(Path(file).read_text(encoding="utf-8"))
            self._secrets = _secrets_of(
                content, component.option("nestedSeparator") or ":", component.option("multiValued") == "true"
            )

    def get(self, name: str) -> dict[str, str] | None:
        """Return the pairs of one secret, or None."""
        return self._secrets.get(name)

    @property
    def all(self) -> Secrets:
        """Every secret."""
        return self._secrets

    def __setitem__(self, name: str, value: str | dict[str, str]) -> None:
        """Set a secret: a text, or pairs."""
        self._secrets[name] = {name: value} if isinstance(value, str) else dict(value)

    def __getitem__(self, name: str) -> dict[str, str]:
        return self._secrets[name]

    def __delitem__(self, name: str) -> None:
        del self._secrets[name]

    def __contains__(self, name: object) -> bool:
        return name in self._secrets


class SecretsApi:
    """Dapr's operations on secrets."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    @property
    def operations(self) -> Operations:
        """By the names of their rpcs."""
        return {"GetSecret": self._get, "GetBulkSecret": self._get_all}

    async def _get(self, request: Any, _call: ApiCall) -> Any:  # noqa: ANN401 - the API's messages
        found = self._store(request.store_name).get(request.key)
        if found is None:
            message = (
                f"failed getting secret with key {request.key} from secret store {request.store_name}: "
                f"secret {request.key} not found"
            )
            raise ApiError(grpc.StatusCode.INTERNAL, message)
        return api_v1.GetSecretResponse(data=found)

    async def _get_all(self, request: Any, _call: ApiCall) -> Any:  # noqa: ANN401 - likewise
        secrets = self._store(request.store_name).all
        return api_v1.GetBulkSecretResponse(
            data={name: api_v1.SecretResponse(secrets=values) for name, values in secrets.items()}
        )

    def _store(self, name: str) -> SecretStore:
        if (store := self._registry.secret_store(name)) is not None:
            return store
        if not self._registry.of_block("secretstores"):
            raise ApiError(grpc.StatusCode.FAILED_PRECONDITION, "secret store is not configured")
        raise ApiError(grpc.StatusCode.INVALID_ARGUMENT, f"failed finding secret store with key {name}")


def _secrets_of(content: dict[str, Any], separator: str, several: bool) -> Secrets:  # noqa: FBT001 - the component's own field
    if not several:
        return {name: {name: value} for name, value in _flat(content, separator)}
    return {
        name: dict(_flat(value, separator)) if isinstance(value, dict) else {name: _text(value)}
        for name, value in content.items()
    }


def _flat(value: Any, separator: str, path: str = "") -> Iterator[tuple[str, str]]:  # noqa: ANN401 - whatever JSON has
    pairs = value.items() if isinstance(value, dict) else enumerate(value)
    for key, each in pairs:
        name = f"{path}{separator}{key}" if path else str(key)
        if isinstance(each, (dict, list)):
            yield from _flat(each, separator, name)
        else:
            yield name, _text(each)


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)
