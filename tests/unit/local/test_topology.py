"""Reading Dapr's multi-app run format: what Dapr's CLI reads, and errors where it is silent."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

from apibase.local.errors import TopologyError
from apibase.local.topology import FixedPorts, HealthCheck, read_topology


@pytest.fixture
def project(tmp_path: Path) -> Path:
    for folder in ("compose/components", "service/orders", "own"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "compose/config.yaml").touch()
    return tmp_path


def write(project: Path, text: str) -> Path:
    file = project / "compose/dapr.yaml"
    file.write_text(textwrap.dedent(text))
    return file


def test_a_field_of_an_app_wins_over_the_common_one(project: Path) -> None:
    file = write(
        project,
        """
        version: 1
        common:
          resourcesPath: components
          configFilePath: config.yaml
          appProtocol: grpc
          logLevel: debug
          appHealthProbeInterval: 9
          env: {A: common, B: common}
        apps:
          - appID: orders
            appDirPath: ../service/orders
            appPort: 7001
            command: [python, -m, orders, 5]
            logLevel: warn
            enableAppHealthCheck: true
            appHealthProbeTimeout: 300
            maxBodySize: 8Mi
            env: {B: own, C: 1, D: true}
        """,
    )
    (app,) = read_topology(file).apps
    assert (app.app_id, app.folder, app.protocol) == ("orders", project / "service/orders", "grpc")
    assert app.command == ("python", "-m", "orders", "5")
    assert app.resources == (project / "compose/components",)
    assert app.config == project / "compose/config.yaml"
    assert app.env == {"A": "common", "B": "own", "C": "1", "D": "true"}
    assert app.log_level == "warn"
    assert app.health == HealthCheck(interval_seconds=9, timeout_milliseconds=300)
    assert app.max_body_size == "8Mi"
    assert app.ports == FixedPorts(app=7001)
    assert app.started_by_us
    assert not app.calls_only


def test_paths_of_an_app_start_at_its_own_folder(project: Path) -> None:
    file = write(project, "{version: 1, apps: [{appDirPath: .., resourcesPaths: [own, compose/components]}]}")
    (app,) = read_topology(file).apps
    assert app.resources == (project / "own", project / "compose/components")


def test_resources_in_the_apps_dapr_folder_win_over_the_common_ones(project: Path) -> None:
    local = project / "service/orders/.dapr"
    (local / "resources").mkdir(parents=True)
    (local / "config.yaml").touch()
    file = write(
        project,
        """
        version: 1
        common: {resourcesPaths: [components], configFilePath: config.yaml}
        apps: [{appDirPath: ../service/orders}]
        """,
    )
    (app,) = read_topology(file).apps
    assert (app.app_id, app.resources, app.config) == ("orders", (local / "resources",), local / "config.yaml")


def test_an_app_without_command_and_port_only_calls(project: Path) -> None:
    file = write(
        project, "{version: 1, apps: [{appID: shop, appDirPath: ..}, {appID: web, appDirPath: .., appPort: 80}]}"
    )
    shop, web = read_topology(file).apps
    assert shop.calls_only
    assert not web.calls_only
    assert not web.started_by_us


def test_app_ssl_makes_the_protocol_the_one_with_tls(project: Path) -> None:
    file = write(project, "{version: 1, common: {appSSL: true, appProtocol: grpc}, apps: [{appDirPath: ..}]}")
    assert read_topology(file).apps[0].protocol == "grpcs"


@pytest.mark.parametrize(
    ("text", "field", "problem"),
    [
        ("{version: 2, apps: [{appDirPath: ..}]}", "version", "expected 1"),
        ("{apps: [{appDirPath: ..}]}", "version", "expected 1"),
        ("{version: 1, apps: []}", "apps", "at least one app"),
        ("{version: 1, appz: []}", "appz", "did you mean apps?"),
        ("{version: 1, apps: [{appID: a}]}", "apps[0].appDirPath", "required"),
        ("{version: 1, apps: [{appID: a, appDirPath: nowhere}]}", "apps[0].appDirPath", "nowhere is not a folder"),
        ("{version: 1, apps: [{appID: a, appDirPath: .., appPrt: 1}]}", "apps[0].appPrt", "did you mean appPort?"),
        ("{version: 1, apps: [{appID: a, appDirPath: .., appPort: '1'}]}", "apps[0] (a).appPort", "a whole number"),
        ("{version: 1, apps: [{appID: a, appDirPath: .., appPort: 70000}]}", "apps[0] (a).appPort", "between 1 and"),
        (
            "{version: 1, apps: [{appID: a, appDirPath: .., appProtocol: gprc}]}",
            "apps[0] (a).appProtocol",
            "one of grpc",
        ),
        ("{version: 1, apps: [{appID: a, appDirPath: .., command: python}]}", "apps[0] (a).command", "expected a list"),
        (
            "{version: 1, apps: [{appID: a, appDirPath: .., command: [{}]}]}",
            "apps[0] (a).command[0]",
            "expected a string",
        ),
        ("{version: 1, apps: [{appID: a, appDirPath: .., env: {A: [1]}}]}", "apps[0] (a).env.A", "found a list"),
        ("{version: 1, apps: [{appDirPath: .., enableAppHealthCheck: 1}]}", "enableAppHealthCheck", "true or false"),
        (
            "{version: 1, common: {resourcesPath: gone}, apps: [{appDirPath: ..}]}",
            "common.resourcesPath",
            "not a folder",
        ),
        (
            "{version: 1, apps: [{appDirPath: .., appID: a}, {appDirPath: .., appID: a}]}",
            "apps",
            "two apps have the appID",
        ),
        ("[1]", "", "expected a mapping"),
        ("{version: 1", "", "expected ',' or '}'"),
    ],
)
def test_what_is_wrong_is_named_by_file_and_field(project: Path, text: str, field: str, problem: str) -> None:
    file = write(project, text)
    with pytest.raises(TopologyError) as caught:
        read_topology(file)
    assert str(caught.value).startswith(f"{file}: ")
    assert field in str(caught.value)
    assert problem in str(caught.value)


def test_a_missing_file_says_how_to_name_another(tmp_path: Path) -> None:
    with pytest.raises(TopologyError, match="--file"):
        read_topology(tmp_path / "dapr.yaml")


def test_an_unknown_app_is_answered_with_those_there_are(project: Path) -> None:
    file = write(project, "{version: 1, apps: [{appID: a, appDirPath: ..}, {appID: b, appDirPath: ..}]}")
    with pytest.raises(TopologyError, match="no app 'c'; there are a, b"):
        read_topology(file).app("c")
