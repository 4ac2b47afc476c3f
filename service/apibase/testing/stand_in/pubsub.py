"""Dapr's operations that publish."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc
from dapr.proto import api_v1
from google.protobuf.empty_pb2 import Empty

from apibase.testing.stand_in.api_errors import ApiError
from apibase.testing.stand_in.cloud_events import new_event
from apibase.testing.stand_in.go_errors import json_problem
from apibase.testing.stand_in.json_forms import go_json
from apibase.testing.stand_in.records import Record

if TYPE_CHECKING:
    from collections.abc import Mapping

    from apibase.testing.stand_in.api import ApiCall, Operations
    from apibase.testing.stand_in.broker import Broker
    from apibase.testing.stand_in.registry import Registry

_REFUSED = grpc.StatusCode.INVALID_ARGUMENT
_TRUE = {"1", "t", "true", "y", "yes", "on"}


class PubSubApi:
    """Publishing, one by one and in bulk."""

    def __init__(self, registry: Registry, broker: Broker, app_id: str) -> None:
        self._registry = registry
        self._broker = broker
        self._app_id = app_id

    @property
    def operations(self) -> Operations:
        """By the names of their rpcs."""
        return {
            "PublishEvent": self._publish,
            "BulkPublishEvent": self._publish_bulk,
            "BulkPublishEventAlpha1": self._publish_bulk,
        }

    def record(
        self,
        pubsub_name: str,
        topic: str,
        data: bytes,
        content_type: str,
        metadata: Mapping[str, str],
        publisher: str = "app",
        source: str = "",
    ) -> Record:
        """Return the record that a publication becomes. Raises `ApiError`."""
        metadata = dict(metadata)
        if metadata.get("rawPayload", "").lower() in _TRUE:
            return Record(pubsub_name, topic, data, {"traceid": "", "tracestate": "", **metadata}, publisher)
        try:
            event = new_event(
                data, content_type, topic, pubsub_name, source or self._app_id, metadata, self._broker.clock.now
            )
        except ValueError:
            told = {"appID": self._app_id, "error": json_problem(data)}
            raise ApiError(_REFUSED, "cannot create cloudevent", "DAPR_PUBSUB_CLOUD_EVENT_CREATION", told) from None
        return Record(pubsub_name, topic, go_json(event), metadata, publisher)

    async def _publish(self, request: Any, _call: ApiCall) -> Any:  # noqa: ANN401 - the API's messages
        self.check(request.pubsub_name, request.topic)
        record = self.record(
            request.pubsub_name, request.topic, request.data, request.data_content_type, request.metadata
        )
        self._broker.publish(record)
        return Empty()

    async def _publish_bulk(self, request: Any, _call: ApiCall) -> Any:  # noqa: ANN401 - likewise
        self.check(request.pubsub_name, request.topic)
        seen: set[str] = set()
        records = []
        for entry in request.entries:
            if not entry.entry_id or entry.entry_id in seen:
                why = "entryId is duplicated or not present for entry"
                message = f"error marshaling events to bytes for topic {request.topic} pubsub {request.pubsub_name}. error: {why}"
                raise ApiError(_REFUSED, message, "DAPR_PUBSUB_MARSHAL_EVENTS", {"appID": self._app_id, "error": why})
            seen.add(entry.entry_id)
            # daprd passes over the metadata of all where an entry has none of its own.
            metadata = {**request.metadata, **entry.metadata} if entry.metadata else {}
            records.append(self.record(request.pubsub_name, request.topic, entry.event, entry.content_type, metadata))
        for record in records:
            self._broker.publish(record)
        return api_v1.BulkPublishResponse()

    def check(self, pubsub_name: str, topic: str) -> None:
        """Raise `ApiError` where there is no such component, or no topic is named."""
        if not pubsub_name:
            raise ApiError(_REFUSED, "pubsub name is empty", "DAPR_PUBSUB_NAME_EMPTY")
        if self._registry.component(pubsub_name, "pubsub") is None:
            raise ApiError(_REFUSED, f"pubsub {pubsub_name} is not found", "DAPR_PUBSUB_NOT_FOUND")
        if not topic:
            raise ApiError(_REFUSED, f"topic is empty in pubsub {pubsub_name}", "DAPR_PUBSUB_TOPIC_NAME_EMPTY")
