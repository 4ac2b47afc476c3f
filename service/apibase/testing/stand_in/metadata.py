"""What the sidecar says of itself: components, subscriptions, attributes that were left with it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dapr.proto import api_v1
from google.protobuf.empty_pb2 import Empty

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from apibase.testing.stand_in.api import ApiCall, Operations
    from apibase.testing.stand_in.broker import Broker
    from apibase.testing.stand_in.component import Component
    from apibase.testing.stand_in.registry import Registry
    from apibase.testing.stand_in.subscription import Subscription

VERSION = "1.18.2"
"""The Dapr runtime that the stand-in behaves as."""


class MetadataApi:
    """Dapr's operations on metadata, and `Shutdown`."""

    def __init__(
        self,
        app_id: str,
        registry: Registry,
        broker: Broker,
        resiliencies: Sequence[str],
        app_port: Callable[[], int],
        probe_interval: Callable[[], float],
        shut_down: Callable[[], None],
    ) -> None:
        self._app_id = app_id
        self._registry = registry
        self._broker = broker
        self._resiliencies = resiliencies
        self._app_port = app_port
        self._probe_interval = probe_interval
        self._shut_down = shut_down
        self.attributes: dict[str, str] = {}
        """What was left by `SetMetadata`."""

    @property
    def operations(self) -> Operations:
        """By the names of their rpcs."""
        return {"GetMetadata": self._get, "SetMetadata": self._set, "Shutdown": self._end}

    def response(self) -> Any:  # noqa: ANN401 - the API's message
        """Return all of it."""
        app = api_v1.AppConnectionProperties(port=self._app_port(), protocol="grpc", channel_address="127.0.0.1")
        if interval := self._probe_interval():
            app.health.health_probe_interval = f"{interval:g}s"
            app.health.health_probe_timeout = "500ms"
            app.health.health_threshold = 3
        return api_v1.GetMetadataResponse(
            id=self._app_id,
            runtime_version=VERSION,
            extended_metadata={**self.attributes, "daprRuntimeVersion": VERSION},
            registered_components=map(_component, self._registry.components),
            subscriptions=map(_subscription, self._broker.subscriptions),
            app_connection_properties=app,
            resiliencies=[api_v1.MetadataResiliency(name=name) for name in self._resiliencies],
        )

    async def _get(self, _request: Any, _call: ApiCall) -> Any:  # noqa: ANN401 - the API's messages
        return self.response()

    async def _set(self, request: Any, _call: ApiCall) -> Any:  # noqa: ANN401 - likewise
        if request.key:
            self.attributes[request.key] = request.value
        return Empty()

    async def _end(self, _request: Any, _call: ApiCall) -> Any:  # noqa: ANN401 - likewise
        self._shut_down()
        return Empty()


def _component(component: Component) -> Any:  # noqa: ANN401 - likewise
    return api_v1.RegisteredComponents(
        name=component.name, type=component.type, version=component.version, capabilities=component.capabilities
    )


def _subscription(subscription: Subscription) -> Any:  # noqa: ANN401 - likewise
    told = api_v1.PubsubSubscription(
        pubsub_name=subscription.pubsub_name,
        topic=subscription.topic,
        metadata=subscription.metadata,
        dead_letter_topic=subscription.dead_letter_topic,
        type=api_v1.PubsubSubscriptionType.Value(subscription.kind.upper()),
    )
    for rule in subscription.rules:
        told.rules.rules.add(match=rule.match, path=rule.path)
    return told
