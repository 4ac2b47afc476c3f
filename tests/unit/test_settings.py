"""Settings: their names in the environment, what wins, and what a wrong value is told."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from apibase import App, Settings

GIVEN = {
    "APP_ID": ("app_id", "orders", "orders"),
    "APP_HOST": ("app_host", "0.0.0.0", "0.0.0.0"),
    "APP_PORT": ("app_port", "6001", 6001),
    "DAPR_GRPC_ENDPOINT": ("dapr_grpc_endpoint", "sidecar:443", "sidecar:443"),
    "DAPR_HTTP_ENDPOINT": ("dapr_http_endpoint", "https://sidecar", "https://sidecar"),
    "DAPR_RUNTIME_HOST": ("dapr_host", "sidecar", "sidecar"),
    "DAPR_GRPC_PORT": ("dapr_grpc_port", "6002", 6002),
    "DAPR_HTTP_PORT": ("dapr_http_port", "6003", 6003),
    "APIBASE_SIDECAR_TIMEOUT": ("sidecar_timeout", "1.5", 1.5),
    "APIBASE_CALL_TIMEOUT": ("call_timeout", "2.5", 2.5),
    "APIBASE_DRAIN_TIMEOUT": ("drain_timeout", "0", 0.0),
    "APIBASE_SIDECAR_CA_FILE": ("sidecar_ca_file", __file__, Path(__file__)),
    "APIBASE_MAX_MESSAGE_BYTES": ("max_message_bytes", "1000", 1000),
    "APIBASE_DEDUPLICATION_STORE": ("deduplication_store", "statestore", "statestore"),
    "APIBASE_DEDUPLICATION_LEASE": ("deduplication_lease", "5", 5.0),
    "APIBASE_DEAD_LETTER_STORE": ("dead_letter_store", "statestore", "statestore"),
    "APIBASE_DEAD_LETTER_TTL": ("dead_letter_ttl", "60", 60.0),
    "APIBASE_MIDDLEWARE": ("middleware", "tracing, errors", ("tracing", "errors")),
    "APIBASE_OUTBOUND_MIDDLEWARE": ("outbound_middleware", "identity", ("identity",)),
    "APIBASE_RATE_LIMIT": ("rate_limit", "100", 100.0),
    "APIBASE_RATE_BURST": ("rate_burst", "10", 10),
    "APIBASE_CONCURRENCY_LIMIT": ("concurrency_limit", "50", 50),
    "APIBASE_ACCESS_LOG": ("access_log", "1", 1.0),
    "APIBASE_ACCESS_LOG_SLOW": ("access_log_slow", "0.2", 0.2),
    "APIBASE_METRICS_PORT": ("metrics_port", "9464", 9464),
    "APIBASE_METRICS_HOST": ("metrics_host", "0.0.0.0", "0.0.0.0"),
    "OTEL_TRACES_EXPORTER": ("traces_exporter", "otlp,zipkin", "otlp,zipkin"),
    "OTEL_EXPORTER_OTLP_PROTOCOL": ("otlp_protocol", "http/protobuf", "http/protobuf"),
    "OTEL_TRACES_SAMPLER": ("traces_sampler", "always_on", "always_on"),
    "OTEL_TRACES_SAMPLER_ARG": ("traces_sampler_ratio", "0.5", 0.5),
    "OTEL_SERVICE_NAME": ("otel_service_name", "shop", "shop"),
    "APIBASE_GRPC_THREADS": ("grpc_threads", "normal", "normal"),
    "APIBASE_REFLECTION": ("reflection", "true", True),
    "APIBASE_LOG_LEVEL": ("log_level", "warning", "WARNING"),
    "APIBASE_LOG_LEVELS": ("log_levels", "grpc=INFO,orders=debug", "grpc=INFO,orders=debug"),
    "APIBASE_LOG_LEVELS_FILE": ("log_levels_file", "/run/log-levels", "/run/log-levels"),
    "APIBASE_LOG_FORMAT": ("log_format", "text", "text"),
}


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [*GIVEN, "DAPR_APP_ID", "DAPR_API_TOKEN", "APP_API_TOKEN"]:
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("variable", GIVEN)
def test_every_setting_is_read_from_its_variable(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    field, text, value = GIVEN[variable]
    assert getattr(Settings(), field) != value
    monkeypatch.setenv(variable, text)

    assert getattr(Settings(), field) == value


def test_every_setting_is_in_this_test() -> None:
    assert {field for field, _, _ in GIVEN.values()} | {"dapr_api_token", "app_api_token"} == set(Settings.model_fields)


def test_every_setting_says_what_it_is() -> None:
    assert all(field.description for field in Settings.model_fields.values())


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("APP_PORT", "many"),
        ("APP_PORT", "70000"),
        ("DAPR_GRPC_PORT", "0"),
        ("APIBASE_SIDECAR_TIMEOUT", "0"),
        ("APIBASE_CALL_TIMEOUT", "-1"),
        ("APIBASE_CALL_TIMEOUT", "inf"),
        ("APIBASE_DRAIN_TIMEOUT", "-1"),
        ("APIBASE_DRAIN_TIMEOUT", "nan"),
        ("APIBASE_MAX_MESSAGE_BYTES", "0"),
        ("APIBASE_DEDUPLICATION_LEASE", "0"),
        ("APIBASE_DEAD_LETTER_TTL", "0"),
        ("APIBASE_RATE_LIMIT", "-1"),
        ("APIBASE_ACCESS_LOG", "2"),
        ("APIBASE_METRICS_PORT", "70000"),
        ("OTEL_TRACES_EXPORTER", "jaeger"),
        ("OTEL_TRACES_SAMPLER", "sometimes"),
        ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "smoke"),
        ("APIBASE_REFLECTION", "perhaps"),
        ("APIBASE_LOG_LEVEL", "loud"),
        ("APIBASE_LOG_LEVELS", "grpc=loud"),
        ("APIBASE_LOG_FORMAT", "xml"),
        ("DAPR_GRPC_ENDPOINT", "ftp://sidecar:21"),
        ("DAPR_GRPC_ENDPOINT", "sidecar:port"),
    ],
)
def test_a_wrong_value_names_its_variable(monkeypatch: pytest.MonkeyPatch, variable: str, value: str) -> None:
    monkeypatch.setenv(variable, value)

    with pytest.raises(ValidationError) as caught:
        Settings()

    (error,) = caught.value.errors()
    assert error["loc"] == (variable,)


def test_an_argument_wins_over_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("APP_PORT", "6001")

    assert Settings(app_port=6009).app_port == 6009


def test_daprs_own_name_of_the_app_id_is_read_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAPR_APP_ID", "payments")
    assert Settings().app_id == "payments"

    monkeypatch.setenv("APP_ID", "orders")
    assert Settings().app_id == "orders"


@pytest.mark.req("R1.1")
@pytest.mark.parametrize(
    ("environment", "address"),
    [
        ({}, "127.0.0.1:50001"),
        ({"DAPR_GRPC_PORT": "6002"}, "127.0.0.1:6002"),
        ({"DAPR_RUNTIME_HOST": "sidecar", "DAPR_GRPC_PORT": "6002"}, "sidecar:6002"),
        ({"DAPR_GRPC_ENDPOINT": "unix:///run/dapr.sock", "DAPR_GRPC_PORT": "6002"}, "unix:///run/dapr.sock"),
        ({"DAPR_GRPC_ENDPOINT": "dns:sidecar:443?tls=true"}, "dns:sidecar:443?tls=true"),
        ({"DAPR_GRPC_ENDPOINT": ""}, "127.0.0.1:50001"),
    ],
)
def test_the_sidecars_address_is_the_endpoint_or_host_and_port(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], address: str
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)

    assert Settings().sidecar_address == address
    assert App().sidecar.address == address


@pytest.mark.req("R13.4")
def test_the_token_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAPR_API_TOKEN", "hunter2")
    settings = Settings()

    assert settings.dapr_api_token is not None
    assert settings.dapr_api_token.get_secret_value() == "hunter2"
    assert "hunter2" not in f"{settings} {settings!r} {settings.model_dump()} {settings.model_dump_json()}"


def test_settings_do_not_change() -> None:
    with pytest.raises(ValidationError):
        Settings().app_port = 1
