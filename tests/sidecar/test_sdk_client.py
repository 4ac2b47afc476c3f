"""The SDK's own asyncio client, unmodified, against `apibase fake` as a process, with an app beside it."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio
from dapr.aio.clients import DaprClient
from dapr.clients import Job
from dapr.clients.grpc._request import TransactionalStateOperation, TransactionOperationType
from dapr.clients.grpc._response import TopicEventResponse
from dapr.clients.grpc._state import Concurrency, StateItem, StateOptions
from dapr.conf import settings as sdk_settings

from apibase import App, BindingRequest, InvokeMethodRequest, JobEvent, Settings, SubscriptionMessage
from apibase.local.ports import PortPool
from tests.sidecar.shop import eventually

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.req("R14.4"),
    pytest.mark.filterwarnings("ignore:.* is an Alpha version and is subject to change:UserWarning"),
]

COMPONENTS = """\
apiVersion: dapr.io/v1alpha1
kind: Component
metadata: {name: statestore}
spec: {type: state.postgresql, version: v1}
---
apiVersion: dapr.io/v1alpha1
kind: Component
metadata: {name: events}
spec: {type: pubsub.redis, version: v1}
---
apiVersion: dapr.io/v1alpha1
kind: Component
metadata: {name: vault}
spec:
  type: secretstores.local.file
  version: v1
  metadata:
    - {name: secretsFile, envRef: SECRETS_FILE}
---
apiVersion: dapr.io/v1alpha1
kind: Component
metadata: {name: settings}
spec: {type: configuration.redis, version: v1}
---
apiVersion: dapr.io/v1alpha1
kind: Component
metadata: {name: locks}
spec: {type: lock.redis, version: v1}
---
apiVersion: dapr.io/v1alpha1
kind: Component
metadata: {name: files}
spec:
  type: bindings.localstorage
  version: v1
  metadata:
    - {name: rootPath, envRef: FILES_FOLDER}
---
apiVersion: dapr.io/v1alpha1
kind: Component
metadata: {name: tick}
spec:
  type: bindings.cron
  version: v1
  metadata:
    - {name: schedule, value: "@every 1s"}
