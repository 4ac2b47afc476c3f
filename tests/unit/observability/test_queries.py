"""The dashboard and the alerts: they ask for metrics and labels that there are, and do what their tests say."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import yaml

from apibase.observability.metrics import Metrics
from tests.telemetry.prometheus import prometheus_tool
from tests.telemetry.queries import ALERTS, FOLDER, alert_rules, dashboard, dashboard_queries, labels_of, metrics_of

_OF_TARGETS = {"app", "instance", "job", "replica", "le"}
_SUFFIXES = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count"), "gauge": ("",), "info": ("_info",)}


@pytest.fixture(scope="module")
def labels() -> dict[str, set[str]]:
    """Return the labels of every metric of an app, by its name in queries."""
    metrics = Metrics()
    metrics.say_build("desk")
    found: dict[str, set[str]] = {}
    for family in metrics.registry.collect():
        own = {label for sample in family.samples for label in sample.labels}
        for suffix in _SUFFIXES[family.type]:
            found[f"{family.name}{suffix}"] = own
    for each in (*vars(metrics).values(),):
        for name in getattr(each, "label_names", ()):
            for suffix in ("_total", "_bucket", "_sum", "_count"):
                found.setdefault(f"{each.name}{suffix}", set()).add(name)
    found["apibase_in_flight"] = {"kind"}
    return found


@pytest.mark.parametrize("name", [*dashboard_queries(), *alert_rules()])
def test_a_query_asks_for_what_there_is(labels: dict[str, set[str]], name: str) -> None:
    query = {**dashboard_queries(), **alert_rules()}[name]
    metrics = metrics_of(query)

    assert metrics <= labels.keys()
    assert labels_of(query) - _OF_TARGETS <= set().union(*(labels[metric] for metric in metrics))


def test_panels_have_numbers_of_their_own_and_do_not_overlap() -> None:
    panels = dashboard()["panels"]
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken, panel["title"]
        assert at["x"] + at["w"] <= 24
        taken |= cells
    assert len({panel["id"] for panel in panels}) == len(panels)


def test_every_alert_says_what_is_wrong_what_to_do_and_how_urgent_it_is() -> None:
    for group in yaml.safe_load(ALERTS.read_text(encoding="utf-8"))["groups"]:
        for rule in group["rules"]:
            assert rule["labels"]["severity"] in {"critical", "warning"}, rule["alert"]
            assert rule["annotations"].keys() == {"summary", "description"}, rule["alert"]


def test_every_alert_is_tried() -> None:
    tests = yaml.safe_load((FOLDER / "alerts_test.yml").read_text(encoding="utf-8"))["tests"]
    heard = {case["alertname"] for test in tests for case in test["alert_rule_test"] if case["exp_alerts"]}

    assert heard == alert_rules().keys()


@pytest.mark.full
@pytest.mark.req("R10.3")
@pytest.mark.parametrize("arguments", [["check", "rules", "alerts.yml"], ["test", "rules", "alerts_test.yml"]])
def test_promtool_passes_the_alerts(arguments: list[str]) -> None:
    done = promtool(*arguments)

    assert done.returncode == 0, done.stdout + done.stderr


def promtool(*arguments: str, cwd: Path = FOLDER) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [prometheus_tool("promtool"), *arguments], cwd=cwd, capture_output=True, text=True, check=False
    )
