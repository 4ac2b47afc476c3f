"""gRPC services that an app brings ready-made: served beside the contracts', behind the app's token, otherwise untouched."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc
from dapr.proto.runtime.v1 import appcallback_pb2
from google.protobuf import descriptor_pool
from grpc_health.v1 import health_pb2
from loguru import logger

from apibase.contract import ContractError, allowed_callers, listeners
from apibase.middleware.call import TOKEN_HEADER

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from apibase.errors import ServiceError
    from apibase.middleware.app_token import AppToken

    Context = grpc.aio.ServicerContext[Any, Any]
    Handler = grpc.RpcMethodHandler[Any, Any]
    AddToServer = Callable[[Any, Any], object]

_CALLBACKS = frozenset(service.full_name for service in appcallback_pb2.DESCRIPTOR.services_by_name.values())
_HEALTH = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name


class ExternalServices:
    """What generated `add_…Servicer_to_server` functions add, kept until there is a server."""

    def __init__(self) -> None:
        self._handlers: list[grpc.GenericRpcHandler] = []
        self._names: list[str] = []
        self._unused: list[str] = []

    def claim(self, name: str) -> None:
        """Take a service's name. Raises `ContractError` where it is taken."""
        if name in _CALLBACKS or name == _HEALTH:
            raise ContractError(f"{name} is served by the app itself; leave it out")
        if name in self._names:
            raise ContractError(f"{name} is served twice; add one implementation of it")
        self._names.append(name)

    def add(self, add_to_server: AddToServer, servicer: object) -> None:
        """Add a service. Raises `ContractError` where it is one of listeners, or for named callers, or the app channel itself.

        Of `grpc.health.v1` the chassis's own is served: an app that brings one has needed it, and now doesn't.
        """
        taken = _Taken()
        add_to_server(servicer, taken)
        for name in _names(taken.handlers):
            if name == _HEALTH:
                self._unused.append(name)
                return
            _check_contract(name)
            self.claim(name)
        self._handlers += taken.handlers

    @property
    def names(self) -> tuple[str, ...]:
        """The names that are taken."""
        return tuple(self._names)

    def behind(self, token: AppToken) -> tuple[grpc.GenericRpcHandler, ...]:
        """Return the handlers, each of which asks for the token first."""
        for name in self._unused:
            logger.warning("{} is served by the app itself; the one that was added is not used", name)
        return tuple(_Guarded(handler, token) for handler in self._handlers)


class _Taken:
    """A server as far as generated code knows it."""

    def __init__(self) -> None:
        self.handlers: list[grpc.GenericRpcHandler] = []

    def add_generic_rpc_handlers(self, generic_rpc_handlers: Sequence[grpc.GenericRpcHandler]) -> None:
        self.handlers += generic_rpc_handlers

    def add_registered_method_handlers(self, service_name: str, method_handlers: object) -> None:
        """Do nothing: generated code gives the same handlers to the other method."""


class _Guarded(grpc.GenericRpcHandler):
    """A handler behind the app's token."""

    def __init__(self, handler: grpc.GenericRpcHandler, token: AppToken) -> None:
        self._handler = handler
        self._token = token

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Handler | None:
        handler = self._handler.service(handler_call_details)
        if handler is None:
            return None
        given = next(
            (value for key, value in handler_call_details.invocation_metadata or () if key == TOKEN_HEADER), ""
        )
        error = self._token.refusal(given if isinstance(given, str) else "")
        return handler if error is None else _refusal(error)


def _refusal(error: ServiceError) -> Handler:
    """Return a handler of any kind of call, for it reads no request."""

    async def refuse(_requests: AsyncIterator[object], context: Context) -> None:
        await context.abort(error.code, error.message)

    return grpc.stream_unary_rpc_method_handler(refuse)


def _names(handlers: Sequence[grpc.GenericRpcHandler]) -> tuple[str, ...]:
    return tuple(handler.service_name() for handler in handlers if isinstance(handler, grpc.ServiceRpcHandler))


def _check_contract(name: str) -> None:
    try:
        service = descriptor_pool.Default().FindServiceByName(name)
    except KeyError:
        return  # of no contract that is loaded here
    if listeners(service):
        raise ContractError(f"{name} listens to Dapr and is never served; add it with add_servicer")
    if any(allowed_callers(method) is not None for method in service.methods):
        raise ContractError(f"{name} names callers, which nobody checks here; add it with add_servicer")
