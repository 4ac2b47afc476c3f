"""An embedded Kafka: one broker, its own controller, for all components that name one, on loopback ports."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from apibase.local.ports import LOOPBACK, PortPool
from apibase.local.probes import kafka_ok
from apibase.local.process import ProcessSpec
from apibase.local.service import Service

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from apibase.local.binaries import KafkaBinaries

_CLUSTER_ID = "YXBpYmFzZS1lbWJlZGRlZA"  # Sixteen bytes in base64, as Kafka wants them: "apibase-embedded".
_NODE = "1"
# A small heap, and the compiler and collector that start fastest.
_JVM = ("-Xms128m", "-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Djava.awt.headless=true")
# One of everything: nothing is copied, and no consumer group waits for a second member.
_SETTINGS = {
    "process.roles": "broker,controller",
    "node.id": _NODE,
    "controller.listener.names": "CONTROLLER",
    "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
    "auto.create.topics.enable": "true",
    "group.initial.rebalance.delay.ms": "0",
    "offsets.topic.num.partitions": "1",
    "offsets.topic.replication.factor": "1",
    "transaction.state.log.num.partitions": "1",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "share.coordinator.state.topic.num.partitions": "1",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    "log.cleaner.dedupe.buffer.size": "16777216",
}
_LOGGING = """\
status = WARN
appender.console.type = Console
appender.console.name = console
appender.console.layout.type = PatternLayout
appender.console.layout.pattern = %d{ISO8601} %-5p %c{1}: %m%n
rootLogger.level = INFO
rootLogger.appenderRef.console.ref = console
"""


@dataclass(frozen=True)
class KafkaPlan:
    """How to format the storage and how to run the broker. `initialise` is None where the data folder is formatted already."""

    initialise: ProcessSpec | None
    server: Service
    brokers: str


def plan_kafka(binaries: KafkaBinaries, ports: PortPool, data: Path, logs: Path, env: Mapping[str, str]) -> KafkaPlan:
    """Write the settings, for this run's ports; what topics hold stays in the data folder."""
    broker, controller = ports.take(), ports.take()
    storage = data / "log"
    storage.mkdir(parents=True, exist_ok=True)
    settings = data / "server.properties"
    listener = f"PLAINTEXT://{LOOPBACK}:{broker}"
    own = {
        "listeners": f"{listener},CONTROLLER://{LOOPBACK}:{controller}",
        "advertised.listeners": listener,
        "controller.quorum.voters": f"{_NODE}@{LOOPBACK}:{controller}",
        "log.dirs": str(storage),
    }
    settings.write_text("".join(f"{key}={_escaped(value)}\n" for key, value in (_SETTINGS | own).items()))
    logging = data / "log4j2.properties"
    logging.write_text(_LOGGING)
    java = (str(binaries.java), *_JVM, f"-Dlog4j2.configurationFile={logging}", "-cp", f"{binaries.jars}/*")
    log = logs / "kafka.log"
    initialise = None
    if not (storage / "meta.properties").exists():
        command = (*java, "kafka.tools.StorageTool", "format", "-t", _CLUSTER_ID, "-c", str(settings))
        # Left to finish, which takes a second or two: interrupted, it would leave a folder that is formatted by half.
        initialise = ProcessSpec(
            "kafka-storage", command, env, data, log, stop_signal=0, kill_signal=0, death_signal=0
        )  # fmt: skip
    spec = ProcessSpec("kafka", (*java, "kafka.Kafka", str(settings)), env, data, log)
    waits_for = "it does not name itself as a broker"
    server = Service(spec, partial(kafka_ok, broker), waits_for, within=60, ports=(broker, controller))
    return KafkaPlan(initialise, server, f"{LOOPBACK}:{broker}")


def _escaped(value: str) -> str:
    r"""Write a value as Java reads its properties: ASCII, everything else and the backslash as \uXXXX."""
    units = value.encode("utf-16-be")
    codes = [int.from_bytes(units[at : at + 2]) for at in range(0, len(units), 2)]
    return "".join(chr(code) if 0x20 <= code < 0x7F and chr(code) != "\\" else f"\\u{code:04x}" for code in codes)  # noqa: PLR2004
