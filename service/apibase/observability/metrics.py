"""Metrics, as Prometheus reads them: what there is, and the endpoint. docs/metrics.md has them all.

Calls have the names and labels that gRPC's own ecosystem uses for servers and clients, so that dashboards which know those
work; what is of Dapr begins with `apibase_`. Every label value comes from a contract, a component's name or a fixed list, and
what an app's own code makes up is bounded: a caller can't make series.
"""

from __future__ import annotations

import functools
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Gauge, start_http_server
from prometheus_client.gc_collector import GCCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

from apibase.observability.series import Counts, Timings

if TYPE_CHECKING:
    from http.server import HTTPServer
    from threading import Thread

_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_AGES = (0.01, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 1800.0, 7200.0, 86400.0)
_RPC = ("grpc_type", "grpc_service", "grpc_method")
_DELIVERY = ("kind", "component", "source", "handler")
_BLOCK = ("building_block", "operation")


class Metrics:
    """Every metric of an app, in a registry of its own: two apps in one process don't share them."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.server_started = Counts("grpc_server_started", "Calls that began.", _RPC, registry)
        self.server_handled = Counts(
            "grpc_server_handled", "Calls that ended, by status code.", (*_RPC, "grpc_code"), registry
        )
        self.server_seconds = Timings("grpc_server_handling_seconds", "How long calls took.", _RPC, _SECONDS, registry)
        self.received = Counts("grpc_server_msg_received", "Messages of streams that came.", _RPC, registry)
        self.sent = Counts("grpc_server_msg_sent", "Messages of streams that were sent.", _RPC, registry)
        self.client_started = Counts("grpc_client_started", "Calls of other apps that began.", _RPC, registry)
        self.client_handled = Counts(
            "grpc_client_handled", "Calls of other apps that ended, by status code.", (*_RPC, "grpc_code"), registry
        )
        self.client_seconds = Timings(
            "grpc_client_handling_seconds", "How long calls of other apps took.", _RPC, _SECONDS, registry
        )
        self.block_calls = Counts(
            "apibase_building_block_calls",
            "Calls of the sidecar's API that ended, by building block and status code.",
            (*_BLOCK, "code"),
            registry,
        )
        self.block_seconds = Timings(
            "apibase_building_block_seconds", "How long calls of the sidecar's API took.", _BLOCK, _SECONDS, registry
        )
        self.delivered = Counts(
            "apibase_deliveries",
            "Events, bindings and jobs that were handled, by verdict or status code.",
            (*_DELIVERY, "outcome"),
            registry,
        )
        self.delivery_seconds = Timings(
            "apibase_delivery_seconds", "How long events, bindings and jobs took.", _DELIVERY, _SECONDS, registry
        )
        self.repeated = Counts(
            "apibase_repeated_events",
            "Events that came again after they had been handled, and were acknowledged without a call.",
            ("component", "source", "handler"),
            registry,
        )
        self.dead_letters = Counts(
            "apibase_dead_letters",
            "Events that can never be handled, by code and by where they ended.",
            ("component", "source", "handler", "code", "end"),
            registry,
        )
        self.event_age = Timings(
            "apibase_event_age_seconds",
            "How old events were when they came: the consumer's lag in time.",
            ("component", "source"),
            _AGES,
            registry,
        )
        self.loop_lag = Timings(
            "apibase_event_loop_lag_seconds",
            "How much later than asked for the event loop woke a timer: what handlers that block cost the others.",
            (),
            _SECONDS,
            registry,
        ).labels()
        self.in_flight = Gauge("apibase_in_flight", "Calls and deliveries at work.", ("kind",), registry=registry)
        self.ready = Gauge("apibase_ready", "Whether the app takes work: 1, or 0.", registry=registry)
        self._build = Gauge(
            "apibase_build_info",
            "Always 1; the labels say what runs.",
            ("version", "python", "app_id"),
            registry=registry,
        )
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        GCCollector(registry=registry)

    def say_build(self, app_id: str) -> None:
        """Set the build's labels."""
        self._build.labels(_own_version(), platform.python_version(), app_id).set(1)

    def serve(self, host: str, port: int) -> tuple[HTTPServer, Thread]:
        """Serve `/metrics` from a thread; port 0 picks a free one. Raises `OSError` where the port is taken."""
        return start_http_server(port, addr=host, registry=self.registry)


@functools.cache
def _own_version() -> str:
    try:
        return version("apibase")
    except PackageNotFoundError:  # a checkout that is not installed
        return "unknown"
