"""A secret planted in every input of an app is in nothing that leaves it: no log line, span, metric, repr, traceback, status or dead letter."""

from __future__ import annotations

import io
import json
import traceback
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest
from dapr.proto import api_v1, common_v1
from dapr.proto.runtime.v1 import appcallback_pb2, appcallback_pb2_grpc
from loguru import logger
from prometheus_client import generate_latest

from apibase import App, ConfigurationKey, Drop, SecretValue, Settings, SidecarError, StateItem
from apibase.local.components import read_components
from apibase.local.errors import TopologyError
from tests.telemetry.otlp import Received, receiving_grpc
from tests.unit.app_channels import Listener
from tests.unit.conftest import Desk
from tests.unit.fake_dapr import FakeDapr, eventually
from tests.unit.traced import forget_provider

# Each is planted in one input, and has a word of its own, so that what leaks says where from.
HEADER = "planted-in-a-header-5501"
TOKEN = "planted-in-a-token-5502"
FIELD = "planted-in-a-field-5503"
STORED = "planted-in-the-secret-store-5504"
CONFIGURED = "planted-in-configuration-5505"
COMPONENT = "planted-in-a-component-5506"
KEPT = "planted-in-state-5507"
PLANTED = (HEADER, TOKEN, FIELD, STORED, CONFIGURED, COMPONENT, KEPT)


class Planted(FakeDapr):
    """A sidecar whose secret store and configuration have a secret each."""

    def __init__(self, address: str) -> None:
        super().__init__(address, token=TOKEN)
        self.secrets = {"key": {"key": STORED}}
        self.configured = CONFIGURED

    async def GetConfiguration(self, request: Any, context: Any) -> Any:
        await self._take("GetConfiguration", request, context)
        return api_v1.GetConfigurationResponse(
            items={key: common_v1.ConfigurationItem(value=self.configured) for key in request.keys}
        )


@dataclass
class Outside:
    """What has left the app, and what a debugger would see of it."""

    app: App
    channel: grpc.aio.Channel
    dapr: Planted
    received: Received
    log: io.StringIO
    metrics: str = ""
    statuses: list[str] = field(default_factory=list)
    letters: list[dict[str, Any]] = field(default_factory=list)
    key: SecretValue | None = None
    partner: ConfigurationKey[str] | None = None
    kept: StateItem[Any] | None = None

    async def call(self, method: Any, request: Any) -> Any:
        """Call as a sidecar does, and note the status of what fails."""
        headers = (("authorization", f"Bearer {HEADER}"), ("x-api-key", HEADER), ("dapr-api-token", TOKEN))
        try:
            return await method(request, metadata=headers, timeout=10)
        except grpc.aio.AioRpcError as error:
            self.statuses += [repr(error), error.details() or "", repr(error.trailing_metadata())]
            return None

    async def event(self, data: dict[str, Any], event_id: str) -> Any:
        return await self.call(
            appcallback_pb2_grpc.AppCallbackStub(self.channel).OnTopicEvent,
            appcallback_pb2.TopicEventRequest(
                id=event_id, source="shop", type="post.v1.Letter", spec_version="1.0", topic="letters", pubsub_name="events",
                path="/post.v1.PostEvents/OnLetter", data_content_type="application/json", data=json.dumps(data).encode(),
            ),
        )  # fmt: skip


def failed(key: str) -> RuntimeError:
    """Return an error as a driver's is, with its cause."""
    try:
        try:
            raise ConnectionError(f"cannot connect to https://user:{key}@provider.example/")
        except ConnectionError as error:
            raise RuntimeError(f"no answer, key {key!r}") from error
    except RuntimeError as error:
        return error


@pytest.fixture
async def outside(
    desk: Desk, post: Desk, settings: Settings, monkeypatch: pytest.MonkeyPatch, set_up_logging: Any
) -> AsyncIterator[tuple[Outside, Listener]]:
    forget_provider(monkeypatch)
    monkeypatch.setenv("APP_API_TOKEN", TOKEN)
    listener = Listener()
    async with receiving_grpc() as received, Planted(settings.sidecar_address) as dapr:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://{received.address}")
        made = Settings(
            **{name: value for name, value in settings.model_dump().items() if name not in {"dapr_api_token", "app_api_token"}},
            dapr_api_token=TOKEN, app_api_token=TOKEN,
        ).model_copy(update={"traces_exporter": "otlp", "traces_sampler": "always_on", "log_level": "DEBUG"})  # fmt: skip
        log = io.StringIO()
        set_up_logging(made, log)
        app = App(made)

        class Servicer(desk.grpc.DeskServicer):  # type: ignore[name-defined,misc]
            async def Ask(self, request: Any, context: Any) -> Any:
                raise failed((await app.secrets("vault").get("key")).reveal())

        app.add_servicer(Servicer())
        app.add_servicer(listener.implement(post, "PostEvents"))
        partner = app.configuration("live").key("partner", str)
        await app.start()
        try:
            async with grpc.aio.insecure_channel(f"127.0.0.1:{app.port}") as channel:
                yield Outside(app, channel, dapr, received, log, partner=partner), listener
        finally:
            await app.stop()


