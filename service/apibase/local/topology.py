"""Which apps there are and how each wants its sidecar: Dapr's multi-app run format, read strictly.

The format is that of `dapr run --run-file`. Paths of the common section, and each `appDirPath`, start at the file's folder;
an app's other paths start at its `appDirPath`. Resources and configuration come from the app's own fields, else from
`.dapr/` in its folder, else from the common section. What Dapr's CLI ignores in silence, a misspelt field, is an error here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

import yaml

from apibase.local.errors import TopologyError
from apibase.local.topology_fields import Fields

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_T = TypeVar("_T")
PROTOCOLS = ("grpc", "grpcs", "http", "https", "h2c")
LOG_LEVELS = ("debug", "info", "warn", "error", "fatal")
LOG_DESTINATIONS = ("file", "console", "fileAndConsole")
_SHARED = frozenset({
    "apiListenAddresses", "appHealthCheckPath", "appHealthProbeInterval", "appHealthProbeTimeout", "appHealthThreshold",
    "appLogDestination", "appMaxConcurrency", "appProtocol", "appSSL", "configFilePath", "daprdLogDestination",
    "enableApiLogging", "enableAppHealthCheck", "enableProfiling", "env", "logLevel", "maxBodySize", "placementHostAddress",
    "readBufferSize", "resourcesPath", "resourcesPaths", "runtimePath", "schedulerHostAddress",
})  # fmt: skip
_APP = _SHARED | {
    "appChannelAddress", "appDirPath", "appID", "appPort", "command", "containerImage", "containerImagePullPolicy",
    "createService", "daprGRPCPort", "daprHTTPPort", "daprInternalGRPCPort", "metricsPort", "profilePort",
    "unixDomainSocket",
}  # fmt: skip


@dataclass(frozen=True)
class HealthCheck:
    """How daprd probes its app; None leaves daprd's default. The interval is in seconds, the timeout in milliseconds."""

    path: str | None = None
    interval_seconds: int | None = None
    timeout_milliseconds: int | None = None
    threshold: int | None = None


@dataclass(frozen=True)
class FixedPorts:
    """The ports that the file asks for; used only on request, because two stacks can't share them."""

    app: int | None = None
    http: int | None = None
    grpc: int | None = None
    internal: int | None = None
    metrics: int | None = None


@dataclass(frozen=True)
class AppSpec:
    """One app and its sidecar, with the common section merged in. Paths are absolute."""

    app_id: str
    folder: Path
    protocol: str = "http"
    command: tuple[str, ...] = ()
    ports: FixedPorts = FixedPorts()
    env: Mapping[str, str] = field(default_factory=dict)
    resources: tuple[Path, ...] = ()
    config: Path | None = None
    health: HealthCheck | None = None
    log_level: str | None = None
    max_concurrency: int | None = None
    max_body_size: str | None = None
    read_buffer_size: str | None = None
    api_logging: bool = False
    app_log: str = "fileAndConsole"
    sidecar_log: str = "file"

    @property
    def started_by_us(self) -> bool:
        """Whether there is a command to start; else the app, if there is one, is somebody else's to start."""
        return bool(self.command)

    @property
    def calls_only(self) -> bool:
        """No command and no port: a sidecar for whoever wants to call."""
        return not self.command and self.ports.app is None

    @property
    def is_grpc(self) -> bool:
        """Whether daprd speaks gRPC to it."""
        return self.protocol in {"grpc", "grpcs"}


@dataclass(frozen=True)
class Topology:
    """The apps of a file, in its order."""

    file: Path
    apps: tuple[AppSpec, ...]

    def app(self, app_id: str) -> AppSpec:
        """The app of this id; an error that lists those there are."""
        for app in self.apps:
            if app.app_id == app_id:
                return app
        message = f"{self.file}: no app {app_id!r}; there are {', '.join(app.app_id for app in self.apps)}"
        raise TopologyError(message)


def read_topology(file: Path) -> Topology:
    """Read a multi-app run file; `TopologyError` names the file and the field."""
    file = file.resolve()
    document = _load(file)
    root = Fields(file, "", document, {"version", "name", "common", "apps"})
    if root.number("version") != 1:
        raise root.error("version", "expected 1, the only version of the format")
    root.text("name")
    values = document.get("common")
    common = Fields(file, "common", values, _SHARED)
    entries = document.get("apps")
    if not isinstance(entries, list) or not entries:
        raise root.error("apps", "expected a list with at least one app")
    apps = tuple(_app(file, index, entry, common) for index, entry in enumerate(entries))
    seen: set[str] = set()
    for app in apps:
        if app.app_id in seen:
            raise root.error("apps", f"two apps have the appID {app.app_id!r}")
        seen.add(app.app_id)
    return Topology(file=file, apps=apps)


