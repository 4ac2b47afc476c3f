"""What a service reads from its environment, in one place.

Dapr's own variables keep Dapr's names (the CLI and the Kubernetes injector set them); ours begin with `APIBASE_`.
"""

from __future__ import annotations

import warnings
from typing import Literal

from dapr.conf.helpers import GrpcEndpoint
from pydantic import AliasChoices, Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

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
    reflection: bool = Field(default=False, validation_alias="APIBASE_REFLECTION", description="Serve gRPC reflection.")
    log_level: str = Field("INFO", validation_alias="APIBASE_LOG_LEVEL", description="Lowest level that is logged.")
    log_format: Literal["auto", "json", "text"] = Field(
        "auto",
        validation_alias="APIBASE_LOG_FORMAT",
        description="`json` lines, `text` for people; `auto`: text on a terminal.",
    )

    @field_validator("dapr_grpc_endpoint")
    @classmethod
    def _readable_endpoint(cls, value: str | None) -> str | None:
        if value:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # of https://, which Dapr's own tools still set
                GrpcEndpoint(value)
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

    @property
    def sidecar_address(self) -> str:
        """The sidecar's gRPC address as a person or the Dapr SDK writes it."""
        return self.dapr_grpc_endpoint or f"{self.dapr_host}:{self.dapr_grpc_port}"
