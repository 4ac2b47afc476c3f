"""HTTP apps: what a call carries, counts and leaves behind, and a sidecar that refuses or is away."""

from __future__ import annotations

import asyncio
import ssl
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
import trustme
from aiohttp import web
from opentelemetry.trace import SpanKind, StatusCode

from apibase import HttpApp, ServiceInvocationClient, Settings, Sidecar, SidecarError, SidecarUnavailable
from apibase.clients.http_status import code_of, not_through
from apibase.observability import call_context
from apibase.observability.metrics import Metrics
from tests.unit.clients.test_spans import HEADERS, traceparent, within
from tests.unit.conftest import Log
from tests.unit.traced import Recorded

DIRECT = '{"errorCode":"ERR_DIRECT_INVOKE","message":"failed to invoke, id: shop, err: %s"}'


class Daprd:
    """The sidecar's HTTP API, which answers every call itself, as `answer` says."""

    def __init__(self) -> None:
        self.requests: list[web.Request] = []
        self.answer: Callable[[], web.Response] = lambda: web.json_response({"fine": True})

    @asynccontextmanager
    async def at(self, site: Callable[[web.AppRunner], web.BaseSite]) -> AsyncIterator[int]:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._take)
        runner = web.AppRunner(app, access_log=None, handle_signals=False)
        await runner.setup()
        await site(runner).start()
        try:
            yield runner.addresses[0][1] if isinstance(runner.addresses[0], tuple) else 0
        finally:
            await runner.cleanup()

    async def _take(self, request: web.Request) -> web.Response:
        await request.read()
        self.requests.append(request)
        return self.answer()


def tcp(port: int = 0, **options: Any) -> Callable[[web.AppRunner], web.BaseSite]:
    return lambda runner: web.TCPSite(runner, "127.0.0.1", port, **options)


@pytest.fixture
async def daprd(settings: Settings) -> AsyncIterator[tuple[Daprd, Settings]]:
    fake = Daprd()
    async with fake.at(tcp()) as port:
        yield fake, settings.model_copy(update={"dapr_http_port": port})


@asynccontextmanager
async def shop(settings: Settings, metrics: Metrics | None = None) -> AsyncIterator[HttpApp]:
    sidecar = Sidecar(settings, metrics)
    yield ServiceInvocationClient(sidecar).http("shop")
    await sidecar.close()


@pytest.mark.req("R13.2")
async def test_a_call_carries_the_sidecars_token(daprd: tuple[Daprd, Settings]) -> None:
    fake, settings = daprd
    async with shop(settings.model_validate({**settings.model_dump(), "dapr_api_token": "hunter2"})) as http:
        await http.get("/x")
    assert fake.requests[0].headers["dapr-api-token"] == "hunter2"


async def test_an_app_is_addressed_by_its_id_whatever_that_has(daprd: tuple[Daprd, Settings]) -> None:
    fake, settings = daprd
    sidecar = Sidecar(settings)
    for app_id in ("shop.eu", "https://example.com"):
        await ServiceInvocationClient(sidecar).http(app_id).get("a b")
    await sidecar.close()

    assert [request.raw_path for request in fake.requests] == [
        "/v1.0/invoke/shop.eu/method/a%20b",
        "/v1.0/invoke/https%3A%2F%2Fexample.com/method/a%20b",
    ]


@pytest.mark.req("R2.5")
async def test_headers_that_a_caller_gives_win(daprd: tuple[Daprd, Settings]) -> None:
    fake, settings = daprd
    async with shop(settings) as http:
        with call_context({**HEADERS, "x-correlation-id": "c7"}):
            await http.get("/x", headers={"Traceparent": "mine"})

    headers = fake.requests[0].headers
    assert headers.getall("traceparent") == ["mine"]
    assert (headers["tracestate"], headers["x-correlation-id"]) == ("shelf=7", "c7")


@pytest.mark.req("R2.5", "R10.1")
async def test_a_call_within_a_recorded_span_has_one_of_its_own(
    daprd: tuple[Daprd, Settings], recorded: Recorded
) -> None:
    fake, settings = daprd
    fake.answer = lambda: web.Response(status=404)
    async with shop(settings) as http:
        with within(recorded) as inbound:
            await http.get("/secret/path", query={"token": "hunter2"})
        await http.get("/outside")

    span = recorded.one()
    assert (span.name, span.kind, span.status.status_code) == ("GET shop", SpanKind.CLIENT, StatusCode.ERROR)
    assert span.parent == inbound.get_span_context()
    assert dict(span.attributes or {}) == {
        "http.request.method": "GET",
        "server.address": "shop",
        "http.response.status_code": 404,
        "error.type": "404",
    }
    assert fake.requests[0].headers["traceparent"] == traceparent(span)


