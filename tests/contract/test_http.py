"""HTTP apps, called through the sidecars: what goes there, what comes back, and what does not get through."""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
import pytest_asyncio
from pydantic import BaseModel

from apibase import CalleeError, HttpApp, ServiceInvocationClient, Settings, Sidecar, SidecarError, SidecarUnavailable
from apibase.deadline import deadline
from apibase.observability import call_context
from tests.contract.beside import Beside
from tests.contract.sides import Side
from tests.contract.web import APP_ID, WebApp, running_web
from tests.sidecar.shop import eventually

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
METHODS = ["GET", "POST", "PUT", "DELETE", "PATCH"]


class Parcel(BaseModel):
    name: str
    weight: float


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def web(side: Side) -> AsyncIterator[WebApp]:
    async with running_web(side) as app:
        yield app


@pytest.fixture
def http(side: Side, web: WebApp) -> HttpApp:
    return ServiceInvocationClient(side.sidecar).http(APP_ID)


@pytest.mark.req("R2.1", "R2.3")
@pytest.mark.parametrize("method", METHODS)
async def test_each_method_reaches_the_app_with_its_headers_and_query(http: HttpApp, method: str) -> None:
    call = getattr(http, method.lower())
    query = {"full": True, "tag": ["a", "ü&b"], "page": 2}
    response = await call("/orders/7", headers={"X-Tenant": "acme"}, query=query)

    told = response.json(dict[str, Any])
    assert (response.status, response.ok, response.headers["x-own"]) == (200, True, "yes")
    assert (told["method"], told["path"]) == (method, "/orders/7")
    assert told["query"] == [["full", "true"], ["tag", "a"], ["tag", "ü&b"], ["page", "2"]]
    assert told["headers"]["x-tenant"] == "acme"
    assert told["headers"]["dapr-caller-app-id"] == "contract"
    assert told["body"] == ""


@pytest.mark.req("R2.3")
@pytest.mark.parametrize("method", METHODS[1:])
async def test_a_method_takes_json_of_any_kind(http: HttpApp, beside: Beside, method: str) -> None:
    call = getattr(http, method.lower())
    for given, sent in [
        (Parcel(name="mug", weight=0.4), '{"name":"mug","weight":0.4}'),
        (beside.desk.pb2.Question(text="why"), '{"text": "why"}'),
        ({"a": [1, None]}, '{"a":[1,null]}'),
        ("text", '"text"'),
        (0, "0"),
    ]:
        told = (await call("/orders", json=given)).json(dict[str, Any])
        assert (told["body"], told["headers"]["content-type"]) == (sent, "application/json")


@pytest.mark.req("R2.3")
async def test_bytes_go_as_they_are_with_the_content_type_that_is_given(http: HttpApp) -> None:
    told = (await http.put("/photo", data=b"\x00\xff", headers={"Content-Type": "image/png"})).json(dict[str, Any])

    assert (told["body"], told["headers"]["content-type"]) == ("\x00\xff", "image/png")


async def test_a_path_is_plain_text(http: HttpApp) -> None:
    told = (await http.get("räume/50 & more/a:b+c")).json(dict[str, Any])

    assert told["path"] == "/räume/50 & more/a:b+c"


async def test_the_apps_own_path_is_not_mistaken_for_the_sidecars(http: HttpApp) -> None:
    assert (await http.get("/v1.0/metadata")).json(dict[str, Any])["path"] == "/v1.0/metadata"


@pytest.mark.parametrize("path", ["/a?b=1", "/50%", "/a%2Fb", "/a#b", "/a\nb", "/../secrets", "/a/./b", "/a/.."])
async def test_a_path_that_would_lead_elsewhere_is_refused(http: HttpApp, path: str) -> None:
    with pytest.raises(ValueError, match="the path"):
        await http.get(path)


async def test_the_app_that_is_called_is_not_for_a_header_to_change(http: HttpApp) -> None:
    with pytest.raises(ValueError, match="dapr-app-id is not for the caller to set"):
        await http.get("/", headers={"Dapr-App-Id": "other"})


async def test_a_body_is_json_or_data(http: HttpApp) -> None:
    with pytest.raises(ValueError, match="json or data, not both"):
        await http.post("/", json={}, data=b"")


@pytest.mark.parametrize("status", [201, 204, 302, 400, 401, 403, 404, 409, 418, 429, 500, 501, 503, 504])
async def test_the_status_of_the_app_is_kept(http: HttpApp, status: int) -> None:
    response = await http.get("/x", headers={"X-Status": str(status)})

    assert (response.status, response.ok) == (status, status < 300)
    assert response.headers["x-own"] == "yes"
    if status != 204:
        assert response.json(dict[str, Any])["path"] == "/x"


