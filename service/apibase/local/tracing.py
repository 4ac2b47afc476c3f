"""Where the spans of a stack go: what its apps are told by OpenTelemetry's variables, and its sidecars by a Configuration."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_CONFIGURATION = """\
apiVersion: dapr.io/v1alpha1
kind: Configuration
metadata:
  name: apibase-tracing
spec:
  tracing: {}
"""


@dataclass(frozen=True)
class Tracing:
    """Nothing is traced where there is no `config`, by which the sidecars are told; the apps are told by `env`."""

    config: Path | None = None
    env: Mapping[str, str] = field(default_factory=dict)


def write_tracing(folder: Path, *, zipkin: str = "", otlp: str = "") -> Tracing:
    """Have every call traced, to a Zipkin, to a receiver of OTLP over gRPC without TLS, or to both; each is `host:port`.

    Writes the sidecars' Configuration into the folder, unless neither is given.
    """
    if not zipkin and not otlp:
        return Tracing()
    # Without a rate of their own the sidecars would sample one trace in 10,000; with a caller's decision they follow that.
    spec: dict[str, object] = {"samplingRate": "1"}
    env = {"OTEL_TRACES_SAMPLER": "parentbased_always_on"}
    exporters = []
    if zipkin:
        endpoint = f"http://{zipkin}/api/v2/spans"
        spec["zipkin"] = {"endpointAddress": endpoint}
        env["OTEL_EXPORTER_ZIPKIN_ENDPOINT"] = endpoint
        exporters.append("zipkin")
    if otlp:
        spec["otel"] = {"endpointAddress": otlp, "isSecure": False, "protocol": "grpc"}
        env["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"] = f"http://{otlp}"
        env["OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"] = "grpc"
        exporters.append("otlp")
    env["OTEL_TRACES_EXPORTER"] = ",".join(exporters)
    config = folder / "tracing.yaml"
    config.write_text(_CONFIGURATION.format(json.dumps(spec)))
    return Tracing(config, env)