"""


@dataclass
class Fake:
    client: DaprClient
    events: list[Any]
    jobs: list[str]
    ticks: list[str]


@asynccontextmanager
async def process(folder: Path, app_port: int) -> AsyncIterator[tuple[str, int]]:
    """Run `apibase fake`, and return its gRPC address and its HTTP port."""
    (folder / "components").mkdir()
    (folder / "components" / "all.yaml").write_text(COMPONENTS)
    (folder / "secrets.json").write_text('{"api-key": "hunter2", "nested": {"pin": 1234}}')
    environment = {**os.environ, "SECRETS_FILE": str(folder / "secrets.json"), "FILES_FOLDER": str(folder / "files")}
    # As a script for daprd has it.
    words = ["--app-id", "sdk", f"--app-port={app_port}", "--app-protocol=grpc", "--enable-app-health-check"]
    words += ["--app-health-probe-interval=1", f"--resources-path={folder / 'components'}", "--dapr-grpc-port=0"]
    words += [
        "--dapr-http-port=0",
        "--placement-host-address=127.0.0.1:50006",
        "--enable-metrics=false",
        "--log-as-json",
    ]
    running = await asyncio.create_subprocess_exec(
        str(Path(sys.executable).parent / "apibase"), "fake", *words, env=environment, stdout=asyncio.subprocess.PIPE
    )
    assert running.stdout is not None
    try:
        line = (await asyncio.wait_for(running.stdout.readline(), 20)).decode()
        found = re.search(r"gRPC on (\S+), HTTP on \S+:(\d+);", line)
        assert found, line
        yield found[1], int(found[2])
    finally:
        running.send_signal(signal.SIGINT)
        assert await asyncio.wait_for(running.wait(), 10) == 0, "Ctrl-C is the normal end"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def fake(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Fake]:
    ports = PortPool()
    app_port = ports.take()
    ports.release(app_port)
    async with process(tmp_path_factory.mktemp("fake"), app_port) as (address, http_port):
        events: list[Any] = []
        jobs: list[str] = []
        ticks: list[str] = []
        app = App(Settings(app_id="sdk", app_port=app_port, dapr_grpc_endpoint=address, drain_timeout=1.0))

        @app.subscribe("events", "greetings")
        async def on_greeting(message: SubscriptionMessage) -> None:
            events.append(message.data())

        @app.method("echo")
        async def echo(request: InvokeMethodRequest) -> bytes:
            return request.data

        @app.job_event("soon")
        async def on_job(job: JobEvent) -> None:
            jobs.append(job.name)

        @app.binding("tick")
        async def on_tick(request: BindingRequest) -> None:
            ticks.append(request.binding_metadata["readTimeUTC"])

        await app.start()
        before = sdk_settings.DAPR_HTTP_PORT
        sdk_settings.DAPR_HTTP_PORT = http_port
        try:
            # Its constructor asks for the sidecar's health over HTTP, and blocks the loop meanwhile; another process answers.
            async with DaprClient(address) as client:
                yield Fake(client, events, jobs, ticks)
        finally:
            sdk_settings.DAPR_HTTP_PORT = before
            await app.stop()
            ports.close()


async def test_state(fake: Fake) -> None:
    client = fake.client
    await client.save_state("statestore", "k", '{"a": 1}', state_metadata={"contentType": "application/json"})
    found = await client.get_state("statestore", "k")
    assert found.json() == {"a": 1}
    with pytest.raises(Exception, match="etag mismatch"):
        await client.save_state(
            "statestore", "k", "x", etag="1", options=StateOptions(concurrency=Concurrency.first_write)
        )
    await client.save_bulk_state("statestore", [StateItem("a", "1"), StateItem("b", "2")])
    items = (await client.get_bulk_state("statestore", ["a", "b", "c"])).items
    assert [(item.key, item.text()) for item in items] == [("a", "1"), ("b", "2"), ("c", "")]
    await client.execute_state_transaction(
        "statestore",
        [
            TransactionalStateOperation(key="a", data="3"),
            TransactionalStateOperation(key="b", operation_type=TransactionOperationType.delete),
        ],
    )
    assert (await client.get_state("statestore", "a")).text() == "3"
    query = await client.query_state("statestore", '{"filter": {"EQ": {"a": 1}}}')
    assert [each.key for each in query.results] == ["k"]
    await client.delete_state("statestore", "k")
    assert (await client.get_state("statestore", "k")).data == b""


async def test_publish_and_subscribe(fake: Fake) -> None:
    taken: list[Any] = []

    async def handle(message: Any) -> TopicEventResponse:
        taken.append(message.data())
        return TopicEventResponse("success")

    close = await fake.client.subscribe_with_handler(pubsub_name="events", topic="streamed", handler_fn=handle)
    await fake.client.publish_event("events", "streamed", '{"n": 1}', data_content_type="application/json")
    await fake.client.publish_event("events", "greetings", "hello", data_content_type="text/plain")
    bulk = await fake.client.publish_events("events", "greetings", ["one", "two"])

    async def all_there() -> bool:
        return taken == [{"n": 1}] and sorted(fake.events) == ["hello", "one", "two"]

    await eventually(all_there, within=5, what="every event has arrived")
    assert bulk.failed_entries == []
    await close()


async def test_invoke(fake: Fake) -> None:
    over_http = await fake.client.invoke_method("sdk", "echo", data=b'{"a": 1}', content_type="application/json")
    assert over_http.data == b'{"a": 1}'
    with pytest.raises(Exception, match=r"no host found|nobody"):
        await fake.client.invoke_method("nobody", "echo", data=b"")


async def test_secrets(fake: Fake) -> None:
    assert (await fake.client.get_secret("vault", "api-key")).secret == {"api-key": "hunter2"}
    assert (await fake.client.get_bulk_secret("vault")).secrets["nested:pin"] == {"nested:pin": "1234"}
    with pytest.raises(grpc.RpcError, match="secret nope not found"):
        await fake.client.get_secret("vault", "nope")


async def test_bindings(fake: Fake) -> None:
    await fake.client.invoke_binding("files", "create", b"hello", {"fileName": "a.txt"})
    assert (await fake.client.invoke_binding("files", "get", b"", {"fileName": "a.txt"})).data == b"hello"

    async def ticked() -> bool:
        return bool(fake.ticks)

    await eventually(ticked, within=5, what="the cron binding has fired")


async def test_jobs(fake: Fake) -> None:
    await fake.client.schedule_job(Job(name="soon", due_time="1s"))
    assert (await fake.client.get_job("soon")).due_time == "1s"

    async def run() -> bool:
        return fake.jobs == ["soon"]

    await eventually(run, within=5, what="the job has run")
    await fake.client.schedule_job(Job(name="later", schedule="@every 1h"))
    await fake.client.delete_job("later")
    with pytest.raises(Exception, match="job not found"):
        await fake.client.get_job("later")


async def test_locks(fake: Fake) -> None:
    assert (await fake.client.try_lock("locks", "door", "ann", 60)).success
    assert not (await fake.client.try_lock("locks", "door", "bob", 60)).success
    assert (await fake.client.unlock("locks", "door", "ann")).status.name == "success"


async def test_metadata_and_configuration(fake: Fake) -> None:
    await fake.client.set_metadata("colour", "blue")
    found = await fake.client.get_metadata()
    assert found.application_id == "sdk"
    assert found.extended_metadata["colour"] == "blue"
    assert {"statestore", "events", "files"} <= {each.name for each in found.registered_components}
    assert (await fake.client.get_configuration("settings", ["threshold"])).items == {}
