"""What the unit tests share: a contract of their own, a sidecar in this process, and the log as a service writes it."""

from __future__ import annotations

import importlib
import io
import logging
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hypothesis
import pytest
from loguru import logger

from apibase import Settings
from apibase.contract.codegen import generate
from apibase.observability import configure_logging, flush_logs
from apibase.rpc import rpc_handlers
from tests.unit.chains import chain
from tests.unit.fake_dapr import FakeDapr
from tests.unit.log_schema import valid_line

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from types import ModuleType

CONTRACTS = Path(__file__).parent / "contracts"

# No folder of examples in the project, no time limit on a machine that is busy.
hypothesis.settings.register_profile("unit", database=None, deadline=None, max_examples=50)
hypothesis.settings.load_profile("unit")


@dataclass(frozen=True)
class Desk:
    """The modules generated from a contract of the tests' own, desk/v1/desk.proto mostly."""

    pb2: ModuleType
    grpc: ModuleType


@pytest.fixture(scope="session")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    """Return the code of the tests' own contract, generated as a project's is."""
    out = tmp_path_factory.mktemp("generated")
    generate([CONTRACTS], out)
    sys.path.insert(0, str(out))
    try:
        yield Desk(importlib.import_module("desk.v1.desk_pb2"), importlib.import_module("desk.v1.desk_pb2_grpc"))
    finally:
        sys.path.remove(str(out))


@pytest.fixture(scope="session")
def post(desk: Desk) -> Desk:
    """Return the modules generated from post/v1/post.proto, which has a listener of every sort."""
    return Desk(importlib.import_module("post.v1.post_pb2"), importlib.import_module("post.v1.post_pb2_grpc"))


@pytest.fixture
def socket_folder() -> Iterator[Path]:
    """Return a folder whose name is short enough for a Unix socket's path."""
    folder = tempfile.mkdtemp(prefix="ab")
    yield Path(folder)
    shutil.rmtree(folder)


@pytest.fixture
def settings(socket_folder: Path) -> Settings:
    """Return the settings of an app beside the fake sidecar."""
    return Settings(
        app_id="desk",
        app_port=0,
        dapr_grpc_endpoint=f"unix://{socket_folder}/dapr.sock",
        sidecar_timeout=5.0,
        drain_timeout=5.0,
        log_format="json",
        access_log=1.0,
    )


@pytest.fixture
async def dapr(settings: Settings) -> AsyncIterator[FakeDapr]:
    """Return a sidecar that answers, at the settings' address."""
    async with FakeDapr(settings.sidecar_address) as fake:
        yield fake


class Log:
    """What was logged, as a service's own sink writes it."""

    def __init__(self, stream: io.StringIO) -> None:
        self._stream = stream

    @property
    def text(self) -> str:
        flush_logs()  # what would be written within the next 5 ms
        return self._stream.getvalue()

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [valid_line(line) for line in self.text.splitlines()]

    def of(self, **fields: object) -> list[dict[str, Any]]:
        """Return the lines that have these fields."""
        return [line for line in self.lines if all(line.get(key) == value for key, value in fields.items())]

    def one(self, **fields: object) -> dict[str, Any]:
        """Return the one line that has these fields."""
        found = self.of(**fields)
        assert len(found) == 1, f"{len(found)} lines with {fields} in:\n{self.text}"
        return found[0]


@pytest.fixture
def set_up_logging() -> Iterator[Any]:
    """Return `configure_logging`, and put this process's logging back afterwards."""
    root = logging.getLogger()
    before = root.handlers[:], root.level
    yield configure_logging
    root.handlers[:], root.level = before
    logger.remove()
    logger.configure(extra={}, patcher=lambda _record: None)
    logger.add(sys.stderr, level="DEBUG")


@pytest.fixture
def log(settings: Settings, set_up_logging: Any) -> Log:
    """Return the log of a service with the test's settings, in JSON and at DEBUG."""
    stream = io.StringIO()
    set_up_logging(settings.model_copy(update={"log_level": "DEBUG"}), stream)
    return Log(stream)


@pytest.fixture
def grpc_addr(grpc_context: Any, socket_folder: Path) -> str:
    """Return the address that pytest-grpc-aio's fixtures use: a socket of this test's own, where its default races for ports."""
    grpc_context.addr = f"unix:{socket_folder}/app.sock"
    return grpc_context.addr


@pytest.fixture
def grpc_add_to_server(desk: Desk) -> Any:
    """Serve an implementation of desk.v1.Desk behind the border."""
    service = desk.pb2.DESCRIPTOR.services_by_name["Desk"]
    return lambda servicer, server: server.add_generic_rpc_handlers((rpc_handlers(service, servicer, chain()),))


@pytest.fixture
def grpc_stub_cls(desk: Desk) -> Any:
    return desk.grpc.DeskStub


@pytest.fixture
def served(desk: Desk, grpc_aio_stub: Any) -> Callable[..., Any]:
    """Return a context manager: a stub of a Desk, on a server of its own, whose methods are the functions given by name."""

    def serve(**handlers: Any) -> Any:
        servicer = desk.grpc.DeskServicer()
        for name, handler in handlers.items():
            setattr(servicer, name.capitalize(), handler)
        return grpc_aio_stub(servicer=servicer)

    return serve
