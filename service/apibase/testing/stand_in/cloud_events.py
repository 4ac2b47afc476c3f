"""CloudEvents as daprd makes them of what is published, and takes them apart for who listens."""

from __future__ import annotations

import base64
import json
import uuid
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from apibase.testing.stand_in.json_forms import go_json

if TYPE_CHECKING:
    from collections.abc import Mapping

CloudEvent = dict[str, Any]

CLOUD_EVENT = "application/cloudevents+json"
BINARY = "application/octet-stream"
_JSON = "application/json"
_PROTOBUF = "application/cloudevents+protobuf"
_TYPE = "com.dapr.event.sent"
_OVERRIDDEN = ("id", "source", "type", "subject", "traceid", "traceparent", "tracestate")
_NOT_EXTENSIONS = frozenset({"id", "source", "datacontenttype", "type", "specversion", "data", "data_base64"})
_LARGEST_EXACT = 1e21  # from which on Go writes an exponent


class Unreadable(Exception):
    """What is in a record can't be brought to a listener."""


def new_event(
    data: bytes,
    content_type: str,
    topic: str,
    pubsub_name: str,
    source: str,
    metadata: Mapping[str, str],
    now: datetime,
) -> CloudEvent:
    """Return the CloudEvent of published data; data that is one already keeps what it says. Raises `ValueError`."""
    time = f"{now:%Y-%m-%dT%H:%M:%SZ}"
    if is_type(content_type, CLOUD_EVENT):
        event: CloudEvent = json.loads(data)
        if not isinstance(event, dict):
            raise ValueError("no CloudEvent")
        event.setdefault("time", time)
        event.setdefault("traceid", "")
        event.setdefault("traceparent", event["traceid"])
        event.setdefault("tracestate", "")
        event |= {"topic": topic, "pubsubname": pubsub_name}
        defaults = {"source": "Dapr", "type": _TYPE, "specversion": "1.0"}
        event |= {key: value for key, value in defaults.items() if event.get(key) is None}
    else:
        told = {key.lower(): value for key, value in metadata.items()}
        given = {name: told[f"cloudevent.{name}"] for name in _OVERRIDDEN if told.get(f"cloudevent.{name}")}
        trace = given.pop("traceparent", "") or given.pop("traceid", "")
        event = {
            "id": str(uuid.uuid4()),
            "specversion": "1.0",
            "datacontenttype": content_type or "text/plain",
            "source": source,
            "type": _TYPE,
            "topic": topic,
            "pubsubname": pubsub_name,
            "traceid": trace,
            "traceparent": trace,
            "tracestate": "",
            "time": time,
            **given,
        } | _data_fields(data, content_type)
    if (ttl := metadata.get("ttlInSeconds", "")).isdecimal() and int(ttl) > 0:
        event["expiration"] = f"{now + timedelta(seconds=int(ttl)):%Y-%m-%dT%H:%M:%SZ}"
    return event


def raw_event(data: bytes, topic: str, pubsub_name: str) -> CloudEvent:
    """Return the CloudEvent that stands around data which came without one."""
    return {
        "id": str(uuid.uuid4()),
        "specversion": "1.0",
        "datacontenttype": BINARY,
        "source": "Dapr",
        "type": _TYPE,
        "topic": topic,
        "pubsubname": pubsub_name,
        "data_base64": base64.b64encode(data).decode(),
    }


def as_rules_see(event: CloudEvent) -> CloudEvent:
    """Return an event whose numbers are what Go reads them as."""
    return {key: _floats(value) for key, value in event.items()}


def has_expired(event: CloudEvent, now: datetime) -> bool:
    """Return whether an event's time is over."""
    try:
        return datetime.fromisoformat(str(event.get("expiration") or "")) < now
    except ValueError:
        return False


def text_of(event: CloudEvent, name: str) -> str:
    """Return a text attribute; empty where it is none."""
    value = event.get(name)
    return value if isinstance(value, str) else ""


def data_of(event: CloudEvent, *, in_batch: bool) -> bytes:
    """Return an event's data as a listener gets them; in a batch, daprd passes over those in base64. Raises `Unreadable`."""
    if not in_batch and event.get("data_base64") is not None:
        try:
            return base64.b64decode(event["data_base64"], validate=True)
        except (TypeError, ValueError) as error:
            raise Unreadable("unexpected data type encountered in envelope") from error
    data, content_type = event.get("data"), text_of(event, "datacontenttype")
    if data is None:
        return b""
    if content_type.lower().startswith("text/") or is_type(content_type, "application/xml"):
        if not isinstance(data, str):
            raise Unreadable("unexpected data type encountered in envelope")
        return data.encode()
    if is_type(content_type, _JSON) or is_type(content_type, CLOUD_EVENT):
        return go_json(_as_go_writes(data))
    return b""


def extensions_of(event: CloudEvent) -> CloudEvent:
    """Return the attributes that daprd has no field for."""
    return {key: value for key, value in event.items() if key not in _NOT_EXTENSIONS}


def is_type(content_type: str, wanted: str) -> bool:
    """Return whether a content type is that one, whatever parameters it has."""
    return content_type.lower().partition(";")[0] == wanted


def _data_fields(data: bytes, content_type: str) -> CloudEvent:
    if is_type(content_type, _JSON):
        try:
            return {"data": json.loads(data)}
        except ValueError:
            pass
    elif is_type(content_type, BINARY) or is_type(content_type, _PROTOBUF):
        return {"data_base64": base64.b64encode(data).decode()}
    return {"data": data.decode(errors="replace")}


def _floats(value: Any) -> Any:  # noqa: ANN401 - whatever JSON has
    if isinstance(value, bool):
        return value
    if isinstance(value, int):
        return float(value)
    if isinstance(value, dict):
        return {key: _floats(each) for key, each in value.items()}
    return [_floats(each) for each in value] if isinstance(value, list) else value


def _as_go_writes(value: Any) -> Any:  # noqa: ANN401 - likewise
    """Return data after Go has read its numbers as doubles."""
    if isinstance(value, bool):
        return value
    if isinstance(value, (int, float)):
        number = float(value)
        return int(number) if number.is_integer() and abs(number) < _LARGEST_EXACT else number
    if isinstance(value, dict):
        return {key: _as_go_writes(each) for key, each in value.items()}
    return [_as_go_writes(each) for each in value] if isinstance(value, list) else value
