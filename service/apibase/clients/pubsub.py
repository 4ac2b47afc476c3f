"""Publishing: a contract's event message to the topic that its contract names, and whatever else to the topic that is given."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import grpc
from dapr.proto import api_v1

from apibase.clients._methods import call_method
from apibase.clients.publication import RAW, Publication, outgoing
from apibase.contract.reasons import chassis_reason
from apibase.errors import SidecarError, SidecarUnavailable
from apibase.observability import outbound_headers
from dapr_contract.v1 import errors_pb2

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from apibase.clients._transport import Sidecar
    from apibase.clients._values import Value
    from apibase.clients.publication import Outgoing

_OVERHEAD_BYTES = 32
"""What an entry takes beside its own fields, at most."""


@dataclass(frozen=True, slots=True)
class FailedPublication:
    """One event of a batch that was not published, or may not have been: its place in the batch, its id, and why."""

    index: int
    id: str
    event: Value | Publication = field(repr=False)
    error: SidecarError


@dataclass(frozen=True, slots=True)
class BulkPublished:
    """What became of a batch: the CloudEvents' ids in its order, of those that failed too, and those that failed."""

    ids: tuple[str, ...]
    failed: tuple[FailedPublication, ...] = ()

    def raise_for_failed(self) -> None:
        """Raise the error of the first that failed, if any has."""
        if self.failed:
            raise self.failed[0].error


class PubSubPublisher:
    """Publishes events as CloudEvents 1.0: `type` is the message's full name, the data its JSON."""

    def __init__(self, sidecar: Sidecar) -> None:
        self._sidecar = sidecar

    async def publish(
        self,
        event: Value | Publication,
        *,
        id: str | None = None,  # noqa: A002 - CloudEvents' name
        subject: str | None = None,
    ) -> str:
        """Publish `event` to the topic of its `event` option and return the CloudEvent's id.

        Give the same `id` each time the same fact is published again, so that consumers can tell. Returning means that the broker has it.
        All else that can be said of an event is said by a `Publication`. It is not tried again: after `SidecarUnavailable` or a
        deadline the broker may have it. Raises `ContractError` for a message that is no event, `ValueError` for a value without a topic,
        `SidecarError` otherwise.
        """
        if id is not None or subject is not None:
            given = event if isinstance(event, Publication) else Publication(event)
            event = replace(given, id=id or given.id, subject=given.subject if subject is None else subject)
        out = outgoing(event, self._sidecar.settings.app_id, outbound_headers())
        await self._sidecar.call(
            lambda: self._sidecar.client.publish_event(
                out.pubsub_name,
                out.topic,
                out.data,
                publish_metadata=out.metadata,
                data_content_type=out.content_type,
            ),
            component=out.pubsub_name,
        )
        return out.event_id

    async def publish_bulk(self, events: Iterable[Value | Publication]) -> BulkPublished:
        """Publish many at once: one call for each pub/sub and topic among them, more where they exceed `max_message_bytes`.

        Events that failed are told with what is returned; where all have, the first one's error is raised, and nothing is raised for no
        events. Where a call fails as a whole, so have all of its events, though some may have been published: daprd's gRPC API does not
        say which, with Redis and Kafka among others. Publish them again with the same ids. A component without an API for batches, such as
        Redis, gets up to 100 at once, in no order; with Kafka, the order of one `key` holds. Raises what `publish` does for an event that
        is none, before any is published.
        """
        given = list(events)
        trace = outbound_headers()
        out = [outgoing(event, self._sidecar.settings.app_id, trace) for event in given]
        groups: dict[tuple[str, str, bool], list[int]] = {}
        for index, each in enumerate(out):
            groups.setdefault((each.pubsub_name, each.topic, each.raw), []).append(index)
        errors: dict[int, SidecarError] = {}
        await asyncio.gather(*(self._publish_group(out, indexes, errors) for indexes in groups.values()))
        if errors and len(errors) == len(given):
            raise errors[min(errors)]
        failed = (
            FailedPublication(index, out[index].event_id, given[index], errors[index]) for index in sorted(errors)
        )
        return BulkPublished(tuple(each.event_id for each in out), tuple(failed))

    async def _publish_group(
        self, out: Sequence[Outgoing], indexes: Sequence[int], errors: dict[int, SidecarError]
    ) -> None:
        """Publish events of one topic, in their order, and note those that failed."""
        gone: SidecarError | None = None
        for batch in self._batches(out, indexes, errors):
            if gone is None:
                try:
                    errors.update(await self._publish_batch(out[indexes[0]], batch))
                    continue
                except SidecarError as error:
                    if isinstance(error, SidecarUnavailable) or error.code is grpc.StatusCode.DEADLINE_EXCEEDED:
                        gone = error  # the rest would wait for as long
                    failure = error
            else:
                failure = gone
            errors.update((int(entry.entry_id), failure) for entry in batch)

    def _batches(
        self, out: Sequence[Outgoing], indexes: Sequence[int], errors: dict[int, SidecarError]
    ) -> Iterator[list[api_v1.BulkPublishRequestEntry]]:
        """Yield as many entries at a time as fit into a message; one that can't ever is noted as failed."""
        first = out[indexes[0]]
        limit = (
            self._sidecar.settings.max_message_bytes - len(first.pubsub_name) - len(first.topic) - 2 * _OVERHEAD_BYTES
        )
        batch: list[api_v1.BulkPublishRequestEntry] = []
        size = 0
        for index in indexes:
            each = out[index]
            entry = api_v1.BulkPublishRequestEntry(
                entry_id=str(index), event=each.data, content_type=each.content_type, metadata=each.metadata
            )
            takes = entry.ByteSize() + _OVERHEAD_BYTES
            if takes > limit:
                errors[index] = _too_large(takes, limit, each.pubsub_name)
                continue
            if size + takes > limit:
                yield batch
                batch, size = [], 0
            batch.append(entry)
            size += takes
        if batch:
            yield batch

    async def _publish_batch(
        self, first: Outgoing, batch: Sequence[api_v1.BulkPublishRequestEntry]
    ) -> dict[int, SidecarError]:
        request = api_v1.BulkPublishRequest(
            pubsub_name=first.pubsub_name,
            topic=first.topic,
            entries=batch,
            # Nothing else: with Kafka, what is said of the batch wins over what is said of an entry.
            metadata={RAW: "true"} if first.raw else {},
        )
        answer = await call_method(
            self._sidecar, "BulkPublishEvent", request, component=first.pubsub_name, feature="publishing in bulk"
        )
        return {
            int(failed.entry_id): SidecarError(
                grpc.StatusCode.INTERNAL, _SIDECAR_ERROR, failed.error, component=first.pubsub_name
            )
            for failed in answer.failedEntries
        }


_SIDECAR_ERROR = chassis_reason(errors_pb2.ERROR_REASON_SIDECAR_ERROR)


def _too_large(size: int, limit: int, component: str) -> SidecarError:
    return SidecarError(
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        chassis_reason(errors_pb2.ERROR_REASON_MESSAGE_TOO_LARGE),
        f"the event takes {size} bytes, {limit} can be published (APIBASE_MAX_MESSAGE_BYTES)",
        component=component,
        retryable=False,
    )
