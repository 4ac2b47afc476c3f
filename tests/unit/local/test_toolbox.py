"""Looking for programs in a thread: told on the loop, and ended when nobody waits for it any more."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from apibase.local import binaries
from apibase.local.toolbox import find_tools

DAPR = binaries.DaprBinaries("1.18.2", "test", Path("daprd"), Path("placement"), Path("scheduler"), None)


async def test_only_what_is_wanted_is_looked_for_and_progress_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def dapr(series: str, progress: Callable[[str], None]) -> binaries.DaprBinaries:
        progress(f"building {series}")
        return DAPR

    monkeypatch.setattr(binaries, "dapr_binaries", dapr)
    for backend in ("postgres", "redis", "kafka"):
        monkeypatch.setattr(binaries, f"{backend}_binaries", lambda **_: pytest.fail("not wanted"))
    told: list[str] = []
    tools = await find_tools(postgres=False, redis=False, progress=told.append, series="1.14")
    await asyncio.sleep(0)
    assert (tools.dapr, tools.postgres, tools.redis, tools.kafka) == (DAPR, None, None, None)
    assert told == ["building 1.14"]


async def test_a_missing_tool_is_an_error_in_its_own_words(monkeypatch: pytest.MonkeyPatch) -> None:
    def dapr(*_: object, **__: object) -> binaries.DaprBinaries:
        raise binaries.ToolMissing("no Go: install it")

    monkeypatch.setattr(binaries, "dapr_binaries", dapr)
    with pytest.raises(binaries.ToolMissing, match="no Go"):
        await find_tools(postgres=False, redis=False, progress=lambda _: None)


async def test_a_build_that_nobody_waits_for_any_more_is_ended_first(monkeypatch: pytest.MonkeyPatch) -> None:
    begun, ended = threading.Event(), threading.Event()

    def dapr(_: str, progress: Callable[[str], None]) -> binaries.DaprBinaries:
        try:
            begun.set()
            while True:
                progress("building")
        finally:
            ended.set()

    monkeypatch.setattr(binaries, "dapr_binaries", dapr)
    task = asyncio.create_task(find_tools(postgres=False, redis=False, progress=lambda _: None))
    assert await asyncio.to_thread(begun.wait, 10)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended.is_set()
