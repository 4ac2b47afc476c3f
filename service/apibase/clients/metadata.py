"""The sidecar about itself: what it is, what it has loaded, whom it speaks to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import grpc
from dapr.proto import api_v1

from apibase.clients.components import Component, components_of
from apibase.errors import SidecarError, SidecarUnavailable

if TYPE_CHECKING:
    from collections.abc import Mapping

    from apibase.clients._transport import Sidecar


@dataclass(frozen=True, slots=True)
class AppConnection:
    """How the sidecar reaches its app. Probe times are as daprd writes them (`5s`), and empty where it does not probe."""

    address: str
    port: int
    protocol: str
    max_concurrency: int
    """Calls at once; 0 is no limit."""
    probe_interval: str = ""
    probe_timeout: str = ""
    probe_threshold: int = 0
    probe_path: str = ""


@dataclass(frozen=True, slots=True)
class TopicSubscription:
    """A topic that the sidecar is subscribed to for its app."""

    pubsub_name: str
    topic: str
    kind: str
    """PROGRAMMATIC, DECLARATIVE or STREAMING."""
    dead_letter_topic: str
    rules: tuple[tuple[str, str], ...]
    """Expression and path, in the order in which they are tried; the default's expression is empty."""
    metadata: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class SidecarMetadata:
    """What a sidecar says of itself. Components are those that it has loaded; whether they work it does not say."""

    app_id: str
    runtime_version: str
    components: Mapping[str, Component]
    subscriptions: tuple[TopicSubscription, ...]
    app: AppConnection | None
    """None where no app is behind it."""
    attributes: Mapping[str, str]
    """What `set` has set, and `daprRuntimeVersion`."""
    features: tuple[str, ...]
    """Preview features that are on."""
    active_actors: Mapping[str, int]
    """How many there are, by actor type."""
    http_endpoints: tuple[str, ...]


class MetadataClient:
    """The metadata of this app's sidecar."""

    def __init__(self, sidecar: Sidecar) -> None:
        self._sidecar = sidecar

    async def get(self) -> SidecarMetadata:
        """Return what the sidecar says of itself now."""
        answer = await self._sidecar.call(
            lambda: self._sidecar.stub.GetMetadata(api_v1.GetMetadataRequest()), safe=True
        )
        return _metadata(answer)

    async def set(self, key: str, value: str) -> None:
        """Leave an attribute with the sidecar, which keeps it until it ends. Raises `ValueError` for an empty key: daprd passes it over."""
        if not key:
            raise ValueError("the key of an attribute is empty")
        request = api_v1.SetMetadataRequest(key=key, value=value)
        await self._sidecar.call(lambda: self._sidecar.stub.SetMetadata(request), safe=True)

    async def healthy(self) -> bool:
        """Whether the sidecar's API answers now: what `/v1.0/healthz/outbound` says over HTTP. One that hangs does not.

        One try, within the setting `call_timeout`, or the inbound call's time. Raises `SidecarError` where it answers that it won't, such
        as for a wrong token.
        """
        try:
            await self._sidecar.call(lambda: self._sidecar.stub.GetMetadata(api_v1.GetMetadataRequest()))
        except SidecarUnavailable:
            return False
        except SidecarError as error:
            if error.code is not grpc.StatusCode.DEADLINE_EXCEEDED:
                raise
            return False
        return True

    async def shutdown(self) -> None:
        """Have the sidecar end, as a job's container does when its work is done; on return it has begun to."""
        await self._sidecar.call(lambda: self._sidecar.stub.Shutdown(api_v1.ShutdownRequest()))


def _metadata(answer: api_v1.GetMetadataResponse) -> SidecarMetadata:
    return SidecarMetadata(
        app_id=answer.id,
        runtime_version=answer.runtime_version,
        components=components_of(answer),
        subscriptions=tuple(map(_subscription, answer.subscriptions)),
        app=_app(answer.app_connection_properties),
        attributes=dict(answer.extended_metadata),
        features=tuple(answer.enabled_features),
        active_actors={each.type: each.count for each in answer.actor_runtime.active_actors},
        http_endpoints=tuple(each.name for each in answer.http_endpoints),
    )


def _subscription(each: api_v1.PubsubSubscription) -> TopicSubscription:
    return TopicSubscription(
        each.pubsub_name,
        each.topic,
        api_v1.PubsubSubscriptionType.Name(each.type),
        each.dead_letter_topic,
        tuple((rule.match, rule.path) for rule in each.rules.rules),
        dict(each.metadata),
    )


def _app(properties: api_v1.AppConnectionProperties) -> AppConnection | None:
    if not properties.port:
        return None
    health = properties.health
    return AppConnection(
        properties.channel_address,
        properties.port,
        properties.protocol,
        max(properties.max_concurrency, 0),
        health.health_probe_interval,
        health.health_probe_timeout,
        health.health_threshold,
        health.health_check_path,
    )
