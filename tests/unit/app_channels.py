"""An app channel with the parts that a test does not care about."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import SecretStr

from apibase.app_channel import AppChannelServicer
from apibase.app_token import AppToken
from apibase.delivery import TopicDelivery
from apibase.invocation import Invocations

if TYPE_CHECKING:
    from apibase.dead_letters import Death
    from apibase.routes import Incoming, RouteTable, TopicRoute


class Graveyard:
    """Takes dead letters; fails with `error` while there is one."""

    def __init__(self) -> None:
        self.buried: list[tuple[TopicRoute, Incoming, Death]] = []
        self.error: Exception | None = None

    async def publish(self, route: TopicRoute, incoming: Incoming, death: Death) -> None:
        if self.error is not None:
            raise self.error
        self.buried.append((route, incoming, death))


def app_channel(routes: RouteTable, graveyard: Graveyard | None = None, token: str = "") -> AppChannelServicer:
    return AppChannelServicer(
        routes,
        TopicDelivery(graveyard or Graveyard()),  # type: ignore[arg-type]
        Invocations(routes.methods),
        AppToken(SecretStr(token)),
    )
