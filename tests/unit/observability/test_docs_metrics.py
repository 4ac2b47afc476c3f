"""docs/metrics.md names every metric with its labels, and every alert."""

from __future__ import annotations

import re
from pathlib import Path

from apibase.observability.metrics import Metrics
from tests.telemetry.queries import alert_rules

DOCUMENT = (Path(__file__).parents[3] / "docs" / "metrics.md").read_text(encoding="utf-8")
_SUFFIX = {"counter": "_total"}
_GAUGES = {"apibase_in_flight": {"kind"}, "apibase_ready": set(), "apibase_build_info": {"version", "python", "app_id"}}


def test_every_metric_is_there_with_its_type_and_labels() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \| ([^|]*)\|", DOCUMENT, re.MULTILINE)
    told = {name: (kind, set(re.findall(r"`(\w+)`", labels))) for name, kind, labels in rows}
    metrics = Metrics()
    metrics.say_build("desk")
    labels = {each.name: set(each.label_names) for each in vars(metrics).values() if hasattr(each, "label_names")}
    there = {
        f"{family.name}{_SUFFIX.get(family.type, '')}": (
            family.type,
            labels.get(family.name, _GAUGES.get(family.name, set())),
        )
        for family in metrics.registry.collect()
        if not family.name.startswith(("process_", "python_"))
    }

    assert told == there


def test_every_alert_is_there() -> None:
    assert re.findall(r"^\| `([A-Z]\w+)` \|", DOCUMENT, re.MULTILINE) == list(alert_rules())
