"""What docs/middleware.md shows works as it is shown."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import grpc
import pytest

from apibase import App, ServiceError
from apibase.middleware.standard import standard_chain
from apibase.observability.metrics import Metrics
from tests.unit.conftest import Desk

PAGE = (Path(__file__).parents[3] / "docs/middleware.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


@pytest.mark.req("R16.3")
async def test_the_first_example_is_a_middleware(desk: Desk, settings: Any, dapr: Any, monkeypatch: Any) -> None:
    class DeskService(desk.grpc.DeskServicer):  # type: ignore[misc]
        async def Ask(self, request: Any, context: Any) -> Any:
            return desk.pb2.Answer(text="because")

    shown: dict[str, Any] = {}
    monkeypatch.setenv("DAPR_GRPC_ENDPOINT", settings.sidecar_address)
    exec(BLOCKS[0], shown)
    app: App = shown["app"]
    app.add_servicer(DeskService())
    await app.start(0)
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{app.port}") as channel:
            await desk.grpc.DeskStub(channel).Ask(desk.pb2.Question(text="why"))
    finally:
        await app.stop()

    assert list(shown["spent"]) == ["desk.v1.Desk.Ask"]


def test_the_second_example_is_a_class_of_middleware() -> None:
    shown: dict[str, Any] = {"ServiceError": ServiceError, "grpc": grpc}
    exec(BLOCKS[1], shown)

    assert shown["Tenants"]({"ann"}).name == "tenants"


def test_the_outbound_example_is_the_apps_own_middleware(monkeypatch: Any) -> None:
    shown: dict[str, Any] = {}
    exec(BLOCKS[2], shown)

    names = [each.name for each in shown["app"].sidecar.outbound.order()]
    assert names == ["tracing", "metrics", "deadline", "identity", "tenant"]


def test_the_table_has_the_order_that_an_app_has(settings: Any) -> None:
    table = PAGE[PAGE.index("## Built in") : PAGE.index("## Outbound")]
    named = re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)

    assert tuple(named) == standard_chain(settings, None, Metrics(), None).names  # type: ignore[arg-type]
