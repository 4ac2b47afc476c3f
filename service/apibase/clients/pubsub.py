"""Publishing: a contract's event message to the topic that its contract names."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

from google.protobuf import json_format

from apibase.clients._transport import sidecar_call
from apibase.contract import event_options
from apibase.observability import outbound_headers

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from apibase.clients._transport import Sidecar

_TRACE_HEADERS = frozenset({"traceparent", "tracestate"})


class PubSubPublisher:
    """Publishes events as CloudEvents 1.0: `type` is the message's full name, the data its JSON."""

    def __init__(self, sidecar: Sidecar) -> None:
        self._sidecar = sidecar

    async def publish(self, event: Message, *, id: str | None = None, subject: str | None = None) -> str:  # noqa: A002 - CloudEvents' name
        """Publish `event` to the topic of its `event` option and return the CloudEvent's id.

        Give the same `id` each time the same fact is published again, so that consumers can tell. Returning means that
        the broker has it. Raises `ContractError` for a message that is no event, `SidecarError` otherwise.
        """
        options = event_options(event)
        event_id = id or str(uuid.uuid4())
        metadata = {"cloudevent.id": event_id, "cloudevent.type": event.DESCRIPTOR.full_name}
        # daprd puts the trace of this call on the event only while it traces itself; this does in any case.
        metadata.update(
            (f"cloudevent.{key}", value) for key, value in outbound_headers().items() if key in _TRACE_HEADERS
        )
        if subject is not None:
            metadata["cloudevent.subject"] = subject
        call = self._sidecar.client.publish_event(
            options.pubsub_name,
            options.topic,
            # With default values too: rules and readers without the contract can't tell a missing field from a zero.
            json_format.MessageToJson(event, indent=None, always_print_fields_with_no_presence=True),
            publish_metadata=metadata,
            data_content_type="application/json",
        )
        await sidecar_call(call, component=options.pubsub_name)
        return event_id
