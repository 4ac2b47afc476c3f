"""Bringing a record to whoever listens: its CloudEvent, its route, tries by the retry policy, dead letters."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from dapr.proto.runtime.v1 import appcallback_pb2
from google.protobuf import json_format, struct_pb2
from loguru import logger

from apibase.testing.stand_in.cel_values import RuleError
from apibase.testing.stand_in.cloud_events import (
    BINARY,
    CloudEvent,
    Unreadable,
    as_rules_see,
    data_of,
    extensions_of,
    has_expired,
    is_type,
    raw_event,
    text_of,
)
from apibase.testing.stand_in.records import content_type_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from apibase.testing.stand_in.broker import Broker
    from apibase.testing.stand_in.records import Delivery, Record
    from apibase.testing.stand_in.subscription import Subscription

PUBSUB_NAME = "pubsubName"
LOST = "UNIMPLEMENTED"
"""The status on which daprd acknowledges an event that nobody has handled."""


async def deliver(delivery: Delivery, subscription: Subscription, broker: Broker) -> None:
    """Bring one record, until it is acknowledged, a dead letter, or lost."""
    record = delivery.record
    try:
        event = event_of(record, subscription)
    except (ValueError, Unreadable) as error:
        give_up(delivery, subscription, broker, f"the record is no CloudEvent: {error}")
        return
    path = route(delivery, event, subscription, broker)
    if path is None:
        return
    retries = broker.retries(subscription.pubsub_name)
    turn = 0
    while True:
        try:
            verdict = await subscription.postman.deliver(request_of(event, record, path), headers_of(record))
        except Unreadable as error:
            verdict = f"UNREADABLE: {error}"
        if verdict == "CANCELLED" and subscription not in broker.subscriptions:
            broker.bring(delivery)  # To whoever subscribes next: this one is gone.
            return
        delivery.verdicts.append(verdict)
        if verdict in {"SUCCESS", LOST}:
            delivery.ended = True
            return
        if verdict == "DROP":
            bury(delivery, subscription, broker)
            return
        if retries is None or 0 <= retries.most <= turn:
            break
        await broker.clock.sleep(retries.delay(turn))
        turn += 1
    give_up(delivery, subscription, broker, "the tries are used up")


def event_of(record: Record, subscription: Subscription) -> CloudEvent:
    """Return a record's CloudEvent. Raises `ValueError` where it is none."""
    if subscription.raw:
        event = raw_event(record.data, record.topic, record.pubsub_name)
        traced = {
            key: record.metadata[key] for key in ("traceid", "traceparent", "tracestate") if key in record.metadata
        }
        return event | traced
    content_type = content_type_of(record.metadata)
    if is_type(content_type, BINARY):
        attributes = {key[3:].lower(): value for key, value in record.metadata.items() if key.lower().startswith("ce_")}
        return {**attributes, "data": record.data, "datacontenttype": content_type}
    event = json.loads(record.data)
    if not isinstance(event, dict):
        raise ValueError("it is no object")  # noqa: TRY004 - as for any other text
    return event


def route(
    delivery: Delivery, event: CloudEvent, subscription: Subscription, broker: Broker, seen: object = None
) -> str | None:
    """Return the path of an event; None where it goes to nobody, which is then settled. `seen` is what rules see."""
    if has_expired(event, broker.clock.now):
        delivery.problem = "it has expired"
        bury(delivery, subscription, broker)
        return None
    try:
        path = subscription.path(as_rules_see(event) if seen is None else seen)
    except RuleError as error:
        logger.warning("no route can be told for event {} on {!r}: {}", event.get("id"), subscription.topic, error)
        give_up(delivery, subscription, broker, f"no route can be told: {error}")
        return None
    if path is None:
        delivery.problem = "no rule matches"
        bury(delivery, subscription, broker)
    return path


def request_of(event: CloudEvent, record: Record, path: str) -> appcallback_pb2.TopicEventRequest:
    """Return what an app is brought. Raises `Unreadable`."""
    return appcallback_pb2.TopicEventRequest(
        **attributes_of(event),
        data=data_of(event, in_batch=False) if not isinstance(event.get("data"), bytes) else event["data"],
        topic=record.topic,
        pubsub_name=record.pubsub_name,
        path=path,
        extensions=extensions(event),
    )


def attributes_of(event: CloudEvent) -> dict[str, str]:
    """Return the attributes that daprd has fields for."""
    return {
        "id": text_of(event, "id"),
        "source": text_of(event, "source"),
        "type": text_of(event, "type"),
        "spec_version": text_of(event, "specversion"),
        "data_content_type": text_of(event, "datacontenttype"),
    }


def extensions(event: CloudEvent) -> struct_pb2.Struct:
    """Return the other attributes."""
    return json_format.ParseDict(extensions_of(event), struct_pb2.Struct(), max_recursion_depth=1000)


def headers_of(record: Record) -> Mapping[str, str]:
    """Return the headers that a record comes with: what its publisher gave as metadata."""
    return {**record.metadata, PUBSUB_NAME: record.pubsub_name}


def bury(delivery: Delivery, subscription: Subscription, broker: Broker) -> None:
    """Acknowledge a record, and write its dead letter where there is a topic for them."""
    if subscription.dead_letter_topic:
        broker.publish_dead_letter(delivery, subscription.dead_letter_topic)
    delivery.ended = True


def give_up(delivery: Delivery, subscription: Subscription, broker: Broker, why: str) -> None:
    """Write a dead letter, or leave the record to the broker."""
    delivery.problem = why
    if subscription.dead_letter_topic:
        bury(delivery, subscription, broker)
    else:
        broker.refused(delivery, subscription)
