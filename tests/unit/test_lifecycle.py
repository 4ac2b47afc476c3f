"""An app's own hooks, and the order in which it begins and ends."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest

from apibase import App
from tests.unit.conftest import Desk, Log
from tests.unit.fake_dapr import eventually


async def test_hooks_run_in_order_before_the_app_is_ready_and_in_reverse_when_it_has_drained(
    settings: Any, dapr: Any
) -> None:
    app = App(settings)
    seen: list[tuple[str, bool]] = []

    def hook(name: str) -> Any:
        async def run() -> None:
            seen.append((name, app.health.ready))
            await app.sidecar.client.get_metadata()  # it can be called

        return run

    for name in ("pool", "cache"):
        app.before_ready(hook(f"open {name}"))
        app.after_drain(hook(f"close {name}"))

    try:
        await app.start()
        assert app.health.ready
    finally:
        await app.stop()

    assert seen == [("open pool", False), ("open cache", False), ("close cache", False), ("close pool", False)]


async def test_an_app_is_not_ready_when_a_hook_fails(settings: Any, dapr: Any) -> None:
    app = App(settings)
    closed: list[str] = []

    @app.before_ready
    async def warm() -> None:
        raise ZeroDivisionError

    @app.after_drain
    async def close() -> None:
        closed.append("close")

    with pytest.raises(ZeroDivisionError):
        await app.start()
    assert not app.health.ready
    await app.stop()
    assert closed == ["close"]


async def test_a_process_whose_hook_fails_says_so_and_exits_with_1(settings: Any, dapr: Any, log: Log) -> None:
    app = App(settings)

    @app.before_ready
    async def warm() -> None:
        raise ZeroDivisionError

    assert await app.serve() == 1

    line = log.one(level="ERROR")
    assert line["message"] == "desk could not start: ZeroDivisionError"
    assert "in warm" in line["error"]["stack"]


async def test_a_hook_that_fails_at_the_end_keeps_no_other_from_running(settings: Any, dapr: Any, log: Log) -> None:
    app = App(settings)
    closed: list[str] = []

    @app.after_drain
    async def close_pool() -> None:
        closed.append("pool")

    @app.after_drain
    async def close_cache() -> None:
        raise ZeroDivisionError

    await app.start()
    await app.stop()

    assert closed == ["pool"]
    assert "close_cache failed with ZeroDivisionError" in log.one(level="ERROR")["message"]


async def test_what_is_in_flight_ends_before_the_hooks_run_and_nothing_new_is_taken(
    desk: Desk, settings: Any, dapr: Any
) -> None:
    seen: list[str] = []
    at_work, go_on = asyncio.Event(), asyncio.Event()

    class DeskService(desk.grpc.DeskServicer):  # type: ignore[misc]
        async def Ask(self, request: Any, context: Any) -> Any:
            at_work.set()
            await go_on.wait()
            seen.append("answered")
            return desk.pb2.Answer(text="because")

    app = App(settings)
    app.add_servicer(DeskService())

    @app.after_drain
    async def close() -> None:
        seen.append("closed")

    await app.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{app.port}") as channel:
        asking = asyncio.ensure_future(desk.grpc.DeskStub(channel).Ask(desk.pb2.Question(text="why")))
        await at_work.wait()
        stopping = asyncio.ensure_future(app.stop())
        await eventually(lambda: app.health.draining)
        go_on.set()
        assert (await asking).text == "because"
        await stopping

    assert seen == ["answered", "closed"]


async def test_the_sidecar_is_told_what_every_call_passes(settings: Any, dapr: Any) -> None:
    app = App(settings.model_copy(update={"middleware": ("metrics", "app_token", "errors")}))
    await app.start()
    try:
        assert dapr.attributes == {"apibase.chain": "metrics,app_token,errors"}
    finally:
        await app.stop()


@pytest.mark.req("R1.4")
async def test_what_can_not_be_closed_keeps_nothing_else_open(
    settings: Any, dapr: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = App(settings)
    stopped: list[str] = []

    async def broken() -> None:
        raise OSError("it does not close")

    async def stop() -> None:
        stopped.append("telemetry")

    monkeypatch.setattr(app.sidecar, "close", broken)
    monkeypatch.setattr(app.telemetry, "stop", stop)
    await app.start()

    with pytest.raises(OSError, match="it does not close"):
        await app.stop()

    assert stopped == ["telemetry"]