def _load(file: Path) -> dict[str, object]:
    try:
        document = yaml.safe_load(file.read_text())
    except FileNotFoundError as error:
        message = f"{file} does not exist; name a multi-app run file with --file, or set tool.apibase.topology"
        raise TopologyError(message) from error
    except (OSError, yaml.YAMLError) as error:
        message = f"{file}: {error}"
        raise TopologyError(message) from error
    if not isinstance(document, dict):
        message = f"{file}: expected a mapping with version, common and apps"
        raise TopologyError(message)
    return document


def _app(file: Path, index: int, entry: object, common: Fields) -> AppSpec:
    own = Fields(file, f"apps[{index}]", entry, _APP)
    base = file.parent
    folder = own.path("appDirPath", base, folder=True)
    if folder is None:
        raise own.error("appDirPath", "required")
    app_id = own.text("appID") or folder.name
    own = Fields(file, f"apps[{index}] ({app_id})", entry, _APP)
    protocol = own.choice("appProtocol", PROTOCOLS) or common.choice("appProtocol", PROTOCOLS) or "http"
    if (_first(own.flag("appSSL"), common.flag("appSSL")) or False) and protocol in {"grpc", "http"}:
        protocol += "s"
    return AppSpec(
        app_id=app_id,
        folder=folder,
        protocol=protocol,
        command=own.texts("command"),
        ports=_ports(own),
        env={**common.variables("env"), **own.variables("env")},
        resources=_resources(own, common, folder, base),
        config=_config(own, common, folder, base),
        health=_health(own, common),
        log_level=own.choice("logLevel", LOG_LEVELS) or common.choice("logLevel", LOG_LEVELS),
        max_concurrency=_first(own.number("appMaxConcurrency"), common.number("appMaxConcurrency")),
        max_body_size=own.text("maxBodySize") or common.text("maxBodySize"),
        read_buffer_size=own.text("readBufferSize") or common.text("readBufferSize"),
        api_logging=_first(own.flag("enableApiLogging"), common.flag("enableApiLogging")) or False,
        app_log=_log_destination("appLogDestination", own, common) or "fileAndConsole",
        sidecar_log=_log_destination("daprdLogDestination", own, common) or "file",
    )


def _ports(own: Fields) -> FixedPorts:
    return FixedPorts(
        app=own.port("appPort"),
        http=own.port("daprHTTPPort"),
        grpc=own.port("daprGRPCPort"),
        internal=own.port("daprInternalGRPCPort"),
        metrics=own.port("metricsPort"),
    )


def _health(own: Fields, common: Fields) -> HealthCheck | None:
    if not _first(own.flag("enableAppHealthCheck"), common.flag("enableAppHealthCheck")):
        return None
    return HealthCheck(
        path=own.text("appHealthCheckPath") or common.text("appHealthCheckPath"),
        interval_seconds=_first(own.number("appHealthProbeInterval"), common.number("appHealthProbeInterval")),
        timeout_milliseconds=_first(own.number("appHealthProbeTimeout"), common.number("appHealthProbeTimeout")),
        threshold=_first(own.number("appHealthThreshold"), common.number("appHealthThreshold")),
    )


def _resources(own: Fields, common: Fields, folder: Path, base: Path) -> tuple[Path, ...]:
    mine = _folders(own, folder)
    if mine:
        return mine
    local = folder / ".dapr" / "resources"
    return (local,) if local.is_dir() else _folders(common, base)


def _folders(fields: Fields, base: Path) -> tuple[Path, ...]:
    single = fields.path("resourcesPath", base, folder=True)
    return (*fields.folders("resourcesPaths", base), *((single,) if single else ()))


def _config(own: Fields, common: Fields, folder: Path, base: Path) -> Path | None:
    local = folder / ".dapr" / "config.yaml"
    return own.path("configFilePath", folder) or (local if local.is_file() else common.path("configFilePath", base))


def _log_destination(name: str, own: Fields, common: Fields) -> str | None:
    return own.choice(name, LOG_DESTINATIONS) or common.choice(name, LOG_DESTINATIONS)


def _first(*values: _T | None) -> _T | None:
    return next((value for value in values if value is not None), None)