async def test_the_span_of_a_call_that_fails_says_what_with(settings: Settings, recorded: Recorded) -> None:
    async with shop(settings.model_copy(update={"dapr_http_endpoint": "http://127.0.0.1:1"})) as http:
        with within(recorded), pytest.raises(SidecarUnavailable):
            await http.post("/x")
    span = recorded.one()
    assert (span.status.status_code, dict(span.attributes or {})["error.type"]) == (StatusCode.ERROR, "UNAVAILABLE")


@pytest.mark.req("R10.3")
async def test_calls_are_counted_by_method_and_what_their_status_means(daprd: tuple[Daprd, Settings]) -> None:
    fake, settings = daprd
    metrics = Metrics()
    async with shop(settings, metrics) as http:
        await http.get("/x")
        fake.answer = lambda: web.Response(status=503)
        await http.get("/x")
        fake.answer = lambda: web.Response(status=500, text=DIRECT % "no host", content_type="application/json")
        with pytest.raises(SidecarError):
            await http.post("/x")

    def calls(operation: str, code: str) -> float | None:
        labels = {"building_block": "invocation", "operation": operation, "code": code}
        return metrics.registry.get_sample_value("apibase_building_block_calls_total", labels)

    assert (calls("HTTP GET", "OK"), calls("HTTP GET", "UNAVAILABLE"), calls("HTTP POST", "UNAVAILABLE")) == (1, 1, 1)
    timed = {"building_block": "invocation", "operation": "HTTP GET"}
    assert metrics.registry.get_sample_value("apibase_building_block_seconds_count", timed) == 2


async def test_a_call_that_is_given_up_is_counted_as_cancelled(daprd: tuple[Daprd, Settings]) -> None:
    _, settings = daprd
    metrics = Metrics()

    async def forever() -> AsyncIterator[bytes]:
        await asyncio.Event().wait()
        yield b""

    async with shop(settings, metrics) as http:
        task = asyncio.create_task(http.post("/x", data=forever()))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    labels = {"building_block": "invocation", "operation": "HTTP POST", "code": "CANCELLED"}
    assert metrics.registry.get_sample_value("apibase_building_block_calls_total", labels) == 1


async def test_a_token_that_the_sidecar_refuses_is_not_the_apps_401(daprd: tuple[Daprd, Settings]) -> None:
    fake, settings = daprd
    async with shop(settings) as http:
        fake.answer = lambda: web.Response(status=401, text="invalid api token\n")
        with pytest.raises(SidecarError, match="is DAPR_API_TOKEN the sidecar's") as caught:
            await http.get("/x")
        assert (caught.value.code, caught.value.retryable) == (grpc.StatusCode.UNAUTHENTICATED, False)

        fake.answer = lambda: web.Response(status=401, text="log in first")
        assert (await http.get("/x")).status == 401


@pytest.mark.parametrize(
    "body",
    [
        '{"errorCode":"ERR_DIRECT_INVOKE","message":"failed to invoke, id: another, err: no host"}',
        '{"errorCode":"ERR_OWN","message":"failed to invoke, id: shop, err: no host"}',
        '["ERR_DIRECT_INVOKE"]',
        "no JSON",
    ],
)
async def test_what_an_app_says_in_words_like_daprds_is_its_own(daprd: tuple[Daprd, Settings], body: str) -> None:
    fake, settings = daprd
    fake.answer = lambda: web.Response(status=500, text=body, content_type="application/json")
    async with shop(settings) as http:
        response = await http.get("/x")
    assert (response.status, response.text()) == (500, body)


@pytest.mark.parametrize(
    ("said", "code"),
    [
        ("no host found with the given ID", grpc.StatusCode.UNAVAILABLE),
        ("rpc error: code = Internal desc = app channel is not initialized", grpc.StatusCode.UNAVAILABLE),
        ("rpc error: code = PermissionDenied desc = access control policy", grpc.StatusCode.PERMISSION_DENIED),
        ("rpc error: code = InvalidArgument desc = invalid method", grpc.StatusCode.INVALID_ARGUMENT),
        ("context deadline exceeded", grpc.StatusCode.DEADLINE_EXCEEDED),
        ("circuit breaker is open", grpc.StatusCode.UNAVAILABLE),
    ],
)
def test_a_call_that_does_not_get_through_has_the_code_of_its_cause(said: str, code: grpc.StatusCode) -> None:
    error = not_through("shop", f"failed to invoke, id: shop, err: {said}")
    assert error is not None
    assert (error.code, error.component, said in error.message) == (code, "shop", True)
    assert not_through("shop", said) is None


