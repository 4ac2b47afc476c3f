"""What a service reads from its environment, in one place.

Dapr's own variables keep Dapr's names (the CLI and the Kubernetes injector set them); ours begin with `APIBASE_`.
"""

from __future__ import annotations

import warnings
from typing import Annotated, Literal

from dapr.conf.helpers import GrpcEndpoint
from pydantic import AliasChoices, Field, FilePath, SecretStr, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

DEFAULT_MAX_BYTES = 4 * 1024 * 1024
"""What gRPC and daprd take too, unless told otherwise."""


class Settings(BaseSettings):
    """Settings of a service, read from the environment when constructed; arguments win over variables."""

    model_config = SettingsConfigDict(frozen=True, populate_by_name=True, extra="ignore")

    app_id: str = Field(
        "app", validation_alias=AliasChoices("APP_ID", "DAPR_APP_ID"), description="This app's Dapr app id."
    )
    app_host: str = Field(
        "127.0.0.1",
        validation_alias="APP_HOST",
        description="Address that the app channel listens on. In a pod with a gRPC probe: 0.0.0.0.",
    )
    app_port: int = Field(
        50051, ge=0, le=65535, validation_alias="APP_PORT", description="Port of the app channel; 0 picks a free one."
    )
    dapr_grpc_endpoint: str | None = Field(
        None,
        validation_alias="DAPR_GRPC_ENDPOINT",
        description="Endpoint of the sidecar's gRPC API (`https://host:port`, `unix:///path`, `host:port`); wins over host and port.",
    )
    sidecar_ca_file: FilePath | None = Field(
        None,
        validation_alias="APIBASE_SIDECAR_CA_FILE",
        description="File of the authorities (PEM) that a sidecar behind TLS is trusted by; unset: gRPC's own.",
    )
    dapr_http_endpoint: str | None = Field(
        None,
        validation_alias="DAPR_HTTP_ENDPOINT",
        pattern="^$|^(https?|unix)://",
        description="Endpoint of the sidecar's HTTP API (`http://host:port`, `https://host`, `unix:///path`); wins over host and port.",
    )
    dapr_host: str = Field("127.0.0.1", validation_alias="DAPR_RUNTIME_HOST", description="Host of the sidecar.")
    dapr_grpc_port: int = Field(
        50001, ge=1, le=65535, validation_alias="DAPR_GRPC_PORT", description="Port of the sidecar's gRPC API."
    )
    dapr_http_port: int = Field(
        3500, ge=1, le=65535, validation_alias="DAPR_HTTP_PORT", description="Port of the sidecar's HTTP API."
    )
    dapr_api_token: SecretStr | None = Field(
        None, validation_alias="DAPR_API_TOKEN", description="Token that the sidecar asks of its callers."
    )
    app_api_token: SecretStr | None = Field(
        None, validation_alias="APP_API_TOKEN", description="Token that daprd proves itself with to this app."
    )
    sidecar_timeout: float = Field(
        60.0,
        gt=0,
        allow_inf_nan=False,
        validation_alias="APIBASE_SIDECAR_TIMEOUT",
        description="Seconds to wait for the sidecar at start.",
    )
    call_timeout: float = Field(
        10.0,
        gt=0,
        allow_inf_nan=False,
        validation_alias="APIBASE_CALL_TIMEOUT",
        description="Deadline in seconds of an outbound unary call that sets none.",
    )
    drain_timeout: float = Field(
        20.0,
        ge=0,
        allow_inf_nan=False,
        validation_alias="APIBASE_DRAIN_TIMEOUT",
        description="Seconds that calls in flight get to finish at shutdown.",
    )
    max_message_bytes: int = Field(
        DEFAULT_MAX_BYTES,
        gt=0,
        validation_alias="APIBASE_MAX_MESSAGE_BYTES",
        description="Largest message in and out, and largest data of an event, in bytes.",
    )
    deduplication_store: str = Field(
        "",
        validation_alias="APIBASE_DEDUPLICATION_STORE",
        description="State store component that remembers handled events, for topics with `deduplicate_for`.",
    )
    deduplication_lease: float = Field(
        30.0,
        ge=1,
        allow_inf_nan=False,
        validation_alias="APIBASE_DEDUPLICATION_LEASE",
        description="Seconds after which an event that a crashed handler left may be handled again.",
    )
    dead_letter_store: str = Field(
        "",
        validation_alias="APIBASE_DEAD_LETTER_STORE",
        description="State store component that dead letters are archived in, for `apibase dlq`; empty: they are not.",
    )
    dead_letter_ttl: float = Field(
        30 * 24 * 3600.0,
        ge=1,
        allow_inf_nan=False,
        validation_alias="APIBASE_DEAD_LETTER_TTL",
        description="Seconds that an archived dead letter is kept.",
    )
    middleware: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        validation_alias="APIBASE_MIDDLEWARE",
        description="What every inbound call passes, by name, the outermost first, with commas between; empty: all, as they come.",
    )
    outbound_middleware: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        validation_alias="APIBASE_OUTBOUND_MIDDLEWARE",
        description="What every outbound call passes, likewise.",
    )
    rate_limit: float = Field(
        0.0,
        ge=0,
        allow_inf_nan=False,
        validation_alias="APIBASE_RATE_LIMIT",
        description="Calls of other apps that are taken in a second; 0 is no limit.",
    )
    rate_burst: int = Field(
        0,
        ge=0,
        validation_alias="APIBASE_RATE_BURST",
        description="Calls that are taken at one instant under a rate limit; 0: as many as in a second.",
    )
    concurrency_limit: int = Field(
        0,
        ge=0,
        validation_alias="APIBASE_CONCURRENCY_LIMIT",
        description="Calls of other apps that are at work at once; 0 is no limit.",
    )
    access_log: float = Field(
        0.01,
        ge=0,
        le=1,
        validation_alias="APIBASE_ACCESS_LOG",
        description="Share of the calls that get a line in the log though they ended well and in time; 1: every call.",
    )
    access_log_slow: float = Field(
        1.0,
        ge=0,
        allow_inf_nan=False,
        validation_alias="APIBASE_ACCESS_LOG_SLOW",
        description="Seconds from which on a call is logged because it is slow.",
    )
    metrics_port: int | None = Field(
        None,
        ge=0,
        le=65535,
        validation_alias="APIBASE_METRICS_PORT",
        description="Port of Prometheus' `/metrics`; 0 picks a free one; unset: there is none.",
    )
    metrics_host: str = Field(
        "127.0.0.1",
        validation_alias="APIBASE_METRICS_HOST",
        description="Address of `/metrics`. In a pod: 0.0.0.0.",
    )
    traces_exporter: str = Field(
        "none",
        validation_alias="OTEL_TRACES_EXPORTER",
        description="Where spans go: `otlp`, `zipkin`, both with a comma between, or `none`. Endpoints are OpenTelemetry's own variables.",
    )
    otlp_protocol: Literal["grpc", "http/protobuf"] = Field(
        "grpc",
        validation_alias=AliasChoices("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"),
        description="How spans go to OTLP.",
    )
    traces_sampler: Literal[
        "always_on",
        "always_off",
        "traceidratio",
        "parentbased_always_on",
        "parentbased_always_off",
        "parentbased_traceidratio",
    ] = Field(
        "parentbased_traceidratio",
        validation_alias="OTEL_TRACES_SAMPLER",
        description="Which calls are sampled. `parentbased_…`: as the caller's trace is; the rest says what of those without one.",
    )
    traces_sampler_ratio: float = Field(
        0.01, ge=0, le=1, validation_alias="OTEL_TRACES_SAMPLER_ARG", description="The share for `traceidratio`."
    )
    otel_service_name: str = Field(
        "", validation_alias="OTEL_SERVICE_NAME", description="Name of the service in traces; empty: the app id."
    )
    grpc_threads: Literal["batch", "normal"] = Field(
        "batch",
        validation_alias="APIBASE_GRPC_THREADS",
        description="How Linux schedules gRPC's own threads: `batch` lets them not interrupt the event loop; `normal` changes nothing.",
    )
    reflection: bool = Field(default=False, validation_alias="APIBASE_REFLECTION", description="Serve gRPC reflection.")
    log_level: str = Field("INFO", validation_alias="APIBASE_LOG_LEVEL", description="Lowest level that is logged.")
    log_levels: str = Field(
        "",
        validation_alias="APIBASE_LOG_LEVELS",
        description="Levels by module, with commas between: `apibase.delivery=DEBUG,grpc=INFO`.",
    )
    log_levels_file: str = Field(
        "",
        validation_alias="APIBASE_LOG_LEVELS_FILE",
        description="File of levels by module that hold while they stand in it; it is read again when it changes.",
    )
    log_format: Literal["auto", "json", "text"] = Field(
        "auto",
        validation_alias="APIBASE_LOG_FORMAT",
        description="`json` lines, `text` for people; `auto`: text on a terminal.",
    )

    @field_validator("dapr_grpc_endpoint")
    @classmethod
    def _readable_endpoint(cls, value: str | None) -> str | None:
        if value:
            _endpoint(value)
        return value

    @field_validator("middleware", "outbound_middleware", mode="before")
    @classmethod
    def _names(cls, value: object) -> object:
        return tuple(name.strip() for name in value.split(",") if name.strip()) if isinstance(value, str) else value

    @field_validator("traces_exporter")
    @classmethod
    def _known_exporters(cls, value: str) -> str:
        unknown = {name.strip() for name in value.split(",")} - {"otlp", "zipkin", "none", ""}
        if unknown:
            message = f"must be otlp, zipkin or none, not {', '.join(sorted(unknown))}"
            raise ValueError(message)
        return value

    @field_validator("log_level")
    @classmethod
    def _known_level(cls, value: str) -> str:
        level = value.upper()
        known = ("TRACE", "DEBUG", "INFO", "SUCCESS", "WARNING", "ERROR", "CRITICAL")
        if level not in known:
            message = f"must be one of {', '.join(known)}"
            raise ValueError(message)
        return level

    @field_validator("log_levels")
    @classmethod
    def _known_levels(cls, value: str) -> str:
        from apibase.observability.log_levels import parse_levels  # noqa: PLC0415 - tracing need not load for a setting

        parse_levels(value)
        return value

    @property
    def traces_exporters(self) -> tuple[str, ...]:
        """The names of the exporters; none where no spans are made."""
        names = (name.strip() for name in self.traces_exporter.split(","))
        return tuple(dict.fromkeys(name for name in names if name not in {"", "none"}))

    @property
    def sidecar_http_address(self) -> str:
        """The sidecar's HTTP API: a URL, or `unix://` and a path."""
        return self.dapr_http_endpoint or f"http://{self.dapr_host}:{self.dapr_http_port}"

    @property
    def sidecar_address(self) -> str:
        """The sidecar's gRPC address as a person or the Dapr SDK writes it."""
        return self.dapr_grpc_endpoint or f"{self.dapr_host}:{self.dapr_grpc_port}"

    @property
    def sidecar_endpoint(self) -> GrpcEndpoint:
        """The same, taken apart."""
        return _endpoint(self.sidecar_address)


def _endpoint(address: str) -> GrpcEndpoint:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of https://, which Dapr's own tools still set
        return GrpcEndpoint(address)
