"""Bindings: what the app sends is recorded, what a test pushes is brought to the app; cron follows the clock."""

from __future__ import annotations

import collections
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import grpc
from dapr.proto import api_v1
from loguru import logger

from apibase.clients._values import decode
from apibase.testing.stand_in.api_errors import ApiError
from apibase.testing.stand_in.local_storage import OPERATIONS as FILE_OPERATIONS
from apibase.testing.stand_in.local_storage import on_files
from apibase.testing.stand_in.schedule import Schedule

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from apibase.testing.stand_in.api import ApiCall, Operations
    from apibase.testing.stand_in.app_link import AppLink
    from apibase.testing.stand_in.clock import Clock, Timer
    from apibase.testing.stand_in.registry import Registry

V = TypeVar("V")

_CRON = "bindings.cron"
_FILES = "bindings.localstorage"


@dataclass(frozen=True)
class Sent:
    """What the app sent to a binding, and how it asked for it."""

    name: str
    operation: str
    data: bytes
    metadata: Mapping[str, str]

    def value(self, kind: type[V]) -> V:
        """Return the data as a message of a contract, a pydantic model, text, bytes, or what JSON has. Raises `ValueError`."""
        return decode(self.data, kind)


class BindingsApi:
    """Dapr's operation on output bindings, and what comes in by the others."""

    def __init__(self, registry: Registry, clock: Clock, app: Callable[[], AppLink | None]) -> None:
        self._registry = registry
        self._clock = clock
        self._app = app
        self._timers: list[Timer] = []
        self.sent: list[Sent] = []
        """Everything that the app sent, the oldest first."""
        self._answers: dict[str, collections.deque[bytes]] = collections.defaultdict(collections.deque)

    @property
    def operations(self) -> Operations:
        """By the names of their rpcs."""
        return {"InvokeBinding": self._invoke}

    def answer(self, name: str, data: bytes) -> None:
        """Have the next operation on a binding return this."""
        self._answers[name].append(data)

    def begin(self, names: Sequence[str]) -> None:
        """Read the cron bindings that the app listens to."""
        for component in self._registry.of_block("bindings"):
            schedule = component.option("schedule")
            listened = component.name in names or component.option("direction") == "input"
            if component.type == _CRON and listened and schedule:  # one without a schedule is the test's to push
                self._schedule(component.name, Schedule.parse(schedule, seconds_optional=True))

    def end(self) -> None:
        """Read no cron binding any more."""
        for timer in self._timers:
            timer.cancel()
        self._timers.clear()

    async def push(self, name: str, data: bytes, metadata: Mapping[str, str]) -> None:
        """Bring an event to the app. Raises `LookupError` for no binding, gRPC's error where the app fails."""
        component = self._registry.component(name, "bindings")
        app = self._app()
        if component is None or not (component.is_input or component.type == "bindings.in-memory"):
            raise LookupError(f"{name!r} is no input binding; declare it, with a type such as bindings.kafka")
        if app is None:
            raise LookupError(f"no app is connected that an event of {name!r} could go to")
        await app.deliver_binding(name, data, metadata)

    def _schedule(self, name: str, schedule: Schedule) -> None:
        async def fire() -> None:
            self._schedule(name, schedule)
            now = f"{self._clock.now:%Y-%m-%d %H:%M:%S.%f +0000 UTC}"
            try:
                await self.push(name, b"", {"timeZone": "UTC", "readTimeUTC": now})
            except LookupError as error:
                logger.debug("an event of the cron binding {!r} goes to nobody: {}", name, error)
            except grpc.aio.AioRpcError as error:
                logger.debug("an event of the cron binding {!r} was not taken: {}", name, error.code().name)

        due = schedule.after(self._clock.seconds)
        if due is not None:
            self._timers = [timer for timer in self._timers if timer.due > self._clock.seconds]
            self._timers.append(self._clock.call_at(due, fire))

    async def _invoke(self, request: Any, _call: ApiCall) -> Any:  # noqa: ANN401 - the API's messages
        if not request.operation:
            raise _failed(request.name, "operation field is missing from request")
        component = self._registry.component(request.name, "bindings")
        if component is None or not component.is_output:
            raise _failed(request.name, f"couldn't find output binding {request.name}")
        is_files = component.type == _FILES
        if is_files and request.operation not in FILE_OPERATIONS:
            supported = " ".join(FILE_OPERATIONS)
            why = f"binding {request.name} does not support operation {request.operation}. supported operations:{supported}"
            raise _failed(request.name, why)
        self.sent.append(Sent(request.name, request.operation, request.data, dict(request.metadata)))
        if self._answers[request.name]:
            return api_v1.InvokeBindingResponse(data=self._answers[request.name].popleft())
        if not is_files:
            return api_v1.InvokeBindingResponse()
        try:
            data = on_files(component.option("rootPath"), request.operation, request.data, dict(request.metadata))
        except OSError as error:
            raise _failed(request.name, str(error)) from None
        return api_v1.InvokeBindingResponse(data=data)


def _failed(name: str, why: str) -> ApiError:
    message = f"error invoking output binding {name}: {why}"
    return ApiError(grpc.StatusCode.INTERNAL, message, "ERR_INVOKE_OUTPUT_BINDING")
