"""What is published: data, and what goes with it, as the sidecar takes them."""

from __future__ import annotations

import base64
import math
import re
import uuid
from dataclasses import KW_ONLY, dataclass, field
from typing import TYPE_CHECKING

import orjson
from google.protobuf import json_format
from google.protobuf.message import Message

from apibase.clients._values import JSON, TEXT, encode
from apibase.contract import event_options

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime, timedelta

    from apibase.clients._values import Value

CLOUD_EVENT = "application/cloudevents+json"
RAW = "rawPayload"
TRACEPARENT = "cloudevent.traceparent"

_TRACE_HEADERS = ("traceparent", "tracestate")
_EXTENSION_NAME = re.compile("[a-z0-9]{1,20}")
_OWN_NAMES = frozenset({
    "id", "source", "type", "subject", "time", "specversion", "datacontenttype", "dataschema", "data", "traceparent",
    "tracestate", "traceid", "topic", "pubsubname", "expiration",
})  # fmt: skip
_DEFAULT_TYPE = "com.dapr.event.sent"
_TRACE_FIELDS = 200
"""The first bytes of a whole CloudEvent, in which its trace stands."""


@dataclass(frozen=True, slots=True)
class Publication:
    """Data to be published, with attributes of its CloudEvent and what the broker is told.

    A contract's event message goes where its `event` option says unless `pubsub_name` or `topic` say otherwise; anything else needs
    both. `type` is a message's full name where none is given, otherwise daprd's `com.dapr.event.sent`; `source` the app id.
    `extensions` have names of lower-case letters and digits. `ttl` is rounded up to whole seconds. `key` keeps events of one key in
    their order, with brokers that know keys (Kafka's `partitionKey`). `raw` publishes the data alone, without a CloudEvent, and so without
    attributes. `metadata` is for the component.

    Raises `ValueError` for what contradicts itself or can't be said.
    """

    data: Value = field(repr=False)
    _: KW_ONLY
    id: str | None = None
    subject: str | None = None
    type: str | None = None
    source: str | None = None
    time: datetime | None = None
    extensions: Mapping[str, str | int | bool] = field(default_factory=dict)
    ttl: timedelta | None = None
    key: str | None = None
    raw: bool = False
    pubsub_name: str | None = None
    topic: str | None = None
    content_type: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        attributes = (self.id, self.subject, self.type, self.source, self.time)
        if self.raw and (self.extensions or any(each is not None for each in attributes)):
            raise ValueError("a raw publication has no CloudEvent, so no attributes")
        if RAW in self.metadata:
            raise ValueError(f"{RAW} is said by raw")
        for name in self.extensions:
            if name in _OWN_NAMES or not _EXTENSION_NAME.fullmatch(name):
                raise ValueError(
                    f"{name!r} can't be an extension of a CloudEvent; it takes up to 20 lower-case letters and digits"
                )
        if self.time is not None and self.time.tzinfo is None:
            raise ValueError(f"the time {self.time} has no time zone")
        if self.ttl is not None and self.ttl.total_seconds() <= 0:
            raise ValueError(f"a ttl of {self.ttl} is over before it begins")


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A publication as the sidecar's API takes it. `event_id` is empty where it is raw."""

    pubsub_name: str
    topic: str
    event_id: str
    data: bytes = field(repr=False)
    content_type: str
    metadata: dict[str, str]

    @property
    def raw(self) -> bool:
        """Whether it is published without a CloudEvent."""
        return RAW in self.metadata


