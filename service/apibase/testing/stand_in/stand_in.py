"""The stand-in as tests see it: what was published, what is kept, what is sent, and what is brought to the app."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar, overload

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import Message

from apibase.clients._values import decode, encode
from apibase.clients.publication import Publication, outgoing
from apibase.testing.stand_in.cloud_events import data_of
from apibase.testing.stand_in.component import Component
from apibase.testing.stand_in.peers import Peer, PeerServer
from apibase.testing.stand_in.server import Server
from apibase.testing.stand_in.state_view import StateView

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from apibase.clients._values import Value
    from apibase.testing.stand_in.api import ApiCall
    from apibase.testing.stand_in.bindings import Sent
    from apibase.testing.stand_in.configuration import ConfigurationStore
    from apibase.testing.stand_in.jobs import ScheduledJob
    from apibase.testing.stand_in.records import Delivery, Record
    from apibase.testing.stand_in.secrets import SecretStore

M = TypeVar("M", bound=Message)

_PUBLISHER = "test"
"""The app id that events of a test come from."""


class StandIn(Server):
    """A sidecar for the unit tests of one service."""

    _peers: list[PeerServer]

    async def start(self) -> None:
        """Listen. Raises `OSError` where a port is taken."""
        self._peers = []
        await super().start()

    async def stop(self) -> None:
        """End it, and the apps that it stood in for."""
        for peer in self._peers:
            await peer.stop()
        await super().stop()

    # Topics.

    async def publish(self, event: Value | Publication, *, pubsub_name: str = "", topic: str = "") -> Delivery:
        """Publish as another app would, and return what came of it, once the app has nothing more to do with it.

        A contract's event goes where its contract says; of anything else, say where. `Publication` has more to say. Tries that
        a retry policy puts off are made when the clock is advanced. Raises `LookupError` for a pub/sub that is not loaded.
        """
        return (await self.publish_all([event], pubsub_name=pubsub_name, topic=topic))[0]

    async def publish_all(
        self, events: Iterable[Value | Publication], *, pubsub_name: str = "", topic: str = ""
    ) -> list[Delivery]:
        """Publish several at once: to a subscription with batches they come as one."""
        deliveries = []
        for event in events:
            given = (
                event
                if isinstance(event, Publication)
                else Publication(event, pubsub_name=pubsub_name or None, topic=topic or None)
            )
            sent = outgoing(given, _PUBLISHER, {})
            if self.registry.component(sent.pubsub_name, "pubsub") is None:
                raise _not_loaded(self, sent.pubsub_name, "pub/sub")
            record = self.pubsub.record(
                sent.pubsub_name, sent.topic, sent.data, sent.content_type, sent.metadata, _PUBLISHER, _PUBLISHER
            )
            deliveries.append(self.broker.publish(record))
        await self.settled()
        return deliveries

    @overload
    def published(self, what: type[M]) -> list[M]: ...
    @overload
    def published(self, what: str = "", *, pubsub_name: str = "") -> list[Record]: ...
    def published(self, what: type[Message] | str = "", *, pubsub_name: str = "") -> Sequence[Message | Record]:
        """Return what the app has published: messages of a type, or the records of a topic, the oldest first.

        Of a topic, what the sidecar has written is there too: its dead letters.
        """
        records = [each for each in self.broker.records if each.publisher != _PUBLISHER]
        if not isinstance(what, str):
            wanted = what.DESCRIPTOR.full_name
            found = (each for each in records if each.publisher == "app")
            return [decode(data_of(each.event, in_batch=False), what) for each in found if each.type == wanted]
        return [each for each in records if what in {"", each.topic} and pubsub_name in {"", each.pubsub_name}]

    async def settled(self) -> None:
        """Return when nothing goes on any more, but what waits for the clock."""
        await self.work.idle()

    # What stores have.

    def state(self, store_name: str) -> StateView:
        """Return what a state store has. Raises `LookupError` for one that is not loaded."""
        store = self.registry.state_store(store_name)
        if store is None:
            raise _not_loaded(self, store_name, "state store")
        return StateView(store)

    def secrets(self, store_name: str) -> SecretStore:
        """Return the secrets of a store, to be set by name. Raises `LookupError` for one that is not loaded."""
        store = self.registry.secret_store(store_name)
        if store is None:
            raise _not_loaded(self, store_name, "secret store")
        return store

    def configuration(self, store_name: str) -> ConfigurationStore:
        """Return the items of a configuration store, to be `set`. Raises `LookupError` for one that is not loaded."""
        if self.registry.component(store_name, "configuration") is None:
            raise _not_loaded(self, store_name, "configuration store")
        return self.configurations.store(store_name)

    # Bindings and jobs.

    async def push(
        self, binding: str, data: Value = b"", *, metadata: Mapping[str, str] | None = None
    ) -> grpc.StatusCode:
        """Bring an event of an input binding to the app, and return the status that it answers. Raises `LookupError`."""
        try:
            await self.bindings.push(binding, encode(data)[0], metadata or {})
        except grpc.aio.AioRpcError as error:
            return error.code()
        return grpc.StatusCode.OK

    def sent(self, binding: str = "") -> list[Sent]:
        """Return what the app sent to a binding, or to any, the oldest first."""
        return [each for each in self.bindings.sent if binding in {"", each.name}]

    def answer(self, binding: str, data: Value) -> None:
        """Have the next operation on a binding return this."""
        self.bindings.answer(binding, encode(data)[0])

    def job(self, name: str) -> ScheduledJob | None:
        """Return a job that is scheduled."""
        return self.jobs.jobs.get(name)

    async def run_job(self, name: str, data: Value = b"") -> grpc.StatusCode:
        """Run a job now, scheduled or not, and return the status that the app answers. Raises `LookupError` without an app."""
        packed = None
        if data != b"":
            packed = AnyMessage()
            if isinstance(data, Message):
                packed.Pack(data)
            else:
                packed.value = encode(data)[0]
        return await self.jobs.run_now(name, packed)

    # Other apps, and what was called.

    async def serve(self, app_id: str, *servicers: object) -> None:
        """Have implementations of generated servicers answer for another app. What they raise as `ServiceError` is the status."""
        server = PeerServer()
        self._peers.append(server)
        self.router.peers[app_id] = Peer(app_id, await server.start(servicers))

    def add_app(self, app_id: str, *, grpc_address: str = "", http_url: str = "") -> None:
        """Have calls of another app go to an address, or, if it speaks HTTP, to a URL."""
        self.router.peers[app_id] = Peer(app_id, grpc_address, http_url)

    def calls(self, operation: str = "") -> list[ApiCall]:
        """Return the calls of Dapr's API, of all operations or of one by the name of its rpc, the oldest first."""
        return self.api.calls(operation)

    def add(self, name: str, type_and_version: str, **metadata: str) -> None:
        """Load a component: `add("statestore", "state.postgresql/v2")`."""
        self.registry.add(component(name, type_and_version, metadata))


def component(name: str, type_and_version: str, metadata: Mapping[str, str] | None = None) -> Component:
    """Return a component of a type that is written as `state.redis`, or as `state.postgresql/v2`."""
    kind, _, version = type_and_version.partition("/")
    return Component(name, kind, version or "v1", dict(metadata or {}))


def _not_loaded(sidecar: Server, name: str, what: str) -> LookupError:
    there = ", ".join(each.name for each in sidecar.registry.components) or "none"
    return LookupError(
        f"no {what} {name!r} is loaded; components are {there}. Name it in components= or resources= of the marker sidecar"
    )
