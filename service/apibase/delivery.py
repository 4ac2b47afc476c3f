"""What becomes of an event: its handler is called, and its outcome turned into a verdict by one table.

| outcome of the handler | topic event | binding or job |
| --- | --- | --- |
| returns | SUCCESS | OK |
| `Drop`, data that is not the message, data that breaks a rule of the contract | dead letter | OK, logged |
| not called: the data is larger than `max_message_bytes`, or daprd has lost it on the way | DROP | OK, logged |
| a `ServiceError` of the service's own that is not retryable | dead letter | its status; for UNIMPLEMENTED, INTERNAL |
| `Retry`, a retryable `ServiceError`, a failing sidecar or component, another app's error | RETRY | its status; for NOT_FOUND, ABORTED |
| any other exception | RETRY | INTERNAL |

A dead letter is published by the chassis (see `dead_letters`); then the event is acknowledged, and if that publishing
fails it is RETRY, or DROP where the letter is too large (daprd then writes its own, without a reason). Without a dead-
letter topic the event is logged and dropped. An event that names no type (or has the one that daprd gives to such), where
no handler can be told, and one that protobuf can't read (see `callback_requests`) are DROP: daprd buries those as they
came. UNIMPLEMENTED never leaves for an event: daprd would acknowledge and lose it.

Where the contract says `deduplicate_for`, an event is claimed before (see `deduplication`): one that was handled is SUCCESS
without a call, one that somebody else is handling, or of which the store can't tell, RETRY.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import grpc
from loguru import logger

from apibase.cancellation import is_cancelled
from apibase.contract.reasons import chassis_reason
from apibase.dead_letters import Death
from apibase.deduplication.record import ClaimLost, Repetition
from apibase.errors import Drop, InvalidRequest, LeftToSidecar, Retry, ServiceError, SidecarError
from apibase.failures import tell
from dapr_contract.v1 import errors_pb2

if TYPE_CHECKING:
    from apibase.dead_letters import DeadLetters
    from apibase.deduplication.claims import Claim, Deduplicator
    from apibase.middleware.call import Call, Proceed
    from apibase.routes import Incoming, Route, TopicRoute

Status = Literal["SUCCESS", "RETRY", "DROP"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a handler: an answer, a death, or an error that another try may not meet."""

    answer: object = None
    error: BaseException | None = None
    death: Death | None = None


def judge(error: BaseException) -> Outcome:
    """Return what an exception of a handler means for its event."""
    match error:
        case Drop():
            return Outcome(None, error, Death(error.code, error.reason))
        case SidecarError():
            return Outcome(None, error)
        case ServiceError(retryable=False):
            return Outcome(None, error, Death(error.reason, error.message))
        case _:
            return Outcome(None, error)


async def _outcome(call: Call, proceed: Proceed) -> Outcome:
    """Have a delivery handled; never raises but on its own cancellation."""
    try:
        return Outcome(await proceed(call))
    except (Exception, asyncio.CancelledError) as error:
        if is_cancelled():
            raise
        return judge(error)


