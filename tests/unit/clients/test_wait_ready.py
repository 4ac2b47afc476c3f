"""Waiting for the sidecar: as long as it takes, with words, and without holding up the loop."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import grpc
import pytest

from apibase import Settings, Sidecar, SidecarError, SidecarUnavailable
from apibase.clients import _transport
from tests.unit.fake_dapr import FakeDapr, eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.unit.conftest import Log

pytestmark = pytest.mark.req("R15.5")


@pytest.fixture
async def sidecar(settings: Settings) -> AsyncIterator[Sidecar]:
    sidecar = Sidecar(settings)
    yield sidecar
    await sidecar.close()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Say what is being waited for every 20 ms."""
    monkeypatch.setattr(_transport, "_ATTEMPT_SECONDS", 0.02)
    monkeypatch.setattr(_transport, "_SILENCE_SECONDS", 0.01)


async def test_a_sidecar_that_answers_is_ready_at_once(dapr: FakeDapr, sidecar: Sidecar, log: Log) -> None:
    await sidecar.wait_ready(5)

    line = log.one(level="INFO")
    assert "answers after 0.0 s" in line["message"]
    assert line["runtime"] == "1.18.2"
    assert log.of(level="WARNING") == []


@pytest.mark.usefixtures("impatient")
async def test_a_late_sidecar_is_waited_for_with_words(settings: Settings, sidecar: Sidecar, log: Log) -> None:
    waiting = asyncio.ensure_future(sidecar.wait_ready(30))
    await eventually(lambda: len(log.of(level="WARNING")) >= 3)
    assert not waiting.done()

    async with FakeDapr(settings.sidecar_address):
        await asyncio.wait_for(waiting, 5)

    for line in log.of(level="WARNING"):
        assert settings.sidecar_address in line["message"]
        assert "giving up after 30 s" in line["message"]


@pytest.mark.req("R1.5")
@pytest.mark.usefixtures("impatient")
async def test_a_sidecar_that_never_comes_is_given_up_at_the_limit(settings: Settings, sidecar: Sidecar) -> None:
    started = time.monotonic()

    with pytest.raises(SidecarUnavailable, match=r"no sidecar at unix://.* \(APIBASE_SIDECAR_TIMEOUT\)") as caught:
        await sidecar.wait_ready(0.2)

    assert 0.2 <= time.monotonic() - started < 2
    assert caught.value.retryable


@pytest.mark.req("R13.2")
async def test_a_refused_token_is_not_waited_out(settings: Settings, log: Log) -> None:
    sidecar = Sidecar(settings.model_validate({**settings.model_dump(), "dapr_api_token": "hunter2"}))

    async with FakeDapr(settings.sidecar_address, token="another"):
        with pytest.raises(SidecarError, match="is DAPR_API_TOKEN the sidecar's") as caught:
            await sidecar.wait_ready(30)
    await sidecar.close()

    assert caught.value.code is grpc.StatusCode.UNAUTHENTICATED
    assert "hunter2" not in str(caught.value)
    assert "hunter2" not in log.text


async def test_the_right_token_is_taken(settings: Settings) -> None:
    sidecar = Sidecar(settings.model_validate({**settings.model_dump(), "dapr_api_token": "hunter2"}))

    async with FakeDapr(settings.sidecar_address, token="hunter2"):
        await sidecar.wait_ready(5)
        await sidecar.close()


async def test_a_sidecar_that_answers_with_errors_at_first_becomes_ready_and_the_log_is_not_flooded(
    dapr: FakeDapr, sidecar: Sidecar, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_transport, "_RETRY_SECONDS", 0.01)
    for _ in range(10):
        dapr.fail("GetMetadata", grpc.StatusCode.UNIMPLEMENTED, "the runtime is still loading")

    await sidecar.wait_ready(30)

    assert len(dapr.calls) == 11
    (line,) = log.of(level="WARNING")
    assert "UNIMPLEMENTED: the runtime is still loading" in line["message"]


@pytest.mark.usefixtures("impatient")
async def test_waiting_does_not_hold_up_the_loop(sidecar: Sidecar) -> None:
    waiting = asyncio.ensure_future(sidecar.wait_ready(0.3))
    longest, last = 0.0, time.monotonic()
    while not waiting.done():
        await asyncio.sleep(0)
        longest, last = max(longest, time.monotonic() - last), time.monotonic()

    assert isinstance(waiting.exception(), SidecarUnavailable)
    assert longest < 0.15


async def test_waiting_can_be_cancelled(sidecar: Sidecar) -> None:
    waiting = asyncio.ensure_future(sidecar.wait_ready(30))
    await asyncio.sleep(0)
    waiting.cancel()

    with pytest.raises(asyncio.CancelledError):
        await waiting