@pytest.mark.parametrize(
    ("status", "code", "retryable"),
    [
        (302, grpc.StatusCode.UNKNOWN, False),
        (400, grpc.StatusCode.INVALID_ARGUMENT, False),
        (404, grpc.StatusCode.NOT_FOUND, False),
        (418, grpc.StatusCode.FAILED_PRECONDITION, False),
        (429, grpc.StatusCode.RESOURCE_EXHAUSTED, True),
        (500, grpc.StatusCode.INTERNAL, False),
        (503, grpc.StatusCode.UNAVAILABLE, True),
        (599, grpc.StatusCode.UNKNOWN, False),
    ],
)
async def test_a_status_that_is_an_error_is_raised_as_one_where_that_is_asked_for(
    http: HttpApp, status: int, code: grpc.StatusCode, retryable: bool
) -> None:
    response = await http.get("/orders/7", headers={"X-Status": str(status), "X-Retry-After": "3"})
    with pytest.raises(CalleeError, match=f"'web' answered {status} to GET /orders/7") as caught:
        response.raise_for_status()

    error = caught.value
    assert (error.app_id, error.http_status, error.code, error.retryable) == ("web", status, code, retryable)
    assert error.retry_after == 3
    assert "X-Status" not in str(error)


async def test_a_response_that_is_no_error_passes(http: HttpApp) -> None:
    response = await http.get("/orders/7")
    assert response.raise_for_status() is response
    assert json.loads(response.text()) == json.loads(response.body())


async def test_an_answer_that_is_not_what_it_is_read_as_is_data_loss(http: HttpApp) -> None:
    response = await http.get("/orders/7")
    with pytest.raises(CalleeError, match="the answer of 'web' to GET /orders/7 is no Parcel") as caught:
        response.json(Parcel)
    assert caught.value.code is grpc.StatusCode.DATA_LOSS


@pytest.mark.req("R2.3")
async def test_a_body_is_sent_as_it_comes(http: HttpApp, web: WebApp) -> None:
    web.seen.clear()

    async def pieces() -> AsyncIterator[bytes]:
        yield b"first"

        async def arrived() -> bool:
            return web.seen == ["first"]

        await eventually(arrived, within=5, what="the first piece is there before the second is sent")
        yield b"other" * 100_000

    told = (await http.post("/upload", data=pieces())).json(dict[str, Any])

    whole = b"first" + b"other" * 100_000
    assert told == {"size": len(whole), "digest": hashlib.sha256(whole).hexdigest()}


async def test_what_the_source_of_a_body_fails_with_is_raised(http: HttpApp) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        yield b"first"
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await http.post("/upload", data=pieces())


@pytest.mark.req("R2.3")
@pytest.mark.differs("Dapr 1.14 keeps the beginning of an answer back until there is more of it", side="1.14")
async def test_an_answer_is_read_as_it_comes(http: HttpApp, web: WebApp, difference: str) -> None:
    web.go_on.clear()
    if difference:
        web.go_on.set()
    async with http.stream("GET", "/slow") as response:
        chunks = response.chunks()
        first = await anext(chunks)
        web.go_on.set()
        rest = b"".join([chunk async for chunk in chunks])

    assert (response.status, first + rest) == (200, b"firstsecond")
    assert difference or first == b"first"


async def test_a_stream_of_an_error_has_its_status_and_body(http: HttpApp) -> None:
    async with http.stream("POST", "/x", json=1, headers={"X-Status": "404"}) as response:
        assert json.loads(await response.body())["path"] == "/x"
        with pytest.raises(CalleeError, match="'web' answered 404 to POST /x"):
            await response.raise_for_status()


async def test_a_stream_that_is_left_before_its_end_leaves_nothing_behind(http: HttpApp) -> None:
    async with http.stream("GET", "/large", query={"size": 1_000_000}) as response:
        await response.raise_for_status()
        assert await anext(response.chunks())

    assert (await http.get("/after")).ok


async def test_a_stream_is_of_one_of_the_methods(http: HttpApp) -> None:
    with pytest.raises(ValueError, match="'TRACE' is none of GET, POST"):
        async with http.stream("TRACE", "/"):
            pass


