"""Waiting for the app, and watching its health: while it takes no work, nothing is brought to it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import grpc
from loguru import logger

from apibase.testing.stand_in.cel import RuleNotSupported
from apibase.testing.stand_in.subscription import Subscription, from_app, from_file

if TYPE_CHECKING:
    from collections.abc import Sequence

    from apibase.testing.stand_in.app_link import AppLink
    from apibase.testing.stand_in.bindings import BindingsApi
    from apibase.testing.stand_in.broker import Broker
    from apibase.testing.stand_in.jobs import JobsApi
    from apibase.testing.stand_in.registry import Registry
    from apibase.testing.stand_in.resources import DeclaredSubscription

_BEFORE_SECONDS = 0.05  # between looks for an app that is not there yet
_UNWELL = 3


class AppWatch:
    """Begins to bring work when the app takes it, and ends when it does not."""

    def __init__(
        self,
        registry: Registry,
        broker: Broker,
        bindings: BindingsApi,
        jobs: JobsApi,
        declared: Sequence[DeclaredSubscription],
    ) -> None:
        self._registry = registry
        self._broker = broker
        self._bindings = bindings
        self._jobs = jobs
        self._declared = declared
        self._subscriptions: list[Subscription] = []
        self.working = False
        """Whether the app is brought work."""

    async def begin(self, app: AppLink) -> None:
        """Ask the app what it listens to, and bring it that.

        Raises `RuleNotSupported` for a rule that is beyond the stand-in, gRPC's error where the app does not answer.
        """
        told = await app.subscriptions() if self._registry.of_block("pubsub") else ()
        subscriptions = [from_app(each, app) for each in told]
        mine = {(each.pubsub_name, each.topic) for each in subscriptions}
        subscriptions += [from_file(each, app) for each in self._declared if (each.pubsub_name, each.topic) not in mine]
        self.working = True
        self._subscriptions = []
        for each in subscriptions:
            if self._registry.component(each.pubsub_name, "pubsub") is None:
                logger.error("the app subscribes to {!r} of {!r}, which is not loaded", each.topic, each.pubsub_name)
                continue
            self._subscriptions.append(each)
            self._broker.subscribe(each)
        self._bindings.begin(await app.bindings())
        await self._jobs.resume()

    def end(self) -> None:
        """Bring no more."""
        self.working = False
        for each in self._subscriptions:
            self._broker.unsubscribe(each)
        self._subscriptions = []
        self._bindings.end()

    async def watch(self, app: AppLink, *, probes: bool, interval: float) -> None:
        """Wait for the app, then probe it every `interval` seconds, if `probes`; until cancelled."""
        failed = _UNWELL
        while True:
            well = await app.is_healthy() if probes else await app.is_listening()
            failed = 0 if well else failed + 1
            if well and not self.working:
                try:
                    await self.begin(app)
                except grpc.aio.AioRpcError as error:
                    logger.error("the app does not say what it listens to: {}", error.details())
                except RuleNotSupported as error:
                    logger.error("nothing is brought to the app, whose rules are beyond the stand-in: {}", error)
                    return
            elif self.working and failed >= _UNWELL:
                logger.warning("the app is not well: nothing is brought to it")
                self.end()
            await asyncio.sleep(interval if self.working else _BEFORE_SECONDS)
