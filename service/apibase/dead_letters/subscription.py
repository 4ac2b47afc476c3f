"""The app's own subscriptions to its dead-letter topics, which feed the archive."""

from __future__ import annotations

from typing import TYPE_CHECKING

from loguru import logger

from apibase.contract import ContractError
from apibase.dead_letters.record import read_dead_letter
from apibase.routes import TopicRoute

if TYPE_CHECKING:
    from collections.abc import Mapping

    from apibase.dead_letters.archive import DeadLetterArchive
    from apibase.events import EventContext
    from apibase.routes import Incoming, RouteTable

_NAME = "apibase.DeadLetterArchive"


def archive_dead_letters(routes: RouteTable, archive: DeadLetterArchive) -> None:
    """Subscribe to each dead-letter topic that the routes name, unless a listener takes it, and archive what comes.

    Records come as they lie there (`rawPayload`): what is no CloudEvent can't stop those after it. A letter that the chassis
    of another app wrote, whose method is none of these routes, is acknowledged and not archived. A store that fails is
    RETRY: the letter stays in the broker.
    """
    listeners = list(routes.topics)
    listened = {(route.pubsub_name, route.topic) for route in listeners}

    async def take(incoming: Incoming, event: EventContext) -> None:
        letter = read_dead_letter(incoming, listeners)
        if letter is None:
            logger.debug("a dead letter on {!r} is of another app's method; not archived", event.topic)
            return
        await archive.add(letter)
        logger.bind(dead_letter_id=letter.id, dead_event_id=letter.summary.event_id, code=letter.summary.code).info(
            "dead letter {} of {} is archived", letter.id, letter.summary.handler or event.topic
        )

    for pubsub_name, topic in sorted({(route.pubsub_name, route.dead_letter_topic) for route in listeners}):
        if not topic:
            continue
        if (pubsub_name, topic) in listened:
            logger.info("dead letters on {!r} of {!r} are not archived: a listener takes them", topic, pubsub_name)
            continue
        routes.add_topic(
            TopicRoute(
                _NAME,
                take,
                pubsub_name=pubsub_name,
                topic=topic,
                metadata={"rawPayload": "true"},
                any_size=True,
            )
        )


def check_dead_letter_store(store_name: str, loaded: Mapping[str, str]) -> None:
    """Raise `ContractError` where the sidecar has not loaded the store; `loaded` is the components' name to type."""
    there = sorted(name for name, type_ in loaded.items() if type_.startswith("state."))
    if store_name and store_name not in there:
        raise ContractError(
            f"APIBASE_DEAD_LETTER_STORE names state store {store_name!r}, which the sidecar has not loaded "
            f"(it has {', '.join(there) or 'none'}); check the component's name, scopes and folder"
        )