@pytest.mark.req("R13.4")
async def test_a_planted_secret_leaves_by_no_way(
    outside: tuple[Outside, Listener], desk: Desk, post: Desk, tmp_path: Path
) -> None:
    seen, listener = outside
    seen.key = await seen.app.secrets("vault").get("key")
    listener.error = failed(seen.key.reveal())
    letter = {"text": "hello", "card": FIELD, "address": {"city": "Bern", "doorCode": FIELD}, "keys": [FIELD]}

    # A handler that fails, one that drops, data that is no such message, and a value that is not of its type.
    await seen.call(desk.grpc.DeskStub(seen.channel).Ask, desk.pb2.Question(text="why"))
    await seen.call(desk.grpc.DeskStub(seen.channel).Ask, desk.pb2.Question(text=""))
    await seen.event(letter, "fails")
    listener.error = Drop(f"the provider refused {seen.key.reveal()}")
    await seen.event(letter, "dropped")
    await seen.event({**letter, "text": ""}, "invalid")
    await seen.event({**letter, "pinCode": FIELD}, "unreadable")
    limit = seen.app.configuration("live")
    limit.key("limit", int, default=1)
    await limit.start()
    assert limit.degraded
    seen.statuses += await _state(seen, post)
    seen.letters = [json.loads(request.data) for request in seen.dapr.published]
    assert {each["id"] for each in seen.letters} == {"dropped", "invalid", "unreadable"}
    assert next(each for each in seen.letters if each["id"] == "dropped")["data"] == {
        "text": "hello",
        "address": {"city": "Bern"},
    }

    seen.metrics = generate_latest(seen.app.telemetry.metrics.registry).decode()
    await seen.app.stop()
    await eventually(lambda: len(seen.received.spans) >= 6)

    outputs = {
        "log": seen.log.getvalue(),
        "spans": "".join(map(repr, seen.received.spans)),
        "metrics": seen.metrics,
        "statuses": "".join(seen.statuses),
        "dead letters": json.dumps(seen.letters),
        "reprs": repr(
            [seen.key, seen.partner, seen.kept, seen.app, seen.app.settings, seen.app.sidecar, limit, limit.problems]
        ),
        "traceback": _traceback(seen.key, seen.partner, seen.kept, seen.app.settings, limit.problems),
        "component": _component(tmp_path),
    }
    assert all(outputs.values())
    assert "no answer, key" in outputs["log"]
    assert "no answer, key" in outputs["spans"]
    leaks = [f"{secret} in {name}" for name, text in outputs.items() for secret in PLANTED if secret in text]
    assert not leaks


async def _state(seen: Outside, post: Desk) -> list[str]:
    """Read state that is a message, and some that is none; what that fails with."""
    state = seen.app.state("statestore")
    await state.save("kept", post.pb2.Letter(text="hello", card=KEPT))
    seen.kept = await state.get("kept", post.pb2.Letter)
    assert seen.kept is not None
    assert seen.kept.value.card == KEPT
    await state.save("wrong", {"pinCode": KEPT})
    with pytest.raises(SidecarError) as caught:
        await state.get("wrong", post.pb2.Letter)
    assert "pinCode" in caught.value.message
    logger.opt(exception=caught.value).error("the state can't be read")
    return [repr(caught.value), "".join(traceback.format_exception(caught.value))]


def _traceback(*values: Any) -> str:
    """What a traceback shows that shows variables."""
    try:
        raise RuntimeError("with variables")
    except RuntimeError as error:
        return "".join(traceback.TracebackException.from_exception(error, capture_locals=True).format())


def _component(folder: Path) -> str:
    """What is shown of a component with a secret in it, and of one that is wrong."""
    file = folder / "store.yaml"
    file.write_text(
        "kind: Component\nmetadata: {name: store}\n"
        f"spec: {{type: state.redis, metadata: [{{name: redisPassword, value: {COMPONENT}}}]}}\n"
    )
    shown = repr(read_components(folder))
    file.write_text(
        f"kind: Component\nmetadata: {{name: store}}\nspec: {{metadata: [{{name: x, value: {COMPONENT}}}]}}\n"
    )
    with pytest.raises(TopologyError) as caught:
        read_components(folder)
    return shown + str(caught.value)
