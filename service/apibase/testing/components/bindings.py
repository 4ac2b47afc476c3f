"""Bindings in memory: records that a test pushes in, and what the app sends out."""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import grpc

from apibase.testing.components.component import MockComponent, Refused
from apibase.testing.faults import InjectedStatus
from dapr_components.v1 import bindings_pb2

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping
    from pathlib import Path

    from google.protobuf.descriptor import ServiceDescriptor
    from google.protobuf.message import Message

    from apibase.testing.components.component import Call, CallContext, Stream, Unary
    from apibase.testing.faults import Faults

_SERVICES = bindings_pb2.DESCRIPTOR.services_by_name


@dataclass(eq=False)
class BindingRecord:
    """A record that was pushed, and what the app made of it."""

    data: bytes
    metadata: dict[str, str]
    content_type: str
    id: str
    attempts: int = 0
    response: bytes = b""
    error: str = ""
    """What daprd said if the app failed; the record is then done with, as with most bindings."""
    _answered: asyncio.Event = field(default_factory=asyncio.Event, repr=False)

    async def answered(self, within: float = 5.0) -> None:
        """Return when the app has answered, be it with an error. Raises `TimeoutError` after so many seconds."""
        try:
            await asyncio.wait_for(self._answered.wait(), within)
        except TimeoutError:
            raise TimeoutError(f"the record was delivered {self.attempts} times and not answered") from None

    def _settle(self, request: bindings_pb2.ReadRequest) -> None:
        self.response = request.response_data
        self.error = request.response_error.message
        self._answered.set()


class MockInputBinding(MockComponent):
    """The component type `bindings.mock`, inwards. A record goes to one reader, and waits for one while there is none."""

    kind = "input"

    def __init__(self, folder: Path, name: str, faults: Faults, calls: list[Call]) -> None:
        super().__init__(folder, name, faults, calls)
        self.reading = 0
        """How many readers there are: one for each sidecar whose app takes the binding."""
        self._waiting: deque[BindingRecord] = deque()
        self._arrived = asyncio.Event()
        self._ids = itertools.count(1)

    def push(self, data: bytes, *, metadata: Mapping[str, str] | None = None, content_type: str = "") -> BindingRecord:
        """Put a record into the binding."""
        record = BindingRecord(data, dict(metadata or {}), content_type, str(next(self._ids)))
        self._waiting.append(record)
        self._arrived.set()
        return record

    def services(self) -> Mapping[ServiceDescriptor, Mapping[str, Unary | Stream]]:
        """Return how the protocol is answered."""
        return {
            _SERVICES["InputBinding"]: {
                "Init": lambda _: bindings_pb2.InputBindingInitResponse(),
                "Read": self._read,
            }
        }

    async def _next(self) -> BindingRecord:
        while not self._waiting:
            self._arrived.clear()
            await self._arrived.wait()
        return self._waiting.popleft()

    async def _read(
        self, requests: AsyncIterator[bindings_pb2.ReadRequest], context: CallContext
    ) -> AsyncIterator[bindings_pb2.ReadResponse]:
        await self.arrive("read", (), context)
        unanswered: dict[str, BindingRecord] = {}

        async def settle() -> None:
            async for request in requests:
                if record := unanswered.pop(request.message_id, None):
                    record._settle(request)  # noqa: SLF001 - it is this file's

        settling = asyncio.create_task(settle())
        self.reading += 1
        try:
            while True:
                record = await self._next()
                unanswered[record.id] = record
                try:
                    await self.fault("deliver")
                except InjectedStatus as error:
                    await context.abort(error.code, error.message)
                record.attempts += 1
                yield bindings_pb2.ReadResponse(
                    data=record.data,
                    metadata=record.metadata,
                    content_type=record.content_type,
                    message_id=record.id,
                )
        finally:
            self.reading -= 1
            settling.cancel()
            self._waiting.extendleft(reversed(unanswered.values()))
            self._arrived.set()


@dataclass(frozen=True, slots=True)
class Sent:
    """What the app sent out."""

    operation: str
    data: bytes
    metadata: Mapping[str, str]


class MockOutputBinding(MockComponent):
    """The component type `bindings.mock`, outwards. Faults name the binding's own operation as the key of `output.invoke`."""

    kind = "output"

    def __init__(self, folder: Path, name: str, faults: Faults, calls: list[Call]) -> None:
        super().__init__(folder, name, faults, calls)
        self.operations = ["create", "get", "list", "delete"]
        """What the binding can do; to be changed before daprd starts."""
        self.sent: list[Sent] = []
        """What the app sent out, in order."""
        self.answers: dict[str, bytes | Callable[[Sent], bytes]] = {}
        """What is answered, by operation: data, or a function that makes it; nothing otherwise."""

    def keys_of(self, request: Message) -> tuple[str, ...]:
        """Return the binding's own operation."""
        return (request.operation,) if isinstance(request, bindings_pb2.InvokeRequest) else ()

    def services(self) -> Mapping[ServiceDescriptor, Mapping[str, Unary]]:
        """Return how the protocol is answered."""
        return {
            _SERVICES["OutputBinding"]: {
                "Init": lambda _: bindings_pb2.OutputBindingInitResponse(),
                "Invoke": self._invoke,
                "ListOperations": lambda _: bindings_pb2.ListOperationsResponse(operations=self.operations),
            }
        }

    def _invoke(self, request: bindings_pb2.InvokeRequest) -> bindings_pb2.InvokeResponse:
        if request.operation not in self.operations:
            known = ", ".join(self.operations)
            raise Refused(grpc.StatusCode.UNIMPLEMENTED, f"no operation {request.operation!r}; there is {known}")
        sent = Sent(request.operation, request.data, dict(request.metadata))
        self.sent.append(sent)
        answer = self.answers.get(request.operation, b"")
        return bindings_pb2.InvokeResponse(data=answer if isinstance(answer, bytes) else answer(sent))
