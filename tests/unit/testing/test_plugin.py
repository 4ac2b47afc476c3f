"""The pytest plugin: an app by its contract, everything that it can be brought, and what the plugin is to those who don't use it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.empty_pb2 import Empty

from apibase import App, CalleeError, Drop, Publication, Retry, ServiceError, SidecarError
from apibase.testing import AppClient, StandIn, plugin
from tests.unit.conftest import Desk

pytestmark = [pytest.mark.sidecar(app_id="post", any_component=True), pytest.mark.req("R14.4")]


@pytest.fixture
def taken() -> list[tuple[str, Any]]:
    return []


@pytest.fixture
def app(sidecar: StandIn, post: Desk, desk: Desk, taken: list[tuple[str, Any]]) -> App:
    app = App(sidecar.settings())

    def handler(name: str) -> Any:
        async def handle(_self: Any, request: Any, context: Any) -> Empty:
            taken.append((name, request))
            text = getattr(request, "text", "")
            if text == "later":
                raise Retry
            if text == "never":
                raise Drop("never")
            return Empty()

        return handle

    names = [method.name for method in post.pb2.DESCRIPTOR.services_by_name["PostEvents"].methods]
    events = type("Events", (post.grpc.PostEventsServicer,), {name: handler(name) for name in names})
    app.add_servicer(events())

    class Answers(desk.grpc.DeskServicer):
        async def Ask(self, request: Any, context: Any) -> Any:
            callers = [value for key, value in context.invocation_metadata() if key == "dapr-caller-app-id"]
            return desk.pb2.Answer(text=f"{request.text}, {callers[-1]}")

        async def Talk(self, request_iterator: Any, context: Any) -> Any:
            async for request in request_iterator:
                yield desk.pb2.Answer(text=request.text)

    app.add_servicer(Answers())

    @app.method("fail")
    async def fail(_request: Any) -> None:
        raise ServiceError(grpc.StatusCode.FAILED_PRECONDITION, "CLOSED", "closed")

    return app


def names(taken: list[tuple[str, Any]]) -> list[str]:
    return [name for name, _ in taken]


async def test_events_are_routed_by_rule_and_type(
    sidecar: StandIn, app_client: AppClient, taken: list[Any], post: Desk
) -> None:
    letter = {"pubsub_name": "events", "topic": "letters", "type": "post.v1.Letter"}
    for data in ({"weight": 101}, {"express": True}, {"weight": 1}):
        assert (await sidecar.publish(Publication({"text": "hi", **data}, **letter))).verdicts == ["SUCCESS"]

    assert names(taken) == ["OnHeavy", "OnExpress", "OnLetter"]


async def test_events_of_a_topic_with_batches_come_as_one(
    sidecar: StandIn, app_client: AppClient, taken: list[Any], post: Desk
) -> None:
    notes = [Publication({"text": text}, pubsub_name="events", topic="notes", type="post.v1.Note") for text in "abc"]

    deliveries = await sidecar.publish_all(notes)

    assert [each.verdict for each in deliveries] == ["SUCCESS"] * 3
    assert [request.text for _, request in taken] == ["a", "b", "c"]


async def test_an_event_that_nobody_listens_to_is_said_so(sidecar: StandIn, app_client: AppClient) -> None:
    delivery = await sidecar.publish("x", pubsub_name="events", topic="elsewhere")

    assert not delivery.heard
    assert str(delivery) == "elsewhere: nobody listens"


async def test_without_a_policy_an_event_that_is_put_off_is_a_dead_letter_at_once(
    sidecar: StandIn, app_client: AppClient, post: Desk
) -> None:
    note = Publication({"text": "later"}, pubsub_name="events", topic="notes", type="post.v1.Note")

    delivery = await sidecar.publish(note)

    assert (delivery.verdicts, delivery.ended) == (["RETRY"], True)  # and lost: the topic has none


async def test_a_binding_and_its_failure(sidecar: StandIn, app_client: AppClient, taken: list[Any], post: Desk) -> None:
    assert await sidecar.push("mail", post.pb2.Note(text="hello")) is grpc.StatusCode.OK
    assert names(taken) == ["OnMail"]
    assert await sidecar.push("mail", post.pb2.Note(text="later")) is grpc.StatusCode.ABORTED


async def test_the_jobs_of_the_contract_run_by_the_clock(
    sidecar: StandIn, app_client: AppClient, taken: list[Any]
) -> None:
    assert sidecar.job("remind") is not None
    await sidecar.clock.advance(timedelta(seconds=90))

    assert sorted(names(taken)) == ["Remind", "Sweep"]
    await sidecar.clock.advance(timedelta(minutes=2))
    assert names(taken).count("Sweep") == 3


async def test_rpcs_come_from_whom_the_test_says(app_client: AppClient, desk: Desk) -> None:
    question = desk.pb2.Question(text="who")

    assert (await app_client.stub(desk.grpc.DeskStub).Ask(question)).text == "who, test"
    assert (await app_client.stub(desk.grpc.DeskStub, caller="shop").Ask(question)).text == "who, shop"
    talk = app_client.stub(desk.grpc.DeskStub).Talk(iter([question, question]))
    assert [answer.text async for answer in talk] == ["who", "who"]


async def test_a_method_by_its_name_fails_with_the_apps_status(app_client: AppClient) -> None:
    with pytest.raises(CalleeError) as caught:
        await app_client.invoke("fail")
    assert (caught.value.code, caught.value.callee_reason) == (grpc.StatusCode.FAILED_PRECONDITION, "CLOSED")


async def test_other_apps_answer_with_what_the_test_serves(sidecar: StandIn, app_client: AppClient, desk: Desk) -> None:
    class Other(desk.grpc.DeskServicer):
        async def Ask(self, request: Any, context: Any) -> Any:
            if request.text == "fail":
                raise ServiceError(grpc.StatusCode.NOT_FOUND, "NOBODY", "nobody knows")
            return desk.pb2.Answer(text="because")

    await sidecar.serve("other", Other())
    stub = app_client.app.invocation.client(desk.grpc.DeskStub, app_id="other")

    assert (await stub.Ask(desk.pb2.Question(text="why"))).text == "because"
    with pytest.raises(grpc.aio.AioRpcError, match="nobody knows"):
        await stub.Ask(desk.pb2.Question(text="fail"))
    with pytest.raises(grpc.aio.AioRpcError, match="no host found"):
        await app_client.app.invocation.client(desk.grpc.DeskStub, app_id="nobody").Ask(desk.pb2.Question(text="why"))


async def test_locks_expire_by_the_clock(sidecar: StandIn, app_client: AppClient) -> None:
    lock = await app_client.app.locks("locks").try_lock("door", lease=timedelta(seconds=10))
    assert lock is not None
    assert sidecar.locks.owner("locks", "door")
    await sidecar.clock.advance(10)
    assert not sidecar.locks.owner("locks", "door")


@pytest.mark.sidecar(any_component=False)
async def test_a_component_that_nobody_declares_is_an_error(sidecar: StandIn, app: App) -> None:
    with pytest.raises(Exception, match="mail"):
        await AppClient(app, sidecar).__aenter__()
    with pytest.raises(SidecarError, match="not configured"):
        await app.state("store").get("k", str)
    await app.stop()


@pytest.mark.sidecar(app_token="right")
async def test_what_is_brought_carries_the_apps_token(
    sidecar: StandIn, app_client: AppClient, taken: list[Any]
) -> None:
    assert await sidecar.run_job("remind") is grpc.StatusCode.OK
    assert names(taken) == ["Remind"]


def test_the_plugin_loads_nothing_before_it_is_used() -> None:
    code = "import sys, apibase.testing.plugin; print(sorted({'grpc', 'yaml', 'dapr', 'pydantic'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("installed", [True, False], ids=["with pytest-asyncio", "without it"])
def test_a_project_that_does_not_use_it_is_not_disturbed(tmp_path: Path, installed: bool) -> None:
    (tmp_path / "test_own.py").write_text("def test_own(): pass\n")
    without = [] if installed else ["-p", "no:asyncio"]
    words = [sys.executable, "-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider", *without]
    words += ["-o", "asyncio_default_fixture_loop_scope=function"] if installed else []
    done = subprocess.run(
        [*words, "--strict-markers", "--strict-config"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_marker_that_says_what_is_not_known_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "test_own.py").write_text(
        "import pytest\n@pytest.mark.sidecar(component=['x'])\nasync def test_own(sidecar): pass\n"
    )
    words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-o", "asyncio_mode=auto"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "the marker sidecar takes" in done.stdout
    assert "not component" in done.stdout


def test_without_a_plugin_for_coroutines_a_fixture_says_what_is_missing() -> None:
    async def sidecar(request: pytest.FixtureRequest) -> AsyncIterator[None]:
        yield None

    missing = plugin._without_asyncio(sidecar)

    assert missing.__name__ == "sidecar"
    with pytest.raises(pytest.UsageError, match="'sidecar' needs pytest-asyncio"):
        missing()
