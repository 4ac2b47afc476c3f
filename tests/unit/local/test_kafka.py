"""The embedded Kafka: its settings, its one formatting, and when it counts as ready."""

from __future__ import annotations

import asyncio
import struct
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from apibase.local.backends import Backend, address_variables, to_embed
from apibase.local.backends.kafka import KafkaPlan, plan_kafka
from apibase.local.binaries import KafkaBinaries
from apibase.local.components import Component
from apibase.local.ports import PortPool
from apibase.local.probes import kafka_ok

if TYPE_CHECKING:
    from collections.abc import Iterator

BINARIES = KafkaBinaries("4.1.1", "test", Path("/java"), Path("/jars"))


@pytest.fixture
def ports() -> Iterator[PortPool]:
    pool = PortPool()
    yield pool
    pool.close()


def plan(ports: PortPool, data: Path) -> KafkaPlan:
    return plan_kafka(BINARIES, ports, data, data.parent, {"A": "b"})


def settings(data: Path) -> dict[str, str]:
    return dict(line.split("=", 1) for line in (data / "server.properties").read_text("ascii").splitlines())


@pytest.mark.parametrize("kind", ["bindings.kafka", "pubsub.kafka"])
def test_a_component_whose_brokers_are_read_from_an_unset_variable_gets_one(kind: str) -> None:
    component = Component(Path("kafka.yaml"), "log", kind, frozenset(), {"brokers": "KAFKA", "saslPassword": "SECRET"})
    variables = address_variables([component])
    assert variables == {"KAFKA": Backend.KAFKA}
    assert to_embed(variables, {}) == variables
    assert to_embed(variables, {"KAFKA": "elsewhere:9092"}) == {}


def test_everything_listens_on_the_loopback_address_and_the_broker_is_the_address(
    ports: PortPool, tmp_path: Path
) -> None:
    planned = plan(ports, tmp_path / "kafka")
    broker, controller = planned.server.ports
    assert planned.brokers == f"127.0.0.1:{broker}"
    found = settings(tmp_path / "kafka")
    assert found["listeners"] == f"PLAINTEXT://127.0.0.1:{broker},CONTROLLER://127.0.0.1:{controller}"
    assert found["advertised.listeners"] == f"PLAINTEXT://127.0.0.1:{broker}"
    assert found["controller.quorum.voters"] == f"1@127.0.0.1:{controller}"
    assert found["log.dirs"] == str(tmp_path / "kafka/log")
    assert planned.server.spec.command[0] == "/java"
    assert {"-Xmx512m", "/jars/*", "kafka.Kafka"} < set(planned.server.spec.command)


def test_storage_is_formatted_once_and_left_to_finish(ports: PortPool, tmp_path: Path) -> None:
    initialise = plan(ports, tmp_path / "kafka").initialise
    assert initialise is not None
    assert "kafka.tools.StorageTool" in initialise.command
    assert (initialise.stop_signal, initialise.kill_signal, initialise.death_signal) == (0, 0, 0)
    (tmp_path / "kafka/log/meta.properties").touch()
    assert plan(ports, tmp_path / "kafka").initialise is None


def test_a_folder_is_written_as_java_reads_its_properties(ports: PortPool, tmp_path: Path) -> None:
    plan(ports, tmp_path / "Gemüse\\🍅")
    written = settings(tmp_path / "Gemüse\\🍅")["log.dirs"]
    assert written == f"{tmp_path}/Gem\\u00fcse\\u005c\\ud83c\\udf45/log"


@pytest.mark.parametrize(
    ("answer", "ready"),
    [
        (struct.pack("!iii", 60, 1, 1) + b"rest", True),
        (struct.pack("!iii", 60, 1, 0), False),  # It answers, but takes no work yet.
        (struct.pack("!iii", 60, 2, 1), False),
        (b"HTTP", False),
        (b"", False),
    ],
)
async def test_kafka_is_ready_when_it_names_a_broker(answer: bytes, *, ready: bool) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        size = int.from_bytes(await reader.readexactly(4))
        assert len(await reader.readexactly(size)) == size
        writer.write(answer)
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        assert await kafka_ok(server.sockets[0].getsockname()[1]) is ready


async def test_kafka_is_not_ready_when_nothing_listens(ports: PortPool) -> None:
    assert not await kafka_ok(ports.take())