async def test_an_answer_that_is_too_large_is_refused(side: Side, web: WebApp) -> None:
    sidecar = Sidecar(side.settings.model_copy(update={"max_message_bytes": 100_000}))
    http = ServiceInvocationClient(sidecar).http(APP_ID)

    assert len((await http.get("/large", query={"size": 100_000})).body()) == 100_000
    with pytest.raises(CalleeError, match="has more than 100000 bytes") as caught:
        await http.get("/large", query={"size": 3_000_000})
    assert (caught.value.code, caught.value.retryable) == (grpc.StatusCode.RESOURCE_EXHAUSTED, False)
    await sidecar.close()


@pytest.mark.differs("Dapr 1.18 ends an answer that broke off as if it were whole", side="1.18")
async def test_an_answer_that_breaks_off_is_an_error(http: HttpApp, difference: str) -> None:
    if difference:
        assert len((await http.get("/broken")).body()) == 10
        return
    with pytest.raises(SidecarError) as caught:
        await http.get("/broken")
    assert (caught.value.code, caught.value.retryable) == (grpc.StatusCode.UNAVAILABLE, True)


async def test_a_call_has_its_own_time(http: HttpApp) -> None:
    began = time.monotonic()
    with pytest.raises(SidecarError, match="web did not answer in time") as caught:
        await http.get("/never", timeout=0.3)

    assert 0.25 < time.monotonic() - began < 2
    assert (caught.value.code, caught.value.component) == (grpc.StatusCode.DEADLINE_EXCEEDED, "web")


@pytest.mark.req("R9.1")
async def test_a_call_has_no_more_time_than_the_inbound_call_has_left(http: HttpApp) -> None:
    began = time.monotonic()
    token = deadline.set_remaining(0.3)
    try:
        with pytest.raises(SidecarError, match="did not answer in time"):
            await http.get("/never", timeout=20)
        with pytest.raises(SidecarError, match="did not answer in time"):
            async with http.stream("GET", "/never"):
                pass
    finally:
        deadline.reset(token)
    assert time.monotonic() - began < 2


@pytest.mark.req("R2.5")
async def test_a_call_brings_the_trace_and_the_correlation_id_to_the_app(http: HttpApp) -> None:
    with call_context({"traceparent": f"00-{TRACE}-00f067aa0ba902b7-01", "x-correlation-id": "c7"}):
        headers = (await http.get("/x")).json(dict[str, Any])["headers"]

    assert headers["traceparent"].split("-")[1] == TRACE
    assert headers["x-correlation-id"] == "c7"


async def test_an_app_that_nobody_knows_is_not_reached(side: Side) -> None:
    with pytest.raises(SidecarError, match="the call did not get through to 'nobody'") as caught:
        await ServiceInvocationClient(side.sidecar).http("nobody").get("/x")

    error = caught.value
    assert not isinstance(error, (CalleeError, SidecarUnavailable))
    assert (error.code, error.retryable, error.component) == (grpc.StatusCode.UNAVAILABLE, True, "nobody")
    assert error.dapr_code == "ERR_DIRECT_INVOKE"


async def test_a_method_of_a_grpc_app_is_called_over_http_by_its_name(side: Side, beside: Beside) -> None:
    http = ServiceInvocationClient(side.sidecar).http("contract")
    parcel = Parcel(name="mug", weight=0.4)

    assert (await http.post("/echo", json=parcel)).json(Parcel) == parcel


async def test_a_sidecar_that_is_not_there_is_unavailable(side: Side) -> None:
    settings = side.settings.model_copy(update={"dapr_http_endpoint": "http://127.0.0.1:1", "call_timeout": 0.3})
    sidecar = Sidecar(settings)
    http = ServiceInvocationClient(sidecar).http(APP_ID)
    began = time.monotonic()

    with pytest.raises(SidecarUnavailable):
        await http.post("/x")
    assert time.monotonic() - began < 0.2
    with pytest.raises(SidecarUnavailable):
        await http.get("/x")  # for as long as a call may take, in case it comes back
    assert time.monotonic() - began > 0.1
    await sidecar.close()


async def test_many_calls_at_once_are_made_at_once(http: HttpApp) -> None:
    responses = await asyncio.gather(*(http.post("/x", json=number) for number in range(100)))

    assert [response.json(dict[str, Any])["body"] for response in responses] == [str(number) for number in range(100)]


async def test_an_app_id_may_not_be_empty() -> None:
    with pytest.raises(ValueError, match="app_id is empty"):
        ServiceInvocationClient(Sidecar(Settings())).http("")
