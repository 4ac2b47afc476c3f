"""Handlers without a contract: the decorators of the SDK's `dapr.ext.grpc.App`, in asyncio.

They fill the same route table as contracts do, so what comes of a handler is judged by the same table (see `delivery`):
an exception that nobody expected is RETRY with a stack trace in the log, a drop is a dead letter of the chassis, and no event
is ever answered with UNIMPLEMENTED. docs/migrating-from-dapr-ext-grpc.md lists every difference.
"""

from __future__ import annotations

import functools
import inspect
import warnings
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypedDict, TypeVar

from apibase import sdk_requests
from apibase.external_services import ExternalServices
from apibase.routes import JobRoute, Route, TopicRoute
from apibase.threads import as_async

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence
    from concurrent.futures import Executor

    import grpc

    from apibase.events import EventContext
    from apibase.external_services import AddToServer
    from apibase.health import Health
    from apibase.routes import Handler, RouteTable
    from apibase.sdk_requests import Rule

F = TypeVar("F", bound="Callable[..., object]")

_THREADS = 10


class ServerOptions(TypedDict, total=False):
    """What `grpc.aio.server` takes, by the names that `grpc.server` has for it."""

    thread_pool: Executor
    """The threads in which plain functions run, and the methods of external services that are such; 10, unless given."""
    options: Sequence[tuple[str, Any]]
    interceptors: Sequence[grpc.aio.ServerInterceptor]
    maximum_concurrent_rpcs: int
    compression: grpc.Compression


class Decorators:
    """What an app registers by decorators.

    A handler is an `async def`, which runs on the event loop, or a plain function, which runs in a thread. Decorators
    return the function that they are given, and raise `ContractError`, a `ValueError`, where two handlers claim the same.
    """

    health: Health

    def __init__(self, routes: RouteTable, thread_pool: Executor | None) -> None:
        self._routes = routes
        # As many as the SDK has, made when they are needed: fewer would make a service slower that has just moved over.
        self._thread_pool = thread_pool or ThreadPoolExecutor(_THREADS, thread_name_prefix="handler")
        self._external = ExternalServices()

    def method(self, name: str) -> Callable[[F], F]:
        """Register the handler of a method that other apps invoke by its name.

        It gets an `InvokeMethodRequest` and returns text, bytes, a protobuf message, an `InvokeMethodResponse` (which may
        have headers), or None. Anything else is OUT_OF_RANGE.
        """

        def register(function: F) -> F:
            route = Route(
                _name(function),
                self._handler(function, sdk_requests.answer_of),
                _place(function),
                read=sdk_requests.invoke_method_request,
            )
            self._routes.add_method(name, route)
            return function

        return register

    def subscribe(
        self,
        pubsub_name: str,
        topic: str,
        metadata: Mapping[str, str] | None = None,
        dead_letter_topic: str | None = None,
        rule: Rule | None = None,
        disable_topic_validation: bool | None = False,  # noqa: FBT001, FBT002 - the SDK's signature
    ) -> Callable[[F], F]:
        """Register a handler of the events of a topic, or of those that match a rule.

        It gets a `SubscriptionMessage` where its parameter is annotated so, else the SDK's deprecated CloudEvent class, with a
        `DeprecationWarning`. It returns a `TopicEventResponse` or nothing, which is success. `disable_topic_validation`
        is for patterns: events come with topics of their own, and reach the handler all the same.
        """

        def register(function: F) -> F:
            typed = sdk_requests.wants_subscription_message(function)
            if not typed:
                warnings.warn(
                    f"{_name(function)} gets the deprecated cloudevents.sdk.event.v1.Event; "
                    "annotate its parameter with apibase.SubscriptionMessage",
                    DeprecationWarning,
                    stacklevel=2,
                )
            self._routes.add_topic(
                TopicRoute(
                    _name(function, rule),
                    self._handler(function, sdk_requests.settle),
                    _place(function),
                    read=sdk_requests.subscription_message if typed else sdk_requests.cloud_event,
                    pubsub_name=pubsub_name,
                    topic=topic,
                    match=rule.match if rule else "",
                    priority=rule.priority if rule else 0,
                    any_topic=bool(disable_topic_validation),
                    dead_letter_topic=dead_letter_topic or "",
                    metadata=dict(metadata or {}),
                )
            )
            return function

        return register

    def binding(self, name: str) -> Callable[[F], F]:
        """Register the handler of an input binding. It gets a `BindingRequest`; what it returns is not used."""

        def register(function: F) -> F:
            handler = self._handler(function)
            self._routes.add_binding(
                name, Route(_name(function), handler, _place(function), read=sdk_requests.binding_request)
            )
            return function

        return register

    def job_event(self, name: str) -> Callable[[F], F]:
        """Register the handler of a job, which somebody schedules by that name. It gets a `JobEvent`."""

        def register(function: F) -> F:
            handler = self._handler(function)
            self._routes.add_job(
                name, JobRoute(_name(function), handler, _place(function), read=sdk_requests.job_event)
            )
            return function

        return register

    def register_health_check(self, health_check_callback: F) -> F:
        """Have every health probe ask this function too: an exception says that the app takes no work.

        It is asked only while the app is ready otherwise. Raises `ValueError` for none. A later one takes its place.
        """
        if not health_check_callback:
            raise ValueError("a health check is a function; none was given")
        # In threads of its own: a probe does not wait for handlers.
        # A thread of its own: it is asked while all of the others are busy too.
        self.health.set_check(as_async(health_check_callback, ThreadPoolExecutor(1, thread_name_prefix="health")))
        return health_check_callback

    def add_external_service(self, servicer_callback: AddToServer, external_servicer: object) -> None:
        """Serve a gRPC service beside the app channel: `add_GreeterServicer_to_server` and an implementation of it.

        The chassis asks its callers for the app's token and does no more for it: no validation, no error details. Prefer
        `add_servicer`, which does.
        """
        self._external.add(servicer_callback, external_servicer)

    def _handler(self, function: Callable[..., object], outcome: Callable[[object], object] | None = None) -> Handler:
        call: Callable[..., Awaitable[object]] = as_async(function, self._thread_pool)

        async def handle(argument: object, _context: EventContext) -> object:
            returned = await call(argument)
            return outcome(returned) if outcome else None

        return handle


def _name(function: Callable[..., object], rule: Rule | None = None) -> str:
    """Return the name by which daprd is told of a rule, and logs of a handler."""
    name: str = getattr(function, "__name__", "") or (rule.match if rule else type(function).__name__)
    return name


def _place(function: Callable[..., object]) -> str:
    """Return where a function is defined, as people and editors read it."""
    while isinstance(function, functools.partial):
        function = function.func
    code = getattr(inspect.unwrap(function), "__code__", None)
    return f"{code.co_filename}:{code.co_firstlineno}: {_name(function)}" if code else ""
