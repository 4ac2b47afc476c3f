"""The route table: which handler takes what daprd brings. Annotations and decorators fill the same one."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from apibase.contract import (
    BindingListener,
    ContractError,
    JobListener,
    Listener,
    TopicListener,
    is_implemented,
    listeners,
    request_class,
    servicer_contract,
    where,
)
from apibase.decoding import read
from apibase.routes.route import JobRoute, Route, TopicRoute
from apibase.routes.topics import TopicTable
from apibase.threads import as_async

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from concurrent.futures import Executor

    from google.protobuf.descriptor import ServiceDescriptor
    from google.protobuf.message import Message

    from apibase.events import EventContext
    from apibase.routes.route import Reader


class RouteTable(TopicTable):
    """Every handler of an app. Filled before the server starts, read-only from then on."""

    def __init__(self) -> None:
        super().__init__()
        self._bindings: dict[str, Route] = {}
        self._jobs: dict[str, JobRoute] = {}
        self._methods: dict[str, Route] = {}

    def add(self, servicer: object, pool: Executor | None = None) -> int:
        """Add the listeners of a servicer and return how many they are; none for a service of rpcs.

        Those that are plain functions run in the threads of `pool`.

        Raises `ContractError` where a listener is not implemented, or contradicts another one.
        """
        found = listeners(servicer_contract(servicer))
        for listener in found:
            if not is_implemented(servicer, listener.method):
                raise ContractError(
                    f"{where(listener.method)} is not implemented by {type(servicer).__qualname__}; add the method"
                )
            self._add_listener(listener, as_async(getattr(servicer, listener.method.name), pool))
        return len(found)

    def declare(self, service: ServiceDescriptor) -> list[Listener]:
        """Add the listeners of a service that nobody implements here, and return them: for who reads contracts, runs nothing.

        Raises `ContractError` as `add` does.
        """
        found = listeners(service)
        for listener in found:
            self._add_listener(listener, _nobody)
        return found

    def _add_listener(self, listener: Listener, behavior: Callable[[Message, EventContext], Awaitable[object]]) -> None:
        method = listener.method
        request = request_class(method)
        name, place, domain = method.full_name, where(method), method.containing_service.file.package
        raw = isinstance(listener, TopicListener) and listener.options.raw_payload
        reader = contract_reader(request, raw=raw)
        match listener:
            case TopicListener(options=options):
                self.add_topic(
                    TopicRoute(
                        name,
                        behavior,
                        place,
                        request,
                        domain,
                        reader,
                        pubsub_name=options.pubsub_name,
                        topic=options.name,
                        event_type="" if raw else listener.event_type,
                        match=options.match,
                        priority=options.priority,
                        dead_letter_topic=options.dead_letter_topic,
                        metadata=dict(options.metadata) | ({"rawPayload": "true"} if raw else {}),
                        bulk=options.bulk if options.HasField("bulk") else None,
                        deduplication=listener.deduplication,
                    )
                )
            case BindingListener():
                self.add_binding(listener.name, Route(name, behavior, place, request, domain, reader))
            case JobListener():
                self.add_job(
                    listener.name, JobRoute(name, behavior, place, request, domain, reader, options=listener.options)
                )

    def add_binding(self, name: str, route: Route) -> None:
        """Add the handler of an input binding."""
        _add(self._bindings, name, route, f"binding {name!r}")

    def add_job(self, name: str, route: JobRoute) -> None:
        """Add the handler of a job."""
        _add(self._jobs, name, route, f"job {name!r}")

    def add_method(self, name: str, route: Route) -> None:
        """Add the handler of a method that others invoke by its name, without a contract."""
        _add(self._methods, name, route, f"method {name!r}")

    @property
    def bindings(self) -> Mapping[str, Route]:
        """The handlers of input bindings, by the component's name."""
        return self._bindings

    @property
    def jobs(self) -> Mapping[str, JobRoute]:
        """The handlers of jobs, by the job's name."""
        return self._jobs

    @property
    def methods(self) -> Mapping[str, Route]:
        """The handlers of methods without a contract, by name."""
        return self._methods


async def _nobody(message: Message, _context: EventContext) -> None:
    raise NotImplementedError(f"nobody handles {message.DESCRIPTOR.full_name}")


def contract_reader(request: type[Message], *, raw: bool) -> Reader:
    """Return what reads the message of a contract, which is not yet held against its rules."""
    return functools.partial(read, request, raw=raw)


def _add(table: dict[str, Route] | dict[str, JobRoute], name: str, route: Route, what: str) -> None:
    if name in table:
        other = table[name]
        raise ContractError(
            f"{route.place or route.name} and {other.place or other.name} both listen to {what}; take one away"
        )
    table[name] = route  # type: ignore[assignment]