@pytest.mark.parametrize(
    ("status", "code"), [(200, "OK"), (399, "OK"), (422, "INVALID_ARGUMENT"), (451, "FAILED_PRECONDITION")]
)
def test_an_http_status_has_a_code(status: int, code: str) -> None:
    assert code_of(status).name == code


async def test_what_an_error_says_is_in_the_log_at_debug_only(daprd: tuple[Daprd, Settings], log: Log) -> None:
    fake, settings = daprd
    fake.answer = lambda: web.Response(status=400, text="x" * 1000)
    async with shop(settings) as http:
        response = await http.get("/x")
        with pytest.raises(SidecarError) as caught:
            response.raise_for_status()

    assert "xxx" not in str(caught.value)
    assert log.one(level="DEBUG", message="'shop' answered 400 to GET /x: " + "x" * 200)
    assert log.of(level="WARNING") == []


async def test_a_get_is_made_again_until_the_sidecar_is_back_and_a_post_is_not(settings: Settings) -> None:
    fake = Daprd()
    async with fake.at(tcp()) as port:
        pass
    async with shop(settings.model_copy(update={"dapr_http_port": port})) as http:
        with pytest.raises(SidecarUnavailable):
            await http.post("/x")
        pending = asyncio.create_task(http.get("/x"))
        await asyncio.sleep(0)
        async with fake.at(tcp(port)):
            assert (await pending).ok
    assert [request.method for request in fake.requests] == ["GET"]


async def test_a_get_is_not_tried_for_longer_than_its_timeout(settings: Settings) -> None:
    async with shop(settings.model_copy(update={"dapr_http_endpoint": "http://127.0.0.1:1"})) as http:
        began = time.monotonic()
        with pytest.raises(SidecarError):
            await http.get("/x", timeout=0.3)
    assert time.monotonic() - began < settings.call_timeout / 2


async def test_a_sidecar_at_a_unix_socket_is_called_there(settings: Settings, socket_folder: Path) -> None:
    fake, path = Daprd(), socket_folder / "http.sock"
    async with (
        fake.at(lambda runner: web.UnixSite(runner, path)),
        shop(settings.model_copy(update={"dapr_http_endpoint": f"unix://{path}"})) as http,
    ):
        assert (await http.get("/x")).json(dict[str, bool]) == {"fine": True}


async def test_a_sidecar_behind_tls_is_trusted_by_its_authority(settings: Settings, tmp_path: Path) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(server)
    fake = Daprd()
    async with fake.at(tcp(ssl_context=server)) as port:
        there = settings.model_copy(update={"dapr_http_endpoint": f"https://localhost:{port}", "call_timeout": 0.5})
        async with shop(there.model_copy(update={"sidecar_ca_file": tmp_path / "ca.pem"})) as http:
            assert (await http.get("/x")).ok
        async with shop(there) as http:
            with pytest.raises(SidecarUnavailable, match="certificate"):
                await http.get("/x")


async def test_each_loop_has_its_own_session_and_close_ends_all(daprd: tuple[Daprd, Settings]) -> None:
    _, settings = daprd
    sidecar = Sidecar(settings)
    http = ServiceInvocationClient(sidecar).http("shop")
    await http.get("/x")
    other = asyncio.new_event_loop()
    thread = threading.Thread(target=other.run_forever)
    thread.start()
    assert (await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(http.get("/x"), other))).ok
    sessions = list(sidecar.http._sessions.values())
    assert len(sessions) == 2

    await sidecar.close()

    assert all(session.closed for session in sessions)
    other.call_soon_threadsafe(other.stop)
    await asyncio.to_thread(thread.join)
    other.close()


@pytest.mark.parametrize("header", ["Wed, 21 Oct 2026 07:28:00 GMT", "soon", "-1"])
async def test_a_retry_after_that_is_no_number_of_seconds_is_passed_over(
    daprd: tuple[Daprd, Settings], header: str
) -> None:
    fake, settings = daprd
    fake.answer = lambda: web.Response(status=503, headers={"Retry-After": header})
    async with shop(settings) as http:
        response = await http.get("/x")
    with pytest.raises(SidecarError) as caught:
        response.raise_for_status()
    assert caught.value.retry_after is None


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> Recorded:
    return Recorded(monkeypatch)
