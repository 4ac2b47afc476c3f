"""The chain that every app has, for tests of what stands behind it: each call gets its line in the log."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import SecretStr

from apibase import Settings
from apibase.delivery import TopicDelivery
from apibase.middleware.call import Call, Kind, Target
from apibase.middleware.standard import standard_chain
from apibase.observability.metrics import Metrics
from apibase.topic_dispatch import delivery_handler, delivery_reader

if TYPE_CHECKING:
    from apibase.middleware.base import Middleware
    from apibase.middleware.chain import Chain
    from apibase.routes import Incoming, Route


def chain(
    *custom: Middleware,
    graveyard: Any = None,
    topics: TopicDelivery | None = None,
    token: str = "",
    metrics: Metrics | None = None,
    **settings: Any,
) -> Chain:
    """Return an app's chain; dead letters go to `graveyard`, where no `topics` are given."""
    made = Settings(**{"access_log": 1.0, "app_api_token": SecretStr(token) if token else None, **settings})
    return standard_chain(made, topics or TopicDelivery(graveyard), metrics or Metrics(), None, custom)


async def deliver(topics: Any, route: Route, incoming: Incoming, remaining: float | None = None) -> Call:
    """Bring an event through the chain to a handler and return its call. `topics` is a `TopicDelivery`, or takes dead letters."""
    delivery = topics if isinstance(topics, TopicDelivery) else TopicDelivery(topics)
    return await through(chain(topics=delivery), Kind.EVENT, route, incoming, remaining)


async def deliver_directly(route: Route, incoming: Incoming, remaining: float | None = None) -> Call:
    """Bring a binding's event, or a job, through the chain to a handler and return its call."""
    kind = Kind.JOB if incoming.event.kind == "job" else Kind.BINDING
    return await through(chain(), kind, route, incoming, remaining)


async def through(made: Chain, kind: Kind, route: Route, incoming: Incoming, remaining: float | None = None) -> Call:
    """Bring a delivery through a chain to a handler and return its call."""
    target = Target(kind, route.name, route.domain, route.request, route=route, source="desk")
    read = delivery_reader(target, route, made)
    event = incoming.event
    call = Call(target, incoming.headers, event.headers, read, remaining=remaining, incoming=incoming, event=event)
    await made.compile(target, delivery_handler(route))(call)
    return call
