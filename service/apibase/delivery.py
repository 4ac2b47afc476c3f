"""What becomes of an event: its handler is called, and its outcome turned into a verdict by one table.

| outcome of the handler | topic event | binding or job |
| --- | --- | --- |
| returns | SUCCESS | OK |
| `Drop`, data that is not the message, data that breaks a rule of the contract | dead letter | OK, logged |
| a `ServiceError` of the service's own that is not retryable | dead letter | its status |
| `Retry`, a retryable `ServiceError`, a failing sidecar or component, another app's error | RETRY | its status |
| any other exception | RETRY | INTERNAL |

A dead letter is published by the chassis (see `dead_letters`); then the event is acknowledged, and if that publishing
fails it is RETRY, or DROP where the letter is too large (daprd then writes its own, without a reason). Without a dead-
letter topic the event is logged and dropped. An event that names no type, where no handler can be told, is DROP: daprd
buries that one. UNIMPLEMENTED never leaves for an event: daprd would
acknowledge and lose it.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import grpc
from loguru import logger

from apibase.cancellation import is_cancelled
from apibase.dead_letters import Death
from apibase.deadline import deadline
from apibase.errors import Drop, InvalidRequest, Retry, ServiceError, SidecarError
from apibase.failures import tell

if TYPE_CHECKING:
    from apibase.dead_letters import DeadLetters
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


async def call(route: Route, incoming: Incoming, remaining: float | None) -> Outcome:
    """Call a handler with `remaining` seconds for its outbound calls; never raises but on the call's own cancellation."""
    token = deadline.set_remaining(remaining)
    try:
        answer = await route.handler(incoming)
    except (Exception, asyncio.CancelledError) as error:
        if is_cancelled():
            raise
        return judge(error)
    finally:
        deadline.reset(token)
    return Outcome(answer)


class TopicDelivery:
    """Calls the handlers of topic events, and buries what can't be handled."""

    def __init__(self, dead_letters: DeadLetters) -> None:
        self._dead_letters = dead_letters

    async def deliver(self, route: TopicRoute, incoming: Incoming, remaining: float | None) -> Status:
        """Have an event handled and return what daprd is told."""
        started = time.perf_counter()
        status: Status = "RETRY"
        reason = "cancelled"
        try:
            outcome = await call(route, incoming, remaining)
            status, reason = await self._settle(route, incoming, outcome)
        finally:
            event = incoming.event
            logger.bind(
                logger="apibase.event",
                method=route.name,
                verdict=status,
                event_id=event.id,
                topic=event.topic,
                pubsub_name=event.pubsub_name,
                **({"reason": reason} if reason else {}),
                duration_ms=round((time.perf_counter() - started) * 1000, 3),
            ).log("INFO" if status == "SUCCESS" and not reason else "WARNING", "{} {}", route.name, status)
        return status

    async def _settle(self, route: TopicRoute, incoming: Incoming, outcome: Outcome) -> tuple[Status, str]:
        if outcome.error is None:
            return "SUCCESS", ""
        if outcome.death is None:
            return "RETRY", _why(route, outcome.error)
        reason = f"{outcome.death.code}: {outcome.death.reason}"
        if not route.dead_letter_topic:
            logger.bind(event_id=incoming.event.id).error(
                "{} has no dead-letter topic: event {} is dropped for good", route.name, incoming.event.id
            )
            return "DROP", reason
        try:
            await self._dead_letters.publish(route, incoming, outcome.death)
        except Exception as error:  # noqa: BLE001 - whatever it is, daprd is told what to do
            if isinstance(error, SidecarError) and error.code is grpc.StatusCode.RESOURCE_EXHAUSTED:
                # Too large with its reason: another try would not help, and daprd buries the event as it came.
                return "DROP", f"{reason}; its dead letter is too large, so the sidecar's own has no reason"
            return "RETRY", f"{reason}; its dead letter could not be published: {_why(route, error)}"
        return "SUCCESS", f"dead letter on {route.dead_letter_topic}: {reason}"


async def deliver_directly(route: Route, incoming: Incoming, remaining: float | None) -> ServiceError | None:
    """Have a binding's event or a job handled; return the error that daprd is told, if any."""
    started = time.perf_counter()
    outcome = await call(route, incoming, remaining)
    failure: ServiceError | None = None
    if isinstance(outcome.error, (Drop, InvalidRequest)):
        logger.warning("{} dropped an event of {}: {}", route.name, incoming.event.source, outcome.error)
    elif isinstance(outcome.error, Retry):
        text = str(outcome.error) or "the event is to be delivered again"
        failure = ServiceError(grpc.StatusCode.ABORTED, "RETRY", text)
    elif outcome.error is not None:
        failure = tell(route.name, outcome.error)
    code = failure.code.name if failure else "OK"
    logger.bind(
        logger="apibase.event",
        method=route.name,
        code=code,
        source=incoming.event.source,
        duration_ms=round((time.perf_counter() - started) * 1000, 3),
    ).log("WARNING" if failure else "DEBUG", "{} {}", route.name, failure or code)
    return failure


def _why(route: TopicRoute, error: BaseException) -> str:
    """Return why an event is to come again, in a line; an unexpected exception is logged with its stack."""
    if isinstance(error, (Retry, ServiceError)):
        return str(error) or "asked for"
    return tell(route.name, error).message
