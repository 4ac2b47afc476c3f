"""Subscriptions to topics that are known only at run time: each is a stream to the sidecar, supervised until it is closed.

A subscription outlives its streams. Whatever ends one (the sidecar restarts, a component is reloaded or gone), the next one
is opened, sooner or later; handlers that are at work go on meanwhile. What a lost stream means for the events in flight, and
what was seen of daprd: docs/streaming-subscriptions.md.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import random
import time
from collections import Counter
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Literal, Self, cast

import grpc
from loguru import logger

from apibase.contract.reasons import chassis_reason
from apibase.errors import SidecarError, SidecarUnavailable
from apibase.routes import Incoming
from apibase.streaming.history import StreamHistory, as_sidecar_error, is_final
from apibase.streaming.stream import StreamEnded, TopicStream, UnreadableEvent
from apibase.topic_dispatch import log_unreadable, topic_event
from dapr_contract.v1 import errors_pb2

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from types import TracebackType

    from dapr.proto.runtime.v1 import appcallback_pb2

    from apibase.delivery import Status
    from apibase.streaming.history import StreamRequest
    from apibase.topic_dispatch import TopicDispatch

State = Literal["connecting", "receiving", "closing", "closed"]

_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 5.0
# daprd stops one subscription of a sidecar at a time, which takes up to 30 s each; opening waits for that.
_OPENING_SECONDS = 90.0
# How long daprd is given to end a stream that is half-closed: it waits for what it still has in flight.
_SHORTEST_PARTING, _LONGEST_PARTING = 1.0, 5.0
# How long handlers at work may take to be answered on a stream whose sidecar wants to go; without one it can't.
_LEAVING_SECONDS = 5.0
_CANCELLED_SECONDS = 1.0  # how long a handler may take to end once it is cancelled
_INTERNAL = chassis_reason(errors_pb2.ERROR_REASON_INTERNAL)

_at_work: ContextVar[StreamingSubscription | None] = ContextVar("streaming_subscription", default=None)
"""The subscription whose handler is running."""


class StreamingSubscription:
    """A subscription that lasts until it is closed, by `close` or by the end of an `async with`, or the app stops.

    A handler's error never ends it; neither does the loss of a stream, which shows in `state`, `last_error` and `reconnects`
    and in two lines of the log: one when it is lost, one when it is back.
    """

    def __init__(
        self,
        request: StreamRequest,
        channel: grpc.aio.Channel,
        dispatch: TopicDispatch,
        leave: Callable[[], asyncio.Event],
        *,
        grace: float = 20.0,
    ) -> None:
        self.pubsub_name = request.pubsub_name
        self.topic = request.topic
        self.verdicts: Counter[Status] = Counter()
        """How many events were answered with SUCCESS, RETRY and DROP."""
        self.untold = 0
        """How many events were handled whose stream was over by then: daprd brings them again."""
        self._request = request
        self._channel = channel
        self._dispatch = dispatch
        self._leave = leave
        self._grace = grace
        self._receiving = asyncio.Event()
        self._closing = asyncio.Event()
        self._first: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._slots = asyncio.Semaphore(request.concurrency)
        self._handlers: set[asyncio.Task[None]] = set()
        self._history = StreamHistory(request)
        self._patience: asyncio.Timeout | None = None
        self._deadline = 0.0
        # Its own context: a subscription that is made in a handler does not inherit that call's deadline and trace.
        self._task = asyncio.create_task(self._run(), name=str(request), context=contextvars.Context())

    @property
    def state(self) -> State:
        """`connecting` until the first stream is open and while one is lost, then `receiving`; `closing`, `closed`."""
        if self._task.done():
            return "closed"
        if self._closing.is_set():
            return "closing"
        return "receiving" if self._receiving.is_set() else "connecting"

    @property
    def reconnects(self) -> int:
        """How often it was opened again after a stream was lost."""
        return self._history.reconnects

    @property
    def last_error(self) -> SidecarError | None:
        """Why a stream was lost or could not be opened, last; it stays when the subscription is back."""
        return self._history.last_error

    @property
    def in_flight(self) -> int:
        """How many events are being handled."""
        return len(self._handlers)

    def __repr__(self) -> str:
        return f"<{self._request}: {self.state}>"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self, grace: float | None = None) -> None:
        """Take no more events, let handlers at work finish, tell daprd what became of their events, and end.

        A handler that has not finished after `grace` seconds (the setting `drain_timeout`) is cancelled, and its event comes
        again. It may be called at any time, and again: the shortest grace holds. Called by a handler of its own, this returns
        at once, and the end follows the handler's. Cancelling who waits here does not stop the closing.
        """
        self.begin_close(self._grace if grace is None else grace)
        if _at_work.get() is not self:
            await asyncio.wait({self._task})

    def begin_close(self, grace: float) -> None:
        """Do what `close` does, without waiting for its end."""
        until = asyncio.get_running_loop().time() + grace
        self._deadline = min(self._deadline, until) if self._closing.is_set() else until
        self._closing.set()
        if self._patience is not None:
            # Finished or just expiring, it can't be changed, and need not.
            with contextlib.suppress(RuntimeError):
                self._patience.reschedule(self._deadline)

    def on_closed(self, callback: Callable[[StreamingSubscription], object]) -> None:
        """Have a function called when it is closed."""
        self._task.add_done_callback(lambda _task: callback(self))

    async def tried(self, within: float) -> None:
        """Return when the first try is over, whatever came of it, or after `within` seconds.

        Raises the `SidecarError` of a first try that no other would mend; the subscription is closed then.
        """
        await asyncio.wait({self._first}, timeout=within)
        if self._first.done():
            self._first.result()

    async def opened(self, within: float) -> None:
        """Return when it is open. Raises why it is not, a `SidecarError`, after `within` seconds, and when it is closed."""
        receiving = asyncio.ensure_future(self._receiving.wait())
        try:
            await asyncio.wait({receiving, self._task}, timeout=within, return_when=asyncio.FIRST_COMPLETED)
        finally:
            receiving.cancel()
        if self._first.done():
            self._first.result()
        if not self._receiving.is_set():
            error = self.last_error or SidecarUnavailable("the sidecar does not answer")
            raise self._history.named(error, f"is not open after {within:g} s")

    async def _run(self) -> None:
        """Keep a stream open until the subscription is to be closed; whatever fails is told and tried again."""
        pause = _FIRST_PAUSE
        try:
            while not self._closing.is_set():
                started = time.monotonic()
                try:
                    await self._one_stream()
                except (grpc.aio.AioRpcError, StreamEnded) as error:
                    self._lost(as_sidecar_error(error, component=self.pubsub_name))
                except Exception as error:  # noqa: BLE001 - whatever it is, the subscription goes on
                    if not self._history.is_away:
                        logger.exception("{} failed with an unexpected {}", self._request, type(error).__name__)
                    self._lost(SidecarError(grpc.StatusCode.INTERNAL, _INTERNAL, f"unexpected {type(error).__name__}"))
                if time.monotonic() - started > _LONGEST_PAUSE:
                    pause = _FIRST_PAUSE
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._closing.wait(), pause * random.uniform(0.5, 1.0))  # noqa: S311 - no secret
                pause = min(pause * 2, _LONGEST_PAUSE)
            await self._finish_handlers()
        finally:
            for handler in self._handlers:
                handler.cancel()
            self._receiving.clear()
            if not self._first.done():
                self._first.set_result(None)
            if self._history.was_open:
                logger.info("{} is closed", self._request)

    async def _one_stream(self) -> None:
        """Open a stream and hand on what it brings, until it is lost, which raises, or the subscription is to be closed."""
        leave = self._leave()
        stream = TopicStream(self._channel)
        closing = asyncio.ensure_future(self._closing.wait())
        leaving = asyncio.ensure_future(leave.wait())
        receiving = asyncio.ensure_future(self._receive(stream))
        try:
            await asyncio.wait({receiving, closing, leaving}, return_when=asyncio.FIRST_COMPLETED)
            stream.draining = True
            if receiving.done() and not self._closing.is_set():
                if receiving.cancelled():
                    raise StreamEnded("the connection to the sidecar was closed")
                receiving.result()
            await self._settle(closing)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._parting_seconds):
                    await stream.half_close()
                    await asyncio.wait({receiving})
            if not self._closing.is_set():
                raise StreamEnded("the sidecar goes away")
        finally:
            self._receiving.clear()
            closing.cancel()
            leaving.cancel()
            await stream.abandon()
            receiving.cancel()
            await asyncio.gather(receiving, return_exceptions=True)

    async def _settle(self, closing: asyncio.Future[Any]) -> None:
        """Let handlers at work finish before their stream is ended, as long as there is time for it."""
        loop = asyncio.get_running_loop()
        until = loop.time() + _LEAVING_SECONDS
        while self._handlers and not closing.done() and (left := until - loop.time()) > 0:
            waited: set[asyncio.Future[Any]] = {closing, *self._handlers}
            await asyncio.wait(waited, timeout=left, return_when=asyncio.FIRST_COMPLETED)
        if self._closing.is_set():
            await self._finish_handlers()

    @property
    def _parting_seconds(self) -> float:
        if not self._closing.is_set():
            return _LONGEST_PARTING
        left = self._deadline - asyncio.get_running_loop().time()
        return min(max(left, _SHORTEST_PARTING), _LONGEST_PARTING)

    async def _receive(self, stream: TopicStream) -> None:
        """Open a stream, and take an event from it whenever a handler is free. Raises how it ended."""
        request = self._request
        try:
            async with asyncio.timeout(_OPENING_SECONDS):
                await stream.open(
                    request.pubsub_name,
                    request.topic,
                    metadata=request.metadata,
                    dead_letter_topic=request.dead_letter_topic,
                )
        except TimeoutError:
            raise StreamEnded(f"the sidecar did not answer within {_OPENING_SECONDS:.0f} s") from None
        self._opened()
        while True:
            await self._slots.acquire()
            # What comes once the stream is to be ended is left unanswered: daprd has it for the next one.
            taken = False
            try:
                event = await stream.read()
                if not stream.draining and not self._closing.is_set():
                    self._start(self._handle(stream, event))
                    taken = True
            except UnreadableEvent as unreadable:
                self._refuse(stream, unreadable.event)
            finally:
                if not taken:
                    self._slots.release()

    def _start(self, work: Coroutine[None, None, None]) -> None:
        handler = asyncio.create_task(work)
        self._handlers.add(handler)
        handler.add_done_callback(self._ended)

    def _ended(self, handler: asyncio.Task[None]) -> None:
        self._handlers.discard(handler)
        self._slots.release()

    async def _handle(self, stream: TopicStream, event: appcallback_pb2.TopicEventRequest) -> None:
        _at_work.set(self)
        try:
            status = await self._deliver(event)
        except Exception as error:  # noqa: BLE001 - a fault of ours; without an answer the event would be stuck
            logger.bind(event_id=event.id).exception(
                "{} failed at event {} with an unexpected {}", self._request, event.id, type(error).__name__
            )
            status = "RETRY"
        self._answer(stream, event.id, status)

    async def _deliver(self, event: appcallback_pb2.TopicEventRequest) -> Status:
        context = topic_event(event, self.pubsub_name, self.topic, {})
        timeout = self._request.handler_timeout
        try:
            async with asyncio.timeout(timeout):
                call = await self._dispatch.dispatch(Incoming(context, event.data, event), "", timeout)
                return cast("Status", call.outcome)
        except TimeoutError:
            logger.bind(event_id=event.id).warning(
                "{}: event {} took longer than {:g} s to handle; it is to come again", self._request, event.id, timeout
            )
            return "RETRY"

    def _refuse(self, stream: TopicStream, event: appcallback_pb2.TopicEventRequest) -> None:
        log_unreadable(event.id, self.topic, self.pubsub_name)
        self._answer(stream, event.id, "DROP")

    def _answer(self, stream: TopicStream, event_id: str, status: Status) -> None:
        if stream.answer(event_id, status):
            self.verdicts[status] += 1
            return
        self.untold += 1
        logger.bind(event_id=event_id).debug(
            "{}: event {} was {}, but its stream is over; it comes again", self._request, event_id, status
        )

    async def _finish_handlers(self) -> None:
        """Let handlers at work finish within the grace, then cancel what is left."""
        self._patience = asyncio.timeout_at(self._deadline)
        try:
            async with self._patience:
                while self._handlers:
                    await asyncio.wait(self._handlers)
        except TimeoutError:
            if not self._handlers:  # the last one finished at that very moment
                return
            logger.warning("{}: {} handlers did not finish in time; cancelled", self._request, len(self._handlers))
            for handler in self._handlers:
                handler.cancel()
            await asyncio.wait(self._handlers, timeout=_CANCELLED_SECONDS)

    def _opened(self) -> None:
        self._history.opened()
        self._receiving.set()
        if not self._first.done():
            self._first.set_result(None)

    def _lost(self, error: SidecarError) -> None:
        if self._first.done():
            self._history.lost(error)
        elif is_final(error):
            self._history.last_error = error
            self._first.set_exception(self._history.named(error, "is refused"))
            self._first.exception()  # nobody may wait for it any more
            self._closing.set()
        else:
            self._history.lost(error)
            self._first.set_result(None)