class TopicDelivery:
    """Turns what becomes of topic events into verdicts, and buries what can't be handled."""

    def __init__(self, dead_letters: DeadLetters, deduplicator: Deduplicator | None = None) -> None:
        self.deduplicator = deduplicator
        self._dead_letters = dead_letters

    def wrap(self, route: TopicRoute, proceed: Proceed) -> Proceed:
        """Return a handler of a route's events that ends with a verdict, the call's `outcome`."""

        async def deliver(call: Call) -> None:
            call.outcome, call.reason = "RETRY", "cancelled"
            if route.deduplication is None or incoming_of(call).too_large:
                await self._settle(route, call, await _outcome(call, proceed))
            else:
                await self._deliver_once(route, call, proceed)

        return deliver

    async def _deliver_once(self, route: TopicRoute, call: Call, proceed: Proceed) -> None:
        """Have an event handled unless it was before.

        Its claim is held until its dead letter, if it comes to that, is published too.
        """
        try:
            claimed = await self._claim(route, call)
        except (Exception, asyncio.CancelledError) as error:
            if is_cancelled():
                raise
            await self._settle(route, call, judge(error))
            return
        if isinstance(claimed, Repetition):
            call.outcome, call.reason, call.repeated = "SUCCESS", f"repeated: {claimed}", True
            return
        try:
            async with claimed:
                outcome = await _outcome(call, proceed)
                await self._settle(route, call, outcome)
                if outcome.error is None:
                    await claimed.done()
        except ClaimLost as lost:
            call.outcome, call.reason, call.error = "RETRY", str(lost), lost

    async def _claim(self, route: TopicRoute, call: Call) -> Claim | Repetition:
        """Claim an event, which is decoded where a field of it tells which one it is."""
        assert self.deduplicator is not None  # noqa: S101 - start-up has seen to it
        assert route.deduplication is not None  # noqa: S101 - the caller has looked
        message = call.request if route.deduplication.by and route.request is not None else None
        identity = route.deduplication.identity(incoming_of(call).event, message)
        return await self.deduplicator.claim(route.name, identity, route.deduplication.remember_for)

    async def _settle(self, route: TopicRoute, call: Call, outcome: Outcome) -> None:
        call.error = outcome.error
        call.outcome, call.reason = await self._verdict(route, incoming_of(call), outcome)

    async def _verdict(self, route: TopicRoute, incoming: Incoming, outcome: Outcome) -> tuple[Status, str]:
        if outcome.error is None:
            return "SUCCESS", ""
        if outcome.death is None:
            return "RETRY", _why(route, outcome.error)
        if isinstance(outcome.error, LeftToSidecar) and route.dead_letter_topic:
            return "DROP", f"{outcome.death.code}: {outcome.death.reason}; left to the sidecar's dead letters"
        return await self._bury(route, incoming, outcome.death)

    async def _bury(self, route: TopicRoute, incoming: Incoming, death: Death) -> tuple[Status, str]:
        reason = f"{death.code}: {death.reason}"
        if not route.dead_letter_topic:
            logger.bind(event_id=incoming.event.id).error(
                "{} has no dead-letter topic: event {} is dropped for good", route.name, incoming.event.id
            )
            return "DROP", reason
        try:
            await self._dead_letters.publish(route, incoming, death)
        except (Exception, asyncio.CancelledError) as error:  # whatever it is, daprd is told what to do
            if is_cancelled():
                raise
            if isinstance(error, SidecarError) and error.code is grpc.StatusCode.RESOURCE_EXHAUSTED:
                # Too large with its reason: another try would not help, and daprd buries the event as it came.
                return "DROP", f"{reason}; its dead letter is too large, so the sidecar's own has no reason"
            return "RETRY", f"{reason}; its dead letter could not be published: {_why(route, error)}"
        return "SUCCESS", f"dead letter on {route.dead_letter_topic}: {reason}"


def deliver_directly(route: Route, proceed: Proceed) -> Proceed:
    """Return a handler of a binding's events, or of a job, that ends with what daprd is told: the call's `outcome` and `failure`."""

    async def deliver(call: Call) -> None:
        call.outcome, call.reason = "CANCELLED", ""
        outcome = await _outcome(call, proceed)
        source = incoming_of(call).event.source
        call.error = outcome.error
        if isinstance(outcome.error, (Drop, InvalidRequest)):
            logger.warning("{} dropped an event of {}: {}", route.name, source, outcome.error)
        elif isinstance(outcome.error, Retry):
            text = str(outcome.error) or "the event is to be delivered again"
            call.failure = ServiceError(grpc.StatusCode.ABORTED, chassis_reason(errors_pb2.ERROR_REASON_RETRY), text)
        elif outcome.error is not None:
            call.failure = _as_daprd_takes_it(tell(route.name, outcome.error))
        call.outcome = call.failure.code.name if call.failure else "OK"
        call.reason = call.failure.reason if call.failure else ""

    return deliver


def incoming_of(call: Call) -> Incoming:
    """Return what daprd brought; every delivery has it."""
    assert call.incoming is not None  # noqa: S101 - for the type checker
    return call.incoming


def _as_daprd_takes_it(failure: ServiceError) -> ServiceError:
    """Return an error with a code that means to daprd what it means here.

    UNIMPLEMENTED would have it call the Alpha form, which runs the handler again; NOT_FOUND is a job's success.
    """
    misread = failure.code is grpc.StatusCode.UNIMPLEMENTED or (
        failure.code is grpc.StatusCode.NOT_FOUND and failure.retryable
    )
    if not misread:
        return failure
    code = grpc.StatusCode.ABORTED if failure.retryable else grpc.StatusCode.INTERNAL
    return ServiceError(
        code,
        failure.reason,
        failure.message,
        metadata=failure.metadata,
        violations=failure.violations,
        retryable=failure.retryable,
    )


def _why(route: TopicRoute, error: BaseException) -> str:
    """Return why an event is to come again, in a line; an unexpected exception is logged with its stack."""
    if isinstance(error, (Retry, ServiceError)):
        return str(error) or "asked for"
    return tell(route.name, error).message
