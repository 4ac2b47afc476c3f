"""Configuration stores: items that a test sets, and who watches them."""

from __future__ import annotations

import asyncio
import uuid
from typing import TYPE_CHECKING, Any

import grpc
from dapr.proto import api_v1, common_v1

from apibase.testing.stand_in.api_errors import ApiError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from apibase.testing.stand_in.api import ApiCall, Operations
    from apibase.testing.stand_in.registry import Registry


class ConfigurationStore:
    """The items of one store. A value may have a version, as `value||version` has it in Redis."""

    def __init__(self) -> None:
        self._items: dict[str, tuple[str, str]] = {}
        self.watches: dict[str, Watch] = {}

    def set(self, key: str, value: str, version: str = "") -> None:
        """Set an item, and tell who watches it."""
        if not version:
            value, _, version = value.partition("||")
        self._items[key] = (value, version)
        self._tell(key)

    def delete(self, key: str) -> None:
        """Remove an item, and tell who watches it."""
        self._items.pop(key, None)
        self._tell(key)

    def item(self, key: str) -> Any:  # noqa: ANN401 - the API's message
        """Return an item as the API has it; an empty one where there is none."""
        value, version = self._items.get(key, ("", ""))
        return common_v1.ConfigurationItem(value=value, version=version)

    @property
    def keys(self) -> list[str]:
        """The keys that have a value: an empty one is none."""
        return [key for key, (value, _) in self._items.items() if value]

    def _tell(self, key: str) -> None:
        for watch in self.watches.values():
            if not watch.keys or key in watch.keys:
                watch.changes.put_nowait(key)


class Watch:
    """Somebody who watches keys; none: all of them."""

    def __init__(self, keys: frozenset[str]) -> None:
        self.keys = keys
        self.changes: asyncio.Queue[str | None] = asyncio.Queue()


class ConfigurationApi:
    """Dapr's operations on configuration."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._stores: dict[str, ConfigurationStore] = {}

    @property
    def operations(self) -> Operations:
        """By the names of their rpcs."""
        return {
            name + suffix: operation
            for suffix in ("", "Alpha1")
            for name, operation in (
                ("GetConfiguration", self._get),
                ("SubscribeConfiguration", self._subscribe),
                ("UnsubscribeConfiguration", self._unsubscribe),
            )
        }

    def store(self, name: str) -> ConfigurationStore:
        """Return a store. Raises `ApiError` for a component that is none."""
        if self._registry.component(name, "configuration") is None:
            if not self._registry.of_block("configuration"):
                reason = "ERR_CONFIGURATION_STORE_NOT_CONFIGURED"
                raise ApiError(grpc.StatusCode.FAILED_PRECONDITION, "configuration stores not configured", reason)
            message = f"configuration store {name} not found"
            raise ApiError(grpc.StatusCode.INVALID_ARGUMENT, message, "ERR_CONFIGURATION_STORE_NOT_FOUND")
        return self._stores.setdefault(name, ConfigurationStore())

    async def _get(self, request: Any, _call: ApiCall) -> Any:  # noqa: ANN401 - the API's messages, here and below
        store = self.store(request.store_name)
        keys = [key for key in store.keys if not request.keys or key in request.keys]
        return api_v1.GetConfigurationResponse(items={key: store.item(key) for key in keys})

    async def _subscribe(self, request: Any, _call: ApiCall) -> AsyncIterator[Any]:  # noqa: ANN401
        store = self.store(request.store_name)
        watch, watch_id = Watch(frozenset(request.keys)), str(uuid.uuid4())
        store.watches[watch_id] = watch
        try:
            yield api_v1.SubscribeConfigurationResponse(id=watch_id)
            while (key := await watch.changes.get()) is not None:
                yield api_v1.SubscribeConfigurationResponse(id=watch_id, items={key: store.item(key)})
        finally:
            store.watches.pop(watch_id, None)

    async def _unsubscribe(self, request: Any, _call: ApiCall) -> Any:  # noqa: ANN401
        for store in self._stores.values():
            if (watch := store.watches.pop(request.id, None)) is not None:
                watch.changes.put_nowait(None)
                return api_v1.UnsubscribeConfigurationResponse(ok=True)
        message = f"failed to unsubscribe to configuration request {request.id}: subscription does not exist"
        return api_v1.UnsubscribeConfigurationResponse(message=message)