def outgoing(event: Value | Publication, app_id: str, trace: Mapping[str, str]) -> Outgoing:
    """Return what is sent for an event; `trace` are the headers of the call that publishes it.

    Raises `ContractError` for a message that is no event and is given no topic, `TypeError` for what is no value, `ValueError`
    for one without a topic.
    """
    given = event if isinstance(event, Publication) else Publication(event)
    pubsub_name, topic = _destination(given)
    data, content_type = _encoded(given)
    metadata = dict(given.metadata)
    if given.ttl is not None:
        metadata["ttlInSeconds"] = str(math.ceil(given.ttl.total_seconds()))
    if given.key is not None:
        metadata["partitionKey"] = given.key
    if given.raw:
        metadata[RAW] = "true"
        return Outgoing(pubsub_name, topic, "", data, content_type, metadata)
    event_id = given.id or str(uuid.uuid4())
    kind = given.type or (given.data.DESCRIPTOR.full_name if isinstance(given.data, Message) else "")
    if given.time is None and not given.extensions:
        # The trace that is given in the metadata stays.
        metadata = {**_trace(trace), **metadata, **_attributes(given, event_id, kind)}
        return Outgoing(pubsub_name, topic, event_id, data, content_type, metadata)
    # These two daprd takes in a whole CloudEvent only.
    envelope = _cloud_event(given, event_id, kind or _DEFAULT_TYPE, given.source or app_id, trace, data, content_type)
    return Outgoing(pubsub_name, topic, event_id, envelope, CLOUD_EVENT, metadata)


def retraced(event: bytes, old: str, new: str) -> bytes:
    """Return a whole CloudEvent made by `outgoing` with another `traceparent`; as it is where it does not have the old one."""
    return event[:_TRACE_FIELDS].replace(old.encode(), new.encode()) + event[_TRACE_FIELDS:]


def _destination(given: Publication) -> tuple[str, str]:
    pubsub_name, topic = given.pubsub_name, given.topic
    if pubsub_name and topic:
        return pubsub_name, topic
    if not isinstance(given.data, Message):
        raise ValueError(  # noqa: TRY004 - the type may well be published
            f"{type(given.data).__name__} has no contract that says where it goes; give pubsub_name and topic"
        )
    options = event_options(given.data)
    return pubsub_name or options.pubsub_name, topic or options.topic


def _encoded(given: Publication) -> tuple[bytes, str]:
    if isinstance(given.data, Message):
        # With default values too: rules and readers without the contract can't tell a missing field from a zero.
        text = json_format.MessageToJson(given.data, indent=None, always_print_fields_with_no_presence=True)
        return text.encode(), given.content_type or JSON
    data, content_type = encode(given.data)
    # The SDK's subscribers read text of this type only. UTF-8 it is in any case.
    return data, given.content_type or ("text/plain" if content_type == TEXT else content_type)


def _trace(trace: Mapping[str, str]) -> dict[str, str]:
    # daprd puts the trace of this call on the event only while it traces itself; this does in any case.
    return {f"cloudevent.{name}": trace[name] for name in _TRACE_HEADERS if name in trace}


def _attributes(given: Publication, event_id: str, kind: str) -> dict[str, str]:
    """Return the metadata by which daprd makes the CloudEvent."""
    attributes = {
        "cloudevent.id": event_id,
        "cloudevent.type": kind or None,
        "cloudevent.subject": given.subject,
        "cloudevent.source": given.source,
    }
    return {name: value for name, value in attributes.items() if value is not None}


def _cloud_event(
    given: Publication, event_id: str, kind: str, source: str, trace: Mapping[str, str], data: bytes, content_type: str
) -> bytes:
    event: dict[str, object] = {}
    if "traceparent" in trace:
        # First, where `retraced` finds them. The other name is Dapr's own; without it, daprd writes over both.
        event |= {"traceparent": trace["traceparent"], "traceid": trace["traceparent"]}
    event |= {"specversion": "1.0", "id": event_id, "type": kind, "source": source, "datacontenttype": content_type}
    if "tracestate" in trace:
        event["tracestate"] = trace["tracestate"]
    if given.subject is not None:
        event["subject"] = given.subject
    if given.time is not None:
        event["time"] = given.time.isoformat()
    event |= given.extensions
    if isinstance(given.data, bytes):
        event["data_base64"] = base64.b64encode(data).decode()
    else:
        event["data"] = orjson.Fragment(data) if content_type == JSON else data.decode()
    return orjson.dumps(event)
